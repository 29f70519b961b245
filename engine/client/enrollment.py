"""Calls of EnrollmentService. Knows nothing of searching."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from google.protobuf.message import Message

from engine.client.calls import Calls, fresh
from engine.client.streams import batches, exchange
from engine.client.values import (
    BatchRemoveResult,
    EnrolledIdentity,
    EnrollItem,
    EnrollOptions,
    FaceEnrollResult,
    Sample,
    enrolled_identity,
    enrollment_message,
    face_enroll_result,
)
from engine.errors import EngineError
from engine.limits import ENROLL_ITEMS_MAX, PAGE_ITEMS_DEFAULT
from engine.pb.identiface.v1 import enrollment_pb2
from engine.types import NO_ATTRIBUTES, RemoveResult
from engine.wire.answers import unpack_removal
from engine.wire.errors import from_status
from engine.wire.values import pack_time

ADD = EnrollOptions()
"""Templates are added, attributes merged."""


class EnrollmentCalls(Calls):
    """Who is enrolled."""

    def enroll(
        self,
        gallery_id: str,
        identity_id: str,
        samples: Sequence[Sample] = (),
        *,
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
        options: EnrollOptions = ADD,
        contract_digest: str = "",
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> FaceEnrollResult:
        """Add templates, from pictures or unit vectors, to an identity that is made where it is new.

        Without samples only attributes and expiry are set: a new identity then has no templates and is not
        found until it gets one. A vector that is not of unit length is given as RawVector.
        Attributes are merged; `contract_digest` of the vectors is checked against the gallery's. Raises
        GalleryNotFoundError, NoFaceError and other kinds of InvalidInputError naming the sample,
        TemplateLimitError, ContractMismatchError, NoEmbedderError.
        """
        with self._pool.lease() as connection:
            request = enrollment_pb2.EnrollRequest(
                gallery_id=gallery_id,
                enrollment=enrollment_message(EnrollItem(identity_id, samples, attributes, options)),
                contract_digest=contract_digest,
                request_id=fresh(request_id),
            )
            answer = connection.enrollment.Enroll(request, timeout=self._seconds(timeout_s))
        return face_enroll_result(answer, identity_id)

    def enroll_stream(
        self,
        gallery_id: str,
        items: Iterable[EnrollItem],
        *,
        items_per_message: int = ENROLL_ITEMS_MAX,
        contract_digest: str = "",
        timeout_s: float | None = None,
    ) -> Iterator[tuple[str, FaceEnrollResult | EngineError]]:
        """Enroll many; yields (identity_id, answer or error) for each item, in order, once it is durable.

        Items are drawn on another thread, no faster than the server takes them; a message of up to
        `items_per_message`, and 64 pictures, is one commit. Without `timeout_s` the stream may last as long
        as it likes. Raises GalleryNotFoundError, ContractMismatchError, OverloadedError, StorageFullError.
        """
        answers = exchange(
            self._pool,
            lambda connection: connection.enrollment.EnrollStream,
            _enroll_requests(
                gallery_id,
                items,
                items_per_message,
                contract_digest,
            ),
            timeout_s,
        )
        for answer, identity_ids in answers:
            for identity_id, outcome in zip(identity_ids, answer.outcomes, strict=True):
                if outcome.WhichOneof("outcome") == "error":
                    yield identity_id, from_status(outcome.error)
                else:
                    yield identity_id, face_enroll_result(outcome.enrolled, identity_id)

    def get_identity(
        self,
        gallery_id: str,
        identity_id: str,
        *,
        with_vectors: bool = False,
        with_crops: bool = False,
        timeout_s: float | None = None,
    ) -> EnrolledIdentity:
        """Describe one identity. Raises GalleryNotFoundError, IdentityNotFoundError."""
        with self._pool.lease() as connection:
            request = enrollment_pb2.GetIdentityRequest(
                gallery_id=gallery_id,
                identity_id=identity_id,
                with_vectors=with_vectors,
                with_crops=with_crops,
            )
            answer = connection.enrollment.GetIdentity(request, timeout=self._seconds(timeout_s))
        return enrolled_identity(answer.identity)

    def list_identities(
        self, gallery_id: str, *, page_size: int = PAGE_ITEMS_DEFAULT, timeout_s: float | None = None
    ) -> Iterator[EnrolledIdentity]:
        """List identities in order of their ids, page by page as they are drawn.

        Raises GalleryNotFoundError, InvalidInputError for a page size outside 1 to 1000.
        """
        page_token = ""
        while True:
            with self._pool.lease() as connection:
                request = enrollment_pb2.ListIdentitiesRequest(
                    gallery_id=gallery_id, page_size=page_size, page_token=page_token
                )
                answer = connection.enrollment.ListIdentities(request, timeout=self._seconds(timeout_s))
            yield from (enrolled_identity(identity) for identity in answer.identities)
            if not answer.next_page_token:
                return
            page_token = answer.next_page_token

    def update_identity(
        self,
        gallery_id: str,
        identity_id: str,
        *,
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
        remove_attributes: Sequence[str] = (),
        expire_time: float | None = None,
        clear_expire_time: bool = False,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> EnrolledIdentity:
        """Change attributes or expiry (unix seconds); `remove_attributes` go before `attributes` are set.

        Raises GalleryNotFoundError, IdentityNotFoundError, InvalidInputError.
        """
        with self._pool.lease() as connection:
            request = enrollment_pb2.UpdateIdentityRequest(
                gallery_id=gallery_id,
                identity_id=identity_id,
                attributes=dict(attributes),
                remove_attributes=remove_attributes,
                expire_time=None if expire_time is None else pack_time(expire_time),
                clear_expire_time=clear_expire_time,
                request_id=fresh(request_id),
            )
            answer = connection.enrollment.UpdateIdentity(request, timeout=self._seconds(timeout_s))
        return enrolled_identity(answer.identity, answer.receipt.sequence)

    def remove_identity(
        self,
        gallery_id: str,
        identity_id: str,
        *,
        erase: bool = False,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> RemoveResult:
        """Forget an identity and its templates; `erase` waits until no file holds its vectors any more.

        Raises GalleryNotFoundError, IdentityNotFoundError.
        """
        with self._pool.lease() as connection:
            request = enrollment_pb2.RemoveIdentityRequest(
                gallery_id=gallery_id, identity_id=identity_id, erase=erase, request_id=fresh(request_id)
            )
            answer = connection.enrollment.RemoveIdentity(request, timeout=self._seconds(timeout_s))
        return unpack_removal(answer.removal, answer.receipt)

    def remove_template(
        self,
        gallery_id: str,
        identity_id: str,
        template_id: int,
        *,
        erase: bool = False,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> RemoveResult:
        """Forget one template; the identity stays, also without any.

        Raises GalleryNotFoundError, IdentityNotFoundError, TemplateNotFoundError.
        """
        with self._pool.lease() as connection:
            request = enrollment_pb2.RemoveTemplateRequest(
                gallery_id=gallery_id,
                identity_id=identity_id,
                template_id=template_id,
                erase=erase,
                request_id=fresh(request_id),
            )
            answer = connection.enrollment.RemoveTemplate(request, timeout=self._seconds(timeout_s))
        return unpack_removal(answer.removal, answer.receipt)

    def batch_remove(
        self,
        gallery_id: str,
        identity_ids: Sequence[str],
        *,
        erase: bool = False,
        request_id: str | None = None,
        timeout_s: float | None = None,
    ) -> BatchRemoveResult:
        """Forget 1 to 1000 identities in one commit; those not enrolled are listed, not an error.

        Raises GalleryNotFoundError, InvalidInputError.
        """
        with self._pool.lease() as connection:
            request = enrollment_pb2.BatchRemoveRequest(
                gallery_id=gallery_id, identity_ids=identity_ids, erase=erase, request_id=fresh(request_id)
            )
            answer = connection.enrollment.BatchRemove(request, timeout=self._seconds(timeout_s))
        return BatchRemoveResult(
            sequence=answer.receipt.sequence,
            num_identities=answer.removal.num_identities,
            num_templates=answer.removal.num_templates,
            is_erased=answer.removal.is_erased,
            not_found_identity_ids=tuple(answer.not_found_identity_ids),
        )


def _enroll_requests(
    gallery_id: str,
    items: Iterable[EnrollItem],
    items_per_message: int,
    contract_digest: str,
) -> Iterator[tuple[Message, tuple[str, ...]]]:
    for enrollments in batches(map(enrollment_message, items), items_per_message, _num_pictures):
        request = enrollment_pb2.EnrollStreamRequest(
            gallery_id=gallery_id,
            enrollments=enrollments,
            contract_digest=contract_digest,
            request_id=fresh(None),
        )
        yield request, tuple(enrollment.identity_id for enrollment in enrollments)


def _num_pictures(enrollment: enrollment_pb2.Enrollment) -> int:
    # A kept crop takes as much room in a message.
    return sum(sample.HasField("picture") or bool(sample.crop) for sample in enrollment.samples)
