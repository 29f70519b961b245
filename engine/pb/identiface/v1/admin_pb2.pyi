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

class GalleryStatus(_message.Message):
    __slots__ = ("gallery_id", "num_identities", "num_templates", "sequence", "generation")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    NUM_IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    NUM_TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    num_identities: int
    num_templates: int
    sequence: int
    generation: int
    def __init__(self, gallery_id: _Optional[str] = ..., num_identities: _Optional[int] = ..., num_templates: _Optional[int] = ..., sequence: _Optional[int] = ..., generation: _Optional[int] = ...) -> None: ...

class StatusResponse(_message.Message):
    __slots__ = ("version", "device", "contract", "galleries")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    GALLERIES_FIELD_NUMBER: _ClassVar[int]
    version: str
    device: str
    contract: _types_pb2.EmbeddingContract
    galleries: _containers.RepeatedCompositeFieldContainer[GalleryStatus]
    def __init__(self, version: _Optional[str] = ..., device: _Optional[str] = ..., contract: _Optional[_Union[_types_pb2.EmbeddingContract, _Mapping]] = ..., galleries: _Optional[_Iterable[_Union[GalleryStatus, _Mapping]]] = ...) -> None: ...

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
