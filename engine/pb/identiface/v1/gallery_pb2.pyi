import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from engine.pb.identiface.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class CrowdingCorrection(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CROWDING_CORRECTION_UNSPECIFIED: _ClassVar[CrowdingCorrection]
    CROWDING_CORRECTION_AUTO: _ClassVar[CrowdingCorrection]
    CROWDING_CORRECTION_ON: _ClassVar[CrowdingCorrection]
    CROWDING_CORRECTION_OFF: _ClassVar[CrowdingCorrection]
CROWDING_CORRECTION_UNSPECIFIED: CrowdingCorrection
CROWDING_CORRECTION_AUTO: CrowdingCorrection
CROWDING_CORRECTION_ON: CrowdingCorrection
CROWDING_CORRECTION_OFF: CrowdingCorrection

class GallerySettings(_message.Message):
    __slots__ = ("templates_per_identity_max", "threshold", "keep_crops", "target_fpir", "review_fpir", "ambiguity", "target_fmr", "crowding", "has_probe_statistics")
    TEMPLATES_PER_IDENTITY_MAX_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    KEEP_CROPS_FIELD_NUMBER: _ClassVar[int]
    TARGET_FPIR_FIELD_NUMBER: _ClassVar[int]
    REVIEW_FPIR_FIELD_NUMBER: _ClassVar[int]
    AMBIGUITY_FIELD_NUMBER: _ClassVar[int]
    TARGET_FMR_FIELD_NUMBER: _ClassVar[int]
    CROWDING_FIELD_NUMBER: _ClassVar[int]
    HAS_PROBE_STATISTICS_FIELD_NUMBER: _ClassVar[int]
    templates_per_identity_max: int
    threshold: float
    keep_crops: bool
    target_fpir: float
    review_fpir: float
    ambiguity: float
    target_fmr: float
    crowding: CrowdingCorrection
    has_probe_statistics: bool
    def __init__(self, templates_per_identity_max: _Optional[int] = ..., threshold: _Optional[float] = ..., keep_crops: _Optional[bool] = ..., target_fpir: _Optional[float] = ..., review_fpir: _Optional[float] = ..., ambiguity: _Optional[float] = ..., target_fmr: _Optional[float] = ..., crowding: _Optional[_Union[CrowdingCorrection, str]] = ..., has_probe_statistics: _Optional[bool] = ...) -> None: ...

class Gallery(_message.Message):
    __slots__ = ("gallery_id", "contract", "settings", "num_identities", "num_templates", "sequence", "create_time", "aliases")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    NUM_IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    NUM_TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    contract: _types_pb2.EmbeddingContract
    settings: GallerySettings
    num_identities: int
    num_templates: int
    sequence: int
    create_time: _timestamp_pb2.Timestamp
    aliases: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, gallery_id: _Optional[str] = ..., contract: _Optional[_Union[_types_pb2.EmbeddingContract, _Mapping]] = ..., settings: _Optional[_Union[GallerySettings, _Mapping]] = ..., num_identities: _Optional[int] = ..., num_templates: _Optional[int] = ..., sequence: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., aliases: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateGalleryRequest(_message.Message):
    __slots__ = ("gallery_id", "contract", "settings", "request_id")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    contract: _types_pb2.EmbeddingContract
    settings: GallerySettings
    request_id: str
    def __init__(self, gallery_id: _Optional[str] = ..., contract: _Optional[_Union[_types_pb2.EmbeddingContract, _Mapping]] = ..., settings: _Optional[_Union[GallerySettings, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class CreateGalleryResponse(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: Gallery
    def __init__(self, gallery: _Optional[_Union[Gallery, _Mapping]] = ...) -> None: ...

class GetGalleryRequest(_message.Message):
    __slots__ = ("gallery_id",)
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    def __init__(self, gallery_id: _Optional[str] = ...) -> None: ...

class GetGalleryResponse(_message.Message):
    __slots__ = ("gallery",)
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    gallery: Gallery
    def __init__(self, gallery: _Optional[_Union[Gallery, _Mapping]] = ...) -> None: ...

class ListGalleriesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListGalleriesResponse(_message.Message):
    __slots__ = ("galleries", "next_page_token")
    GALLERIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    galleries: _containers.RepeatedCompositeFieldContainer[Gallery]
    next_page_token: str
    def __init__(self, galleries: _Optional[_Iterable[_Union[Gallery, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateGalleryRequest(_message.Message):
    __slots__ = ("gallery_id", "settings", "clear_threshold", "request_id", "clear_target_fpir", "clear_review_fpir", "clear_target_fmr")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    CLEAR_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CLEAR_TARGET_FPIR_FIELD_NUMBER: _ClassVar[int]
    CLEAR_REVIEW_FPIR_FIELD_NUMBER: _ClassVar[int]
    CLEAR_TARGET_FMR_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    settings: GallerySettings
    clear_threshold: bool
    request_id: str
    clear_target_fpir: bool
    clear_review_fpir: bool
    clear_target_fmr: bool
    def __init__(self, gallery_id: _Optional[str] = ..., settings: _Optional[_Union[GallerySettings, _Mapping]] = ..., clear_threshold: _Optional[bool] = ..., request_id: _Optional[str] = ..., clear_target_fpir: _Optional[bool] = ..., clear_review_fpir: _Optional[bool] = ..., clear_target_fmr: _Optional[bool] = ...) -> None: ...

class UpdateGalleryResponse(_message.Message):
    __slots__ = ("gallery", "receipt")
    GALLERY_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    gallery: Gallery
    receipt: _types_pb2.WriteReceipt
    def __init__(self, gallery: _Optional[_Union[Gallery, _Mapping]] = ..., receipt: _Optional[_Union[_types_pb2.WriteReceipt, _Mapping]] = ...) -> None: ...

class DeleteGalleryRequest(_message.Message):
    __slots__ = ("gallery_id", "request_id")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    request_id: str
    def __init__(self, gallery_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteGalleryResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SetAliasRequest(_message.Message):
    __slots__ = ("alias", "gallery_id", "request_id")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    alias: str
    gallery_id: str
    request_id: str
    def __init__(self, alias: _Optional[str] = ..., gallery_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class SetAliasResponse(_message.Message):
    __slots__ = ("previous_gallery_id",)
    PREVIOUS_GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    previous_gallery_id: str
    def __init__(self, previous_gallery_id: _Optional[str] = ...) -> None: ...

class DeleteAliasRequest(_message.Message):
    __slots__ = ("alias", "request_id")
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    alias: str
    request_id: str
    def __init__(self, alias: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class DeleteAliasResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
