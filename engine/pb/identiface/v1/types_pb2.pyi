import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FaceChoice(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FACE_CHOICE_UNSPECIFIED: _ClassVar[FaceChoice]
    FACE_CHOICE_LARGEST: _ClassVar[FaceChoice]
    FACE_CHOICE_CENTRE: _ClassVar[FaceChoice]
    FACE_CHOICE_ALL: _ClassVar[FaceChoice]

class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_UNSPECIFIED: _ClassVar[Decision]
    DECISION_MATCH: _ClassVar[Decision]
    DECISION_REVIEW: _ClassVar[Decision]
    DECISION_NO_MATCH: _ClassVar[Decision]

class ThresholdOrigin(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    THRESHOLD_ORIGIN_UNSPECIFIED: _ClassVar[ThresholdOrigin]
    THRESHOLD_ORIGIN_CONTRACT: _ClassVar[ThresholdOrigin]
    THRESHOLD_ORIGIN_GALLERY: _ClassVar[ThresholdOrigin]
    THRESHOLD_ORIGIN_REQUEST: _ClassVar[ThresholdOrigin]
    THRESHOLD_ORIGIN_CALIBRATION: _ClassVar[ThresholdOrigin]
    THRESHOLD_ORIGIN_OWN_PEOPLE: _ClassVar[ThresholdOrigin]

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_SYNCED: _ClassVar[Durability]
FACE_CHOICE_UNSPECIFIED: FaceChoice
FACE_CHOICE_LARGEST: FaceChoice
FACE_CHOICE_CENTRE: FaceChoice
FACE_CHOICE_ALL: FaceChoice
DECISION_UNSPECIFIED: Decision
DECISION_MATCH: Decision
DECISION_REVIEW: Decision
DECISION_NO_MATCH: Decision
THRESHOLD_ORIGIN_UNSPECIFIED: ThresholdOrigin
THRESHOLD_ORIGIN_CONTRACT: ThresholdOrigin
THRESHOLD_ORIGIN_GALLERY: ThresholdOrigin
THRESHOLD_ORIGIN_REQUEST: ThresholdOrigin
THRESHOLD_ORIGIN_CALIBRATION: ThresholdOrigin
THRESHOLD_ORIGIN_OWN_PEOPLE: ThresholdOrigin
DURABILITY_UNSPECIFIED: Durability
DURABILITY_SYNCED: Durability

class EmbeddingContract(_message.Message):
    __slots__ = ("name", "weights_sha256", "alignment", "mirror", "dimension", "normalisation", "threshold", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    ALIGNMENT_FIELD_NUMBER: _ClassVar[int]
    MIRROR_FIELD_NUMBER: _ClassVar[int]
    DIMENSION_FIELD_NUMBER: _ClassVar[int]
    NORMALISATION_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    weights_sha256: str
    alignment: str
    mirror: bool
    dimension: int
    normalisation: str
    threshold: float
    digest: str
    def __init__(self, name: _Optional[str] = ..., weights_sha256: _Optional[str] = ..., alignment: _Optional[str] = ..., mirror: _Optional[bool] = ..., dimension: _Optional[int] = ..., normalisation: _Optional[str] = ..., threshold: _Optional[float] = ..., digest: _Optional[str] = ...) -> None: ...

class Vector(_message.Message):
    __slots__ = ("data", "normalize")
    DATA_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    normalize: bool
    def __init__(self, data: _Optional[bytes] = ..., normalize: _Optional[bool] = ...) -> None: ...

class Picture(_message.Message):
    __slots__ = ("data", "face_choice", "min_face_px")
    DATA_FIELD_NUMBER: _ClassVar[int]
    FACE_CHOICE_FIELD_NUMBER: _ClassVar[int]
    MIN_FACE_PX_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    face_choice: FaceChoice
    min_face_px: int
    def __init__(self, data: _Optional[bytes] = ..., face_choice: _Optional[_Union[FaceChoice, str]] = ..., min_face_px: _Optional[int] = ...) -> None: ...

class Box(_message.Message):
    __slots__ = ("x1", "y1", "x2", "y2")
    X1_FIELD_NUMBER: _ClassVar[int]
    Y1_FIELD_NUMBER: _ClassVar[int]
    X2_FIELD_NUMBER: _ClassVar[int]
    Y2_FIELD_NUMBER: _ClassVar[int]
    x1: float
    y1: float
    x2: float
    y2: float
    def __init__(self, x1: _Optional[float] = ..., y1: _Optional[float] = ..., x2: _Optional[float] = ..., y2: _Optional[float] = ...) -> None: ...

class Point(_message.Message):
    __slots__ = ("x", "y")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ...) -> None: ...

class Face(_message.Message):
    __slots__ = ("box", "confidence", "keypoints")
    BOX_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    KEYPOINTS_FIELD_NUMBER: _ClassVar[int]
    box: Box
    confidence: float
    keypoints: _containers.RepeatedCompositeFieldContainer[Point]
    def __init__(self, box: _Optional[_Union[Box, _Mapping]] = ..., confidence: _Optional[float] = ..., keypoints: _Optional[_Iterable[_Union[Point, _Mapping]]] = ...) -> None: ...

class Candidate(_message.Message):
    __slots__ = ("identity_id", "similarity", "template_id", "similarity_corrected")
    IDENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_ID_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_CORRECTED_FIELD_NUMBER: _ClassVar[int]
    identity_id: str
    similarity: float
    template_id: int
    similarity_corrected: float
    def __init__(self, identity_id: _Optional[str] = ..., similarity: _Optional[float] = ..., template_id: _Optional[int] = ..., similarity_corrected: _Optional[float] = ...) -> None: ...

class WriteReceipt(_message.Message):
    __slots__ = ("sequence", "durability")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    durability: Durability
    def __init__(self, sequence: _Optional[int] = ..., durability: _Optional[_Union[Durability, str]] = ...) -> None: ...

class Identity(_message.Message):
    __slots__ = ("identity_id", "attributes", "templates", "create_time", "expire_time")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    IDENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    identity_id: str
    attributes: _containers.ScalarMap[str, str]
    templates: _containers.RepeatedCompositeFieldContainer[TemplateInfo]
    create_time: _timestamp_pb2.Timestamp
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, identity_id: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., templates: _Optional[_Iterable[_Union[TemplateInfo, _Mapping]]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class TemplateInfo(_message.Message):
    __slots__ = ("template_id", "quality", "source", "create_time", "vector", "crop")
    TEMPLATE_ID_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    CROP_FIELD_NUMBER: _ClassVar[int]
    template_id: int
    quality: float
    source: str
    create_time: _timestamp_pb2.Timestamp
    vector: bytes
    crop: bytes
    def __init__(self, template_id: _Optional[int] = ..., quality: _Optional[float] = ..., source: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., vector: _Optional[bytes] = ..., crop: _Optional[bytes] = ...) -> None: ...
