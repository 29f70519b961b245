import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.rpc import status_pb2 as _status_pb2
from engine.pb.identiface.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EvictPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EVICT_POLICY_UNSPECIFIED: _ClassVar[EvictPolicy]
    EVICT_POLICY_LOWEST_QUALITY: _ClassVar[EvictPolicy]
EVICT_POLICY_UNSPECIFIED: EvictPolicy
EVICT_POLICY_LOWEST_QUALITY: EvictPolicy

class Sample(_message.Message):
    __slots__ = ("picture", "vector", "quality", "source", "crop")
    PICTURE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    QUALITY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CROP_FIELD_NUMBER: _ClassVar[int]
    picture: _types_pb2.Picture
    vector: _types_pb2.Vector
    quality: float
    source: str
    crop: bytes
    def __init__(self, picture: _Optional[_Union[_types_pb2.Picture, _Mapping]] = ..., vector: _Optional[_Union[_types_pb2.Vector, _Mapping]] = ..., quality: _Optional[float] = ..., source: _Optional[str] = ..., crop: _Optional[bytes] = ...) -> None: ...

class Enrollment(_message.Message):
    __slots__ = ("identity_id", "samples", "attributes", "expire_time", "replace", "evict")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    IDENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REPLACE_FIELD_NUMBER: _ClassVar[int]
    EVICT_FIELD_NUMBER: _ClassVar[int]
    identity_id: str
    samples: _containers.RepeatedCompositeFieldContainer[Sample]
    attributes: _containers.ScalarMap[str, str]
    expire_time: _timestamp_pb2.Timestamp
    replace: bool
    evict: EvictPolicy
    def __init__(self, identity_id: _Optional[str] = ..., samples: _Optional[_Iterable[_Union[Sample, _Mapping]]] = ..., attributes: _Optional[_Mapping[str, str]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., replace: _Optional[bool] = ..., evict: _Optional[_Union[EvictPolicy, str]] = ...) -> None: ...

class EnrolledTemplate(_message.Message):
    __slots__ = ("template_id", "face")
    TEMPLATE_ID_FIELD_NUMBER: _ClassVar[int]
    FACE_FIELD_NUMBER: _ClassVar[int]
    template_id: int
    face: _types_pb2.Face
    def __init__(self, template_id: _Optional[int] = ..., face: _Optional[_Union[_types_pb2.Face, _Mapping]] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("gallery_id", "enrollment", "contract_digest", "request_id")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    ENROLLMENT_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    enrollment: Enrollment
    contract_digest: str
    request_id: str
    def __init__(self, gallery_id: _Optional[str] = ..., enrollment: _Optional[_Union[Enrollment, _Mapping]] = ..., contract_digest: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("receipt", "templates", "num_added", "num_ignored", "num_evicted", "is_new_identity", "num_replaced")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    NUM_ADDED_FIELD_NUMBER: _ClassVar[int]
    NUM_IGNORED_FIELD_NUMBER: _ClassVar[int]
    NUM_EVICTED_FIELD_NUMBER: _ClassVar[int]
    IS_NEW_IDENTITY_FIELD_NUMBER: _ClassVar[int]
    NUM_REPLACED_FIELD_NUMBER: _ClassVar[int]
    receipt: _types_pb2.WriteReceipt
    templates: _containers.RepeatedCompositeFieldContainer[EnrolledTemplate]
    num_added: int
    num_ignored: int
    num_evicted: int
    is_new_identity: bool
    num_replaced: int
    def __init__(self, receipt: _Optional[_Union[_types_pb2.WriteReceipt, _Mapping]] = ..., templates: _Optional[_Iterable[_Union[EnrolledTemplate, _Mapping]]] = ..., num_added: _Optional[int] = ..., num_ignored: _Optional[int] = ..., num_evicted: _Optional[int] = ..., is_new_identity: _Optional[bool] = ..., num_replaced: _Optional[int] = ...) -> None: ...

class EnrollStreamRequest(_message.Message):
    __slots__ = ("gallery_id", "enrollments", "contract_digest", "request_id")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    ENROLLMENTS_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    enrollments: _containers.RepeatedCompositeFieldContainer[Enrollment]
    contract_digest: str
    request_id: str
    def __init__(self, gallery_id: _Optional[str] = ..., enrollments: _Optional[_Iterable[_Union[Enrollment, _Mapping]]] = ..., contract_digest: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class EnrollOutcome(_message.Message):
    __slots__ = ("enrolled", "error")
    ENROLLED_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    enrolled: EnrollResponse
    error: _status_pb2.Status
    def __init__(self, enrolled: _Optional[_Union[EnrollResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class EnrollStreamResponse(_message.Message):
    __slots__ = ("receipt", "outcomes")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    receipt: _types_pb2.WriteReceipt
    outcomes: _containers.RepeatedCompositeFieldContainer[EnrollOutcome]
    def __init__(self, receipt: _Optional[_Union[_types_pb2.WriteReceipt, _Mapping]] = ..., outcomes: _Optional[_Iterable[_Union[EnrollOutcome, _Mapping]]] = ...) -> None: ...

class GetIdentityRequest(_message.Message):
    __slots__ = ("gallery_id", "identity_id", "with_vectors", "with_crops")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    WITH_VECTORS_FIELD_NUMBER: _ClassVar[int]
    WITH_CROPS_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    identity_id: str
    with_vectors: bool
    with_crops: bool
    def __init__(self, gallery_id: _Optional[str] = ..., identity_id: _Optional[str] = ..., with_vectors: _Optional[bool] = ..., with_crops: _Optional[bool] = ...) -> None: ...

class GetIdentityResponse(_message.Message):
    __slots__ = ("identity",)
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    identity: _types_pb2.Identity
    def __init__(self, identity: _Optional[_Union[_types_pb2.Identity, _Mapping]] = ...) -> None: ...

class ListIdentitiesRequest(_message.Message):
    __slots__ = ("gallery_id", "page_size", "page_token")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    page_size: int
    page_token: str
    def __init__(self, gallery_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListIdentitiesResponse(_message.Message):
    __slots__ = ("identities", "next_page_token")
    IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    identities: _containers.RepeatedCompositeFieldContainer[_types_pb2.Identity]
    next_page_token: str
    def __init__(self, identities: _Optional[_Iterable[_Union[_types_pb2.Identity, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class UpdateIdentityRequest(_message.Message):
    __slots__ = ("gallery_id", "identity_id", "attributes", "remove_attributes", "expire_time", "clear_expire_time", "request_id")
    class AttributesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    REMOVE_ATTRIBUTES_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    CLEAR_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    identity_id: str
    attributes: _containers.ScalarMap[str, str]
    remove_attributes: _containers.RepeatedScalarFieldContainer[str]
    expire_time: _timestamp_pb2.Timestamp
    clear_expire_time: bool
    request_id: str
    def __init__(self, gallery_id: _Optional[str] = ..., identity_id: _Optional[str] = ..., attributes: _Optional[_Mapping[str, str]] = ..., remove_attributes: _Optional[_Iterable[str]] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., clear_expire_time: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class UpdateIdentityResponse(_message.Message):
    __slots__ = ("receipt", "identity")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    receipt: _types_pb2.WriteReceipt
    identity: _types_pb2.Identity
    def __init__(self, receipt: _Optional[_Union[_types_pb2.WriteReceipt, _Mapping]] = ..., identity: _Optional[_Union[_types_pb2.Identity, _Mapping]] = ...) -> None: ...

class Removal(_message.Message):
    __slots__ = ("num_identities", "num_templates", "is_erased")
    NUM_IDENTITIES_FIELD_NUMBER: _ClassVar[int]
    NUM_TEMPLATES_FIELD_NUMBER: _ClassVar[int]
    IS_ERASED_FIELD_NUMBER: _ClassVar[int]
    num_identities: int
    num_templates: int
    is_erased: bool
    def __init__(self, num_identities: _Optional[int] = ..., num_templates: _Optional[int] = ..., is_erased: _Optional[bool] = ...) -> None: ...

class RemoveIdentityRequest(_message.Message):
    __slots__ = ("gallery_id", "identity_id", "erase", "request_id")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    ERASE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    identity_id: str
    erase: bool
    request_id: str
    def __init__(self, gallery_id: _Optional[str] = ..., identity_id: _Optional[str] = ..., erase: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class RemoveIdentityResponse(_message.Message):
    __slots__ = ("receipt", "removal")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    receipt: _types_pb2.WriteReceipt
    removal: Removal
    def __init__(self, receipt: _Optional[_Union[_types_pb2.WriteReceipt, _Mapping]] = ..., removal: _Optional[_Union[Removal, _Mapping]] = ...) -> None: ...

class RemoveTemplateRequest(_message.Message):
    __slots__ = ("gallery_id", "identity_id", "template_id", "erase", "request_id")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_ID_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_ID_FIELD_NUMBER: _ClassVar[int]
    ERASE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    identity_id: str
    template_id: int
    erase: bool
    request_id: str
    def __init__(self, gallery_id: _Optional[str] = ..., identity_id: _Optional[str] = ..., template_id: _Optional[int] = ..., erase: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class RemoveTemplateResponse(_message.Message):
    __slots__ = ("receipt", "removal")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    receipt: _types_pb2.WriteReceipt
    removal: Removal
    def __init__(self, receipt: _Optional[_Union[_types_pb2.WriteReceipt, _Mapping]] = ..., removal: _Optional[_Union[Removal, _Mapping]] = ...) -> None: ...

class BatchRemoveRequest(_message.Message):
    __slots__ = ("gallery_id", "identity_ids", "erase", "request_id")
    GALLERY_ID_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_IDS_FIELD_NUMBER: _ClassVar[int]
    ERASE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    gallery_id: str
    identity_ids: _containers.RepeatedScalarFieldContainer[str]
    erase: bool
    request_id: str
    def __init__(self, gallery_id: _Optional[str] = ..., identity_ids: _Optional[_Iterable[str]] = ..., erase: _Optional[bool] = ..., request_id: _Optional[str] = ...) -> None: ...

class BatchRemoveResponse(_message.Message):
    __slots__ = ("receipt", "removal", "not_found_identity_ids")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    REMOVAL_FIELD_NUMBER: _ClassVar[int]
    NOT_FOUND_IDENTITY_IDS_FIELD_NUMBER: _ClassVar[int]
    receipt: _types_pb2.WriteReceipt
    removal: Removal
    not_found_identity_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, receipt: _Optional[_Union[_types_pb2.WriteReceipt, _Mapping]] = ..., removal: _Optional[_Union[Removal, _Mapping]] = ..., not_found_identity_ids: _Optional[_Iterable[str]] = ...) -> None: ...
