from google.rpc import status_pb2 as _status_pb2
from engine.pb.identiface.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EmbeddedFace(_message.Message):
    __slots__ = ("face", "vector", "crop")
    FACE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    CROP_FIELD_NUMBER: _ClassVar[int]
    face: _types_pb2.Face
    vector: bytes
    crop: bytes
    def __init__(self, face: _Optional[_Union[_types_pb2.Face, _Mapping]] = ..., vector: _Optional[bytes] = ..., crop: _Optional[bytes] = ...) -> None: ...

class PictureFaces(_message.Message):
    __slots__ = ("faces",)
    FACES_FIELD_NUMBER: _ClassVar[int]
    faces: _containers.RepeatedCompositeFieldContainer[EmbeddedFace]
    def __init__(self, faces: _Optional[_Iterable[_Union[EmbeddedFace, _Mapping]]] = ...) -> None: ...

class PictureOutcome(_message.Message):
    __slots__ = ("picture", "error")
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    picture: PictureFaces
    error: _status_pb2.Status
    def __init__(self, picture: _Optional[_Union[PictureFaces, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class DetectFacesRequest(_message.Message):
    __slots__ = ("pictures",)
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    pictures: _containers.RepeatedCompositeFieldContainer[_types_pb2.Picture]
    def __init__(self, pictures: _Optional[_Iterable[_Union[_types_pb2.Picture, _Mapping]]] = ...) -> None: ...

class DetectFacesResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[PictureOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[PictureOutcome, _Mapping]]] = ...) -> None: ...

class EmbedFacesRequest(_message.Message):
    __slots__ = ("pictures", "with_crops")
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    WITH_CROPS_FIELD_NUMBER: _ClassVar[int]
    pictures: _containers.RepeatedCompositeFieldContainer[_types_pb2.Picture]
    with_crops: bool
    def __init__(self, pictures: _Optional[_Iterable[_Union[_types_pb2.Picture, _Mapping]]] = ..., with_crops: _Optional[bool] = ...) -> None: ...

class EmbedFacesResponse(_message.Message):
    __slots__ = ("outcomes", "contract")
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[PictureOutcome]
    contract: _types_pb2.EmbeddingContract
    def __init__(self, outcomes: _Optional[_Iterable[_Union[PictureOutcome, _Mapping]]] = ..., contract: _Optional[_Union[_types_pb2.EmbeddingContract, _Mapping]] = ...) -> None: ...

class EmbedStreamRequest(_message.Message):
    __slots__ = ("pictures",)
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    pictures: _containers.RepeatedCompositeFieldContainer[_types_pb2.Picture]
    def __init__(self, pictures: _Optional[_Iterable[_Union[_types_pb2.Picture, _Mapping]]] = ...) -> None: ...

class EmbedStreamResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[PictureOutcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[PictureOutcome, _Mapping]]] = ...) -> None: ...
