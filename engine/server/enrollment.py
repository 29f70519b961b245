"""EnrollmentService: who is enrolled. Translates; knows neither stores nor networks."""
# ruff: noqa: N802 - rpcs are named as the proto names them

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from engine import rules
from engine.errors import EngineError, InvalidIdError, InvalidInputError
from engine.gallery import Gallery
from engine.limits import ENROLL_ITEMS_MAX, REMOVE_ITEMS_MAX
from engine.pb.identiface.v1 import enrollment_pb2 as pb
from engine.pb.identiface.v1.enrollment_pb2_grpc import EnrollmentServiceServicer
from engine.server.backend import Backend
from engine.server.call import Call
from engine.server.drafts import Draft, read_drafts
from engine.server.pages import page_of
from engine.server.pictures import check_digest, named
from engine.server.receipts import answer_once, store_once
from engine.types import EnrollResult, Identity, Receipt, RemoveResult, StoredTemplate
from engine.wire.answers import pack_enroll_result, pack_identity, pack_receipt, pack_removal
from engine.wire.errors import to_status
from engine.wire.values import unpack_time

Outcomes = list[EnrollResult | EngineError]


class EnrollmentService(EnrollmentServiceServicer):
    """See identiface/v1/enrollment.proto."""

    def __init__(self, backend: Backend):
        self._backend = backend

    def Enroll(self, request: pb.EnrollRequest, call: Call) -> pb.EnrollResponse:
        """Add templates to one identity."""
        gallery = self._backend.galleries.get(request.gallery_id)
        call.record.num_items = 1
        drafts: list[Draft | EngineError] = []

        def write(receipt: Receipt | None) -> Outcomes:
            drafts.extend(self._drafts(gallery, request.contract_digest, [request.enrollment], [""], call))
            return _store(gallery, drafts, receipt, call)

        def pack(stored: Outcomes) -> pb.EnrollResponse:
            draft = drafts[0]
            # Raised inside the write's transaction, too: what failed leaves no receipt.
            if isinstance(draft, EngineError):
                raise draft
            if isinstance(stored[0], EngineError):
                raise stored[0]
            return pack_enroll_result(stored[0], draft.faces)

        return answer_once(
            call, request, pb.EnrollResponse, find=gallery.find_receipt, write=write, pack=pack
        )

    def EnrollStream(
        self, requests: Iterator[pb.EnrollStreamRequest], call: Call
    ) -> Iterator[pb.EnrollStreamResponse]:
        """Add many identities, one commit and one answer a message."""
        asked = gallery_id = ""
        for request in requests:
            call.check_stream()
            if asked and request.gallery_id not in {"", asked}:
                raise InvalidInputError(
                    f"gallery_id {request.gallery_id[:80]!r} differs from the stream's first, {asked!r}"
                )
            request.gallery_id = asked = asked or request.gallery_id
            # An alias is followed once, so that one stream cannot end up in two galleries.
            gallery = self._backend.galleries.get(gallery_id or asked)
            gallery_id = gallery.gallery_id
            yield self._enroll_many(gallery, request, call)

    def _enroll_many(
        self, gallery: Gallery, request: pb.EnrollStreamRequest, call: Call
    ) -> pb.EnrollStreamResponse:
        num_items = len(request.enrollments)
        if not 1 <= num_items <= ENROLL_ITEMS_MAX:
            raise InvalidInputError(
                f"enrollments: {num_items} in one message; it must be 1 to {ENROLL_ITEMS_MAX}"
            )
        call.record.num_items += num_items
        prefixes = [f"enrollments[{item}]." for item in range(num_items)]
        drafts: list[Draft | EngineError] = []

        def write(receipt: Receipt | None) -> Outcomes:
            drafts.extend(self._drafts(gallery, request.contract_digest, request.enrollments, prefixes, call))
            return _store(gallery, drafts, receipt, call)

        return answer_once(
            call,
            request,
            pb.EnrollStreamResponse,
            find=gallery.find_receipt,
            write=write,
            pack=lambda stored: _pack_outcomes(drafts, stored),
        )

    def _drafts(
        self,
        gallery: Gallery,
        contract_digest: str,
        enrollments: Sequence[pb.Enrollment],
        prefixes: Sequence[str],
        call: Call,
    ) -> list[Draft | EngineError]:
        check_digest(contract_digest, gallery.contract)
        return read_drafts(self._backend, gallery, enrollments, prefixes, call)

    def GetIdentity(self, request: pb.GetIdentityRequest, call: Call) -> pb.GetIdentityResponse:
        """Describe one identity."""
        rules.check_identity_id(request.identity_id)
        gallery = self._backend.galleries.get(request.gallery_id)
        with call.stage("store"):
            identity, templates = gallery.get_identity(request.identity_id, with_crops=request.with_crops)
        return pb.GetIdentityResponse(
            identity=pack_identity(identity, templates, with_vectors=request.with_vectors)
        )

    def ListIdentities(self, request: pb.ListIdentitiesRequest, call: Call) -> pb.ListIdentitiesResponse:
        """List one page of identities."""
        gallery = self._backend.galleries.get(request.gallery_id)
        with call.stage("store"):
            page, token = page_of(
                lambda after, limit: gallery.list_identities(after=after, limit=limit),
                lambda described: described[0].identity_id,
                request.page_size,
                request.page_token,
            )
        return pb.ListIdentitiesResponse(
            identities=[pack_identity(identity, templates) for identity, templates in page],
            next_page_token=token,
        )

    def UpdateIdentity(self, request: pb.UpdateIdentityRequest, call: Call) -> pb.UpdateIdentityResponse:
        """Change attributes or expiry."""
        rules.check_identity_id(request.identity_id)
        gallery = self._backend.galleries.get(request.gallery_id)
        expire_time = (
            unpack_time(request.expire_time, "expire_time") if request.HasField("expire_time") else None
        )

        def pack(result: tuple[int, Identity, tuple[StoredTemplate, ...]]) -> pb.UpdateIdentityResponse:
            sequence, identity, templates = result
            return pb.UpdateIdentityResponse(
                receipt=pack_receipt(sequence), identity=pack_identity(identity, templates)
            )

        return store_once(
            call,
            request,
            pb.UpdateIdentityResponse,
            find=gallery.find_receipt,
            write=lambda receipt: gallery.update_identity(
                request.identity_id,
                attributes=dict(request.attributes),
                remove_attributes=list(request.remove_attributes),
                expire_time=expire_time,
                clear_expire_time=request.clear_expire_time,
                receipt=receipt,
                deadline=call.deadline,
            ),
            pack=pack,
        )

    def RemoveIdentity(self, request: pb.RemoveIdentityRequest, call: Call) -> pb.RemoveIdentityResponse:
        """Forget one identity."""
        rules.check_identity_id(request.identity_id)
        gallery = self._backend.galleries.get(request.gallery_id)

        def pack(result: tuple[RemoveResult, list[str]]) -> pb.RemoveIdentityResponse:
            removal, _ = result
            return pb.RemoveIdentityResponse(
                receipt=pack_receipt(removal.sequence), removal=pack_removal(removal)
            )

        return store_once(
            call,
            request,
            pb.RemoveIdentityResponse,
            find=gallery.find_receipt,
            write=lambda receipt: gallery.remove_identities(
                [request.identity_id],
                erase=request.erase,
                must_exist=True,
                receipt=receipt,
                deadline=call.deadline,
            ),
            pack=pack,
        )

    def RemoveTemplate(self, request: pb.RemoveTemplateRequest, call: Call) -> pb.RemoveTemplateResponse:
        """Forget one template."""
        rules.check_identity_id(request.identity_id)
        gallery = self._backend.galleries.get(request.gallery_id)
        return store_once(
            call,
            request,
            pb.RemoveTemplateResponse,
            find=gallery.find_receipt,
            write=lambda receipt: gallery.remove_template(
                request.identity_id,
                request.template_id,
                erase=request.erase,
                receipt=receipt,
                deadline=call.deadline,
            ),
            pack=lambda removal: pb.RemoveTemplateResponse(
                receipt=pack_receipt(removal.sequence), removal=pack_removal(removal)
            ),
        )

    def BatchRemove(self, request: pb.BatchRemoveRequest, call: Call) -> pb.BatchRemoveResponse:
        """Forget many identities in one commit."""
        identity_ids = list(request.identity_ids)
        if not 1 <= len(identity_ids) <= REMOVE_ITEMS_MAX:
            raise InvalidInputError(
                f"identity_ids: {len(identity_ids)} given; it must be 1 to {REMOVE_ITEMS_MAX}"
            )
        for item, identity_id in enumerate(identity_ids):
            try:
                rules.check_identity_id(identity_id)
            except InvalidIdError as error:
                raise named(error, f"identity_ids[{item}]") from error
        gallery = self._backend.galleries.get(request.gallery_id)
        call.record.num_items = len(identity_ids)

        def pack(result: tuple[RemoveResult, list[str]]) -> pb.BatchRemoveResponse:
            removal, not_found = result
            return pb.BatchRemoveResponse(
                receipt=pack_receipt(removal.sequence),
                removal=pack_removal(removal),
                not_found_identity_ids=not_found,
            )

        return store_once(
            call,
            request,
            pb.BatchRemoveResponse,
            find=gallery.find_receipt,
            write=lambda receipt: gallery.remove_identities(
                identity_ids, erase=request.erase, receipt=receipt, deadline=call.deadline
            ),
            pack=pack,
        )


def _store(
    gallery: Gallery, drafts: list[Draft | EngineError], receipt: Receipt | None, call: Call
) -> Outcomes:
    """Enroll those drafts that are none of them errors, in one commit; an outcome for each of these."""
    enrollments = [draft.enrollment for draft in drafts if isinstance(draft, Draft)]
    if not enrollments:
        return []
    if receipt is not None:
        # The gallery encodes (sequence, outcomes), but returns the outcomes alone.
        encode = receipt.encode
        receipt = dataclasses.replace(receipt, encode=lambda result: encode(result[1]))
    with call.stage("store"):
        return gallery.enroll(enrollments, receipt=receipt, deadline=call.deadline)


def _pack_outcomes(drafts: list[Draft | EngineError], stored: Outcomes) -> pb.EnrollStreamResponse:
    """Answer one message: its items in order, those that were refused before the store among the others."""
    response = pb.EnrollStreamResponse()
    rest = iter(stored)
    sequence = 0
    for item, draft in enumerate(drafts):
        if isinstance(draft, EngineError):
            response.outcomes.add(error=to_status(draft))
            continue
        outcome = next(rest)
        if isinstance(outcome, EngineError):
            response.outcomes.add(error=to_status(named(outcome, f"enrollments[{item}]")))
        else:
            sequence = max(sequence, outcome.sequence)
            response.outcomes.add(enrolled=pack_enroll_result(outcome, draft.faces))
    if sequence:
        response.receipt.CopyFrom(pack_receipt(sequence))
    return response
