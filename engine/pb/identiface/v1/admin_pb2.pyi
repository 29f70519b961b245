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

class GalleryStatus(_message.Message):
    __slots__ = ("gallery_id", "num_identities", "num_templates", "sequence", "generation", "kind", "agreement", "search_device")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    NUM_TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    SEARCH_DEVICE_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    num_identities: int
    num_templates: int
    sequence: int
    generation: int
    kind: str
    agreement: Agreement
    search_device: str
    def __init__(self, gallery_id: _Optional[str] = ..., num_identities: _Optional[int] = ..., num_templates: _Optional[int] = ..., sequence: _Optional[int] = ..., generation: _Optional[int] = ..., kind: _Optional[str] = ..., agreement: _Optional[_Union[Agreement, _Mapping]] = ..., search_device: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("progress", "threshold")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    progress: float
    threshold: float
    def __init__(self, progress: _Optional[float] = ..., threshold: _Optional[float] = ...) -> None: ...
