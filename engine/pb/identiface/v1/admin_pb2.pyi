from engine.pb.identiface.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Agreement(_message.Message):
    __slots__ = ("num_probes", "top1", "top10")
    NUM_PROBES_FIELD_NUMBER: _ClassVar[int]
    TOP1_FIELD_NUMBER: _ClassVar[int]
    TOP10_FIELD_NUMBER: _ClassVar[int]
    num_probes: int
    top1: float
    top10: float
    def __init__(self, num_probes: _Optional[int] = ..., top1: _Optional[float] = ..., top10: _Optional[float] = ...) -> None: ...

class ThresholdEstimate(_message.Message):
    __slots__ = ("value", "low", "high")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    value: float
    low: float
    high: float
    def __init__(self, value: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class GalleryThresholds(_message.Message):
    __slots__ = ("threshold", "threshold_origin", "estimate", "target_fpir", "review_threshold", "effective_size", "estimated_fpir", "expected_fnir", "is_crowding_corrected", "warnings", "calibrated_on")
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_ORIGIN_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FPIR_FIELD_NUMBER: _ClassVar[int]
    REVIEW_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_SIZE_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FPIR_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FNIR_FIELD_NUMBER: _ClassVar[int]
    IS_CROWDING_CORRECTED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    CALIBRATED_ON_FIELD_NUMBER: _ClassVar[int]
    threshold: float
    threshold_origin: _types_pb2.ThresholdOrigin
    estimate: ThresholdEstimate
    target_fpir: float
    review_threshold: float
    effective_size: float
    estimated_fpir: float
    expected_fnir: float
    is_crowding_corrected: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    calibrated_on: str
    def __init__(self, threshold: _Optional[float] = ..., threshold_origin: _Optional[_Union[_types_pb2.ThresholdOrigin, str]] = ..., estimate: _Optional[_Union[ThresholdEstimate, _Mapping]] = ..., target_fpir: _Optional[float] = ..., review_threshold: _Optional[float] = ..., effective_size: _Optional[float] = ..., estimated_fpir: _Optional[float] = ..., expected_fnir: _Optional[float] = ..., is_crowding_corrected: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ..., calibrated_on: _Optional[str] = ...) -> None: ...

class SimilarityBin(_message.Message):
    __slots__ = ("low", "high", "num_probes")
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    NUM_PROBES_FIELD_NUMBER: _ClassVar[int]
    low: float
    high: float
    num_probes: int
    def __init__(self, low: _Optional[float] = ..., high: _Optional[float] = ..., num_probes: _Optional[int] = ...) -> None: ...

class ProbeStatistics(_message.Message):
    __slots__ = ("num_probes", "bins", "drift", "is_alarming")
    NUM_PROBES_FIELD_NUMBER: _ClassVar[int]
    BINS_FIELD_NUMBER: _ClassVar[int]
    DRIFT_FIELD_NUMBER: _ClassVar[int]
    IS_ALARMING_FIELD_NUMBER: _ClassVar[int]
    num_probes: int
    bins: _containers.RepeatedCompositeFieldContainer[SimilarityBin]
    drift: float
    is_alarming: bool
    def __init__(self, num_probes: _Optional[int] = ..., bins: _Optional[_Iterable[_Union[SimilarityBin, _Mapping]]] = ..., drift: _Optional[float] = ..., is_alarming: _Optional[bool] = ...) -> None: ...

class GalleryStatus(_message.Message):
    __slots__ = ("gallery_id", "num_identities", "num_templates", "sequence", "generation", "kind", "agreement", "search_device", "thresholds", "probe_statistics")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    NUM_TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    SEARCH_DEVICE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    PROBE_STATISTICS_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    num_identities: int
    num_templates: int
    sequence: int
    generation: int
    kind: str
    agreement: Agreement
    search_device: str
    thresholds: GalleryThresholds
    probe_statistics: ProbeStatistics
    def __init__(self, gallery_id: _Optional[str] = ..., num_identities: _Optional[int] = ..., num_templates: _Optional[int] = ..., sequence: _Optional[int] = ..., generation: _Optional[int] = ..., kind: _Optional[str] = ..., agreement: _Optional[_Union[Agreement, _Mapping]] = ..., search_device: _Optional[str] = ..., thresholds: _Optional[_Union[GalleryThresholds, _Mapping]] = ..., probe_statistics: _Optional[_Union[ProbeStatistics, _Mapping]] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("version", "device", "contract", "galleries", "num_workers")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    GALLERIES_FIELD_NUMBER: _ClassVar[int]
    NUM_WORKERS_FIELD_NUMBER: _ClassVar[int]
    version: str
    device: str
    contract: _types_pb2.EmbeddingContract
    galleries: _containers.RepeatedCompositeFieldContainer[GalleryStatus]
    num_workers: int
    def __init__(self, version: _Optional[str] = ..., device: _Optional[str] = ..., contract: _Optional[_Union[_types_pb2.EmbeddingContract, _Mapping]] = ..., galleries: _Optional[_Iterable[_Union[GalleryStatus, _Mapping]]] = ..., num_workers: _Optional[int] = ...) -> None: ...

class BuildIndexRequest(_message.Message):
    __slots__ = ("gallery_id",)
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    def __init__(self, gallery_id: _Optional[str] = ...) -> None: ...

class BuildIndexResponse(_message.Message):
    __slots__ = ("num_done", "num_total", "is_done", "generation", "sequence")
    NUM_DONE_FIELD_NUMBER: _ClassVar[int]
    NUM_TOTAL_FIELD_NUMBER: _ClassVar[int]
    IS_DONE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    num_done: int
    num_total: int
    is_done: bool
    generation: int
    sequence: int
    def __init__(self, num_done: _Optional[int] = ..., num_total: _Optional[int] = ..., is_done: _Optional[bool] = ..., generation: _Optional[int] = ..., sequence: _Optional[int] = ...) -> None: ...

class MeasureRecallRequest(_message.Message):
    __slots__ = ("gallery_id", "num_probes", "seed")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_PROBES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    num_probes: int
    seed: int
    def __init__(self, gallery_id: _Optional[str] = ..., num_probes: _Optional[int] = ..., seed: _Optional[int] = ...) -> None: ...

class MeasureRecallResponse(_message.Message):
    __slots__ = ("num_done", "num_total", "is_done", "agreement", "generation", "kind")
    NUM_DONE_FIELD_NUMBER: _ClassVar[int]
    NUM_TOTAL_FIELD_NUMBER: _ClassVar[int]
    IS_DONE_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    num_done: int
    num_total: int
    is_done: bool
    agreement: Agreement
    generation: int
    kind: str
    def __init__(self, num_done: _Optional[int] = ..., num_total: _Optional[int] = ..., is_done: _Optional[bool] = ..., agreement: _Optional[_Union[Agreement, _Mapping]] = ..., generation: _Optional[int] = ..., kind: _Optional[str] = ...) -> None: ...

class BackupRequest(_message.Message):
    __slots__ = ("folder",)
    FOLDER_FIELD_NUMBER: _ClassVar[int]
    folder: str
    def __init__(self, folder: _Optional[str] = ...) -> None: ...

class BackupResponse(_message.Message):
    __slots__ = ("size_bytes", "is_done")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IS_DONE_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    is_done: bool
    def __init__(self, size_bytes: _Optional[int] = ..., is_done: _Optional[bool] = ...) -> None: ...

class CalibrateRequest(_message.Message):
    __slots__ = ("gallery_id", "target_fpir")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FPIR_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    target_fpir: float
    def __init__(self, gallery_id: _Optional[str] = ..., target_fpir: _Optional[float] = ...) -> None: ...

class CalibrateResponse(_message.Message):
    __slots__ = ("progress", "threshold", "is_done", "threshold_origin", "target_fpir", "by_calibration", "by_own_people", "num_identities", "num_probes", "num_left_out", "has_disagreement", "warnings")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    IS_DONE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_ORIGIN_FIELD_NUMBER: _ClassVar[int]
    TARGET_FPIR_FIELD_NUMBER: _ClassVar[int]
    BY_CALIBRATION_FIELD_NUMBER: _ClassVar[int]
    BY_OWN_PEOPLE_FIELD_NUMBER: _ClassVar[int]
    NUM_IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    NUM_PROBES_FIELD_NUMBER: _ClassVar[int]
    NUM_LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    HAS_DISAGREEMENT_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    progress: float
    threshold: float
    is_done: bool
    threshold_origin: _types_pb2.ThresholdOrigin
    target_fpir: float
    by_calibration: ThresholdEstimate
    by_own_people: ThresholdEstimate
    num_identities: int
    num_probes: int
    num_left_out: int
    has_disagreement: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, progress: _Optional[float] = ..., threshold: _Optional[float] = ..., is_done: _Optional[bool] = ..., threshold_origin: _Optional[_Union[_types_pb2.ThresholdOrigin, str]] = ..., target_fpir: _Optional[float] = ..., by_calibration: _Optional[_Union[ThresholdEstimate, _Mapping]] = ..., by_own_people: _Optional[_Union[ThresholdEstimate, _Mapping]] = ..., num_identities: _Optional[int] = ..., num_probes: _Optional[int] = ..., num_left_out: _Optional[int] = ..., has_disagreement: _Optional[bool] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...
