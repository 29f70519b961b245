from google.rpc import status_pb2 as _status_pb2
from engine.pb.identiface.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Fusion(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FUSION_UNSPECIFIED: _ClassVar[Fusion]
    FUSION_MAX: _ClassVar[Fusion]
    FUSION_MEAN: _ClassVar[Fusion]

class Consistency(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSISTENCY_UNSPECIFIED: _ClassVar[Consistency]
    CONSISTENCY_STRONG: _ClassVar[Consistency]
    CONSISTENCY_EVENTUAL: _ClassVar[Consistency]
FUSION_UNSPECIFIED: Fusion
FUSION_MAX: Fusion
FUSION_MEAN: Fusion
CONSISTENCY_UNSPECIFIED: Consistency
CONSISTENCY_STRONG: Consistency
CONSISTENCY_EVENTUAL: Consistency

class Probe(_message.Message):
    __slots__ = ("picture", "vector")
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    picture: _types_pb2.Picture
    vector: _types_pb2.Vector
    def __init__(self, picture: _Optional[_Union[_types_pb2.Picture, _Mapping]] = ..., vector: _Optional[_Union[_types_pb2.Vector, _Mapping]] = ...) -> None: ...

class SearchOptions(_message.Message):
    __slots__ = ("k", "threshold", "contract_digest", "exact", "filter", "fusion", "consistency")
    class FilterEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    K_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    EXACT_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    FUSION_FIELD_NUMBER: _ClassVar[int]
    CONSISTENCY_FIELD_NUMBER: _ClassVar[int]
    k: int
    threshold: float
    contract_digest: str
    exact: bool
    filter: _containers.ScalarMap[str, str]
    fusion: Fusion
    consistency: Consistency
    def __init__(self, k: _Optional[int] = ..., threshold: _Optional[float] = ..., contract_digest: _Optional[str] = ..., exact: _Optional[bool] = ..., filter: _Optional[_Mapping[str, str]] = ..., fusion: _Optional[_Union[Fusion, str]] = ..., consistency: _Optional[_Union[Consistency, str]] = ...) -> None: ...

class FaceIdentification(_message.Message):
    __slots__ = ("face", "decision", "candidates", "threshold", "threshold_origin", "searched_sequence", "num_searched", "is_exact", "num_identities", "estimated_fpir", "review_threshold")
    FACE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SEARCHED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NUM_SEARCHED_FIELD_NUMBER: _ClassVar[int]
    IS_EXACT_FIELD_NUMBER: _ClassVar[int]
    NUM_IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FPIR_FIELD_NUMBER: _ClassVar[int]
    REVIEW_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    face: _types_pb2.Face
    decision: _types_pb2.Decision
    candidates: _containers.RepeatedCompositeFieldContainer[_types_pb2.Candidate]
    threshold: float
    threshold_origin: _types_pb2.ThresholdOrigin
    searched_sequence: int
    num_searched: int
    is_exact: bool
    num_identities: int
    estimated_fpir: float
    review_threshold: float
    def __init__(self, face: _Optional[_Union[_types_pb2.Face, _Mapping]] = ..., decision: _Optional[_Union[_types_pb2.Decision, str]] = ..., candidates: _Optional[_Iterable[_Union[_types_pb2.Candidate, _Mapping]]] = ..., threshold: _Optional[float] = ..., threshold_origin: _Optional[_Union[_types_pb2.ThresholdOrigin, str]] = ..., searched_sequence: _Optional[int] = ..., num_searched: _Optional[int] = ..., is_exact: _Optional[bool] = ..., num_identities: _Optional[int] = ..., estimated_fpir: _Optional[float] = ..., review_threshold: _Optional[float] = ...) -> None: ...

class IdentifyRequest(_message.Message):
    __slots__ = ("gallery_id", "probe", "options")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    probe: Probe
    options: SearchOptions
    def __init__(self, gallery_id: _Optional[str] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., options: _Optional[_Union[SearchOptions, _Mapping]] = ...) -> None: ...

class IdentifyResponse(_message.Message):
    __slots__ = ("faces",)
    FACES_FIELD_NUMBER: _ClassVar[int]
    faces: _containers.RepeatedCompositeFieldContainer[FaceIdentification]
    def __init__(self, faces: _Optional[_Iterable[_Union[FaceIdentification, _Mapping]]] = ...) -> None: ...

class IdentifyOutcome(_message.Message):
    __slots__ = ("identified", "error")
    IDENTIFIED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    identified: IdentifyResponse
    error: _status_pb2.Status
    def __init__(self, identified: _Optional[_Union[IdentifyResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class BatchIdentifyRequest(_message.Message):
    __slots__ = ("gallery_id", "probes", "options")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    probes: _containers.RepeatedCompositeFieldContainer[Probe]
    options: SearchOptions
    def __init__(self, gallery_id: _Optional[str] = ..., probes: _Optional[_Iterable[_Union[Probe, _Mapping]]] = ..., options: _Optional[_Union[SearchOptions, _Mapping]] = ...) -> None: ...

class BatchIdentifyResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[IdentifyOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[IdentifyOutcome, _Mapping]]] = ...) -> None: ...

class IdentifyStreamRequest(_message.Message):
    __slots__ = ("gallery_id", "probes", "options")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    PROBES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    probes: _containers.RepeatedCompositeFieldContainer[Probe]
    options: SearchOptions
    def __init__(self, gallery_id: _Optional[str] = ..., probes: _Optional[_Iterable[_Union[Probe, _Mapping]]] = ..., options: _Optional[_Union[SearchOptions, _Mapping]] = ...) -> None: ...

class IdentifyStreamResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[IdentifyOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[IdentifyOutcome, _Mapping]]] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("gallery_id", "probe", "identity_id", "reference", "threshold", "contract_digest")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    PROBE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    probe: Probe
    identity_id: str
    reference: Probe
    threshold: float
    contract_digest: str
    def __init__(self, gallery_id: _Optional[str] = ..., probe: _Optional[_Union[Probe, _Mapping]] = ..., identity_id: _Optional[str] = ..., reference: _Optional[_Union[Probe, _Mapping]] = ..., threshold: _Optional[float] = ..., contract_digest: _Optional[str] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("decision", "similarity", "threshold", "threshold_origin", "template_id", "searched_sequence", "probe_face", "reference_face")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_ORIGIN_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_ID_FIELD_NUMBER: _ClassVar[int]
    SEARCHED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROBE_FACE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FACE_FIELD_NUMBER: _ClassVar[int]
    decision: _types_pb2.Decision
    similarity: float
    threshold: float
    threshold_origin: _types_pb2.ThresholdOrigin
    template_id: int
    searched_sequence: int
    probe_face: _types_pb2.Face
    reference_face: _types_pb2.Face
    def __init__(self, decision: _Optional[_Union[_types_pb2.Decision, str]] = ..., similarity: _Optional[float] = ..., threshold: _Optional[float] = ..., threshold_origin: _Optional[_Union[_types_pb2.ThresholdOrigin, str]] = ..., template_id: _Optional[int] = ..., searched_sequence: _Optional[int] = ..., probe_face: _Optional[_Union[_types_pb2.Face, _Mapping]] = ..., reference_face: _Optional[_Union[_types_pb2.Face, _Mapping]] = ...) -> None: ...
