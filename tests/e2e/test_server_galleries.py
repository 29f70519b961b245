"""GalleryService and AdminService over the wire."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

import engine
from engine.pb.identiface.v1 import admin_pb2, enrollment_pb2, gallery_pb2, types_pb2
from tests.e2e.conftest import ServerProcess, Stubs, as_message, make_gallery, refusal, unit

pytestmark = pytest.mark.e2e
INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
EXISTS = grpc.StatusCode.ALREADY_EXISTS
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
CONTRACT = types_pb2.EmbeddingContract(name="elsewhere", dimension=128, threshold=0.5)


def test_a_gallery_is_described_as_it_was_made(stubs: Stubs) -> None:
    settings = gallery_pb2.GallerySettings(templates_per_identity_max=3, threshold=0.25)
    request = gallery_pb2.CreateGalleryRequest(gallery_id="as-made", contract=CONTRACT, settings=settings)
    made = stubs.galleries.CreateGallery(request).gallery
    got = stubs.galleries.GetGallery(gallery_pb2.GetGalleryRequest(gallery_id="as-made")).gallery
    assert got == made
    assert (got.gallery_id, got.settings, got.num_identities, got.sequence) == ("as-made", settings, 0, 0)
    assert len(got.contract.digest) == 64
    assert got.create_time.seconds > 1_700_000_000


@pytest.mark.parametrize("gallery_id", ["", "Upper", "-dash", "a" * 64, "a/b", "ünder"])
def test_gallery_ids_that_break_the_rule_are_refused(stubs: Stubs, gallery_id: str) -> None:
    request = gallery_pb2.CreateGalleryRequest(gallery_id=gallery_id, contract=CONTRACT)
    assert refusal(lambda: stubs.galleries.CreateGallery(request))[:2] == (INVALID, "INVALID_ID")


@pytest.mark.parametrize(
    "contract",
    [
        types_pb2.EmbeddingContract(name="", dimension=128),
        types_pb2.EmbeddingContract(name="x", dimension=1),
        types_pb2.EmbeddingContract(name="x", dimension=1025),
        types_pb2.EmbeddingContract(name="x", dimension=128, threshold=2.0),
        types_pb2.EmbeddingContract(name="x", dimension=128, normalisation="none"),
    ],
)
def test_contracts_that_cannot_be_are_refused(stubs: Stubs, contract: types_pb2.EmbeddingContract) -> None:
    request = gallery_pb2.CreateGalleryRequest(gallery_id="never", contract=contract)
    assert refusal(lambda: stubs.galleries.CreateGallery(request))[:2] == (INVALID, "INVALID_INPUT")


def test_a_gallery_without_contract_needs_a_network(stubs: Stubs) -> None:
    request = gallery_pb2.CreateGalleryRequest(gallery_id="never")
    assert refusal(lambda: stubs.galleries.CreateGallery(request))[:2] == (PRECONDITION, "NO_EMBEDDER")


def test_a_name_is_taken_once(stubs: Stubs, gallery_id: str) -> None:
    request = gallery_pb2.CreateGalleryRequest(gallery_id=gallery_id, contract=CONTRACT)
    assert refusal(lambda: stubs.galleries.CreateGallery(request))[:2] == (EXISTS, "ALREADY_EXISTS")


def test_settings_are_changed_one_by_one(stubs: Stubs, gallery_id: str) -> None:
    def update(**fields: object) -> gallery_pb2.GallerySettings:
        settings = gallery_pb2.GallerySettings(**fields)  # type: ignore[arg-type]
        request = gallery_pb2.UpdateGalleryRequest(gallery_id=gallery_id, settings=settings)
        answer = stubs.galleries.UpdateGallery(request)
        assert answer.receipt.sequence == answer.gallery.sequence
        settings_now: gallery_pb2.GallerySettings = answer.gallery.settings
        return settings_now

    assert update(templates_per_identity_max=2).templates_per_identity_max == 2
    changed = update(threshold=0.75)
    assert (changed.templates_per_identity_max, changed.threshold) == (2, 0.75)
    clear = gallery_pb2.UpdateGalleryRequest(gallery_id=gallery_id, clear_threshold=True)
    assert not stubs.galleries.UpdateGallery(clear).gallery.settings.HasField("threshold")
    both = gallery_pb2.UpdateGalleryRequest(
        gallery_id=gallery_id, clear_threshold=True, settings=gallery_pb2.GallerySettings(threshold=0.1)
    )
    assert refusal(lambda: stubs.galleries.UpdateGallery(both))[:2] == (INVALID, "INVALID_INPUT")


def test_settings_of_an_open_set_are_changed_one_by_one(stubs: Stubs, gallery_id: str) -> None:
    def update(**fields: object) -> set[str]:
        settings = gallery_pb2.GallerySettings(**fields)  # type: ignore[arg-type]
        request = gallery_pb2.UpdateGalleryRequest(gallery_id=gallery_id, settings=settings)
        now = stubs.galleries.UpdateGallery(request).gallery.settings
        told = stubs.galleries.GetGallery(gallery_pb2.GetGalleryRequest(gallery_id=gallery_id))
        assert told.gallery.settings == now
        return {field.name for field, _ in now.ListFields()} - {"templates_per_identity_max"}

    assert update() == set()
    assert update(ambiguity=0.02) == {"ambiguity"}
    assert update(has_probe_statistics=True) == {"ambiguity", "has_probe_statistics"}
    off = gallery_pb2.CROWDING_CORRECTION_OFF
    assert update(crowding=off, ambiguity=0.0) == {"crowding", "has_probe_statistics"}
    assert update(crowding=gallery_pb2.CROWDING_CORRECTION_AUTO, has_probe_statistics=False) == set()


@pytest.mark.parametrize("field", ["target_fpir", "target_fmr"])
def test_a_rate_needs_a_calibration_of_the_contract(stubs: Stubs, gallery_id: str, field: str) -> None:
    settings = gallery_pb2.GallerySettings()
    setattr(settings, field, 0.01)
    request = gallery_pb2.UpdateGalleryRequest(gallery_id=gallery_id, settings=settings)
    code, _, message = refusal(lambda: stubs.galleries.UpdateGallery(request))
    assert code == PRECONDITION
    assert f"{field} needs a calibration" in message


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("target_fpir", 0.0),
        ("target_fpir", 1.0),
        ("target_fpir", float("nan")),
        ("review_fpir", 0.1),
        ("target_fmr", float("nan")),
        ("ambiguity", 2.5),
        ("crowding", 9),
    ],
)
def test_wrong_settings_of_an_open_set_are_refused_by_their_field(
    stubs: Stubs, gallery_id: str, field: str, wrong: float
) -> None:
    settings = gallery_pb2.GallerySettings()
    setattr(settings, field, wrong)
    for call in (
        lambda: stubs.galleries.UpdateGallery(
            gallery_pb2.UpdateGalleryRequest(gallery_id=gallery_id, settings=settings)
        ),
        lambda: stubs.galleries.CreateGallery(
            gallery_pb2.CreateGalleryRequest(
                gallery_id="wrong",
                contract=types_pb2.EmbeddingContract(name="v", dimension=4),
                settings=settings,
            )
        ),
    ):
        code, reason, message = refusal(call)[:3]
        assert (code, reason) == (INVALID, "INVALID_INPUT")
        assert field in message


def test_pages_hold_every_gallery_once_in_order(stubs: Stubs) -> None:
    made = {make_gallery(stubs) for _ in range(5)}
    listed: list[str] = []
    token = ""
    while True:
        page = stubs.galleries.ListGalleries(gallery_pb2.ListGalleriesRequest(page_size=2, page_token=token))
        assert 1 <= len(page.galleries) <= 2
        listed.extend(gallery.gallery_id for gallery in page.galleries)
        token = page.next_page_token
        if not token:
            break
    assert listed == sorted(set(listed))
    assert made <= set(listed)


@pytest.mark.parametrize(
    ("size", "token"), [(-1, ""), (1001, ""), (0, "nonsense"), (0, "AmFiYw=="), (0, "ä")]
)
def test_wrong_pages_are_refused(stubs: Stubs, size: int, token: str) -> None:
    request = gallery_pb2.ListGalleriesRequest(page_size=size, page_token=token)
    assert refusal(lambda: stubs.galleries.ListGalleries(request))[:2] == (INVALID, "INVALID_INPUT")


def test_an_alias_moves_and_holds_its_gallery(stubs: Stubs) -> None:
    first, second = make_gallery(stubs), make_gallery(stubs)
    alias = f"alias-of-{first}"

    def point(gallery_id: str) -> str:
        request = gallery_pb2.SetAliasRequest(alias=alias, gallery_id=gallery_id)
        return str(stubs.galleries.SetAlias(request).previous_gallery_id)

    assert point(first) == ""
    assert point(second) == first
    got = stubs.galleries.GetGallery(gallery_pb2.GetGalleryRequest(gallery_id=alias)).gallery
    assert (got.gallery_id, list(got.aliases)) == (second, [alias])
    assert refusal(lambda: point("nothing"))[:2] == (NOT_FOUND, "GALLERY_NOT_FOUND")
    delete = gallery_pb2.DeleteGalleryRequest(gallery_id=second)
    assert refusal(lambda: stubs.galleries.DeleteGallery(delete))[0] is PRECONDITION
    stubs.galleries.DeleteAlias(gallery_pb2.DeleteAliasRequest(alias=alias))
    again = gallery_pb2.DeleteAliasRequest(alias=alias)
    assert refusal(lambda: stubs.galleries.DeleteAlias(again))[:2] == (NOT_FOUND, "GALLERY_NOT_FOUND")
    stubs.galleries.DeleteGallery(delete)
    get = gallery_pb2.GetGalleryRequest(gallery_id=second)
    assert refusal(lambda: stubs.galleries.GetGallery(get))[:2] == (NOT_FOUND, "GALLERY_NOT_FOUND")


def test_a_retried_creation_and_deletion_get_their_first_answers(stubs: Stubs) -> None:
    create = gallery_pb2.CreateGalleryRequest(gallery_id="retried", contract=CONTRACT, request_id="make it")
    first = stubs.galleries.CreateGallery(create)
    assert stubs.galleries.CreateGallery(create) == first
    other = gallery_pb2.CreateGalleryRequest(gallery_id="other", contract=CONTRACT, request_id="make it")
    assert refusal(lambda: stubs.galleries.CreateGallery(other))[:2] == (INVALID, "REQUEST_ID_REUSED")
    # The same id for another rpc is another request.
    delete = gallery_pb2.DeleteGalleryRequest(gallery_id="retried", request_id="make it")
    stubs.galleries.DeleteGallery(delete)
    stubs.galleries.DeleteGallery(delete)
    assert stubs.galleries.CreateGallery(create) == first


def test_status_counts_what_is_there(stubs: Stubs, vector_server: ServerProcess, gallery_id: str) -> None:
    enrollment = enrollment_pb2.Enrollment(
        identity_id="a", samples=[enrollment_pb2.Sample(vector=as_message(unit(np.random.default_rng(1))))]
    )
    stubs.enrollment.Enroll(enrollment_pb2.EnrollRequest(gallery_id=gallery_id, enrollment=enrollment))
    status = stubs.admin.Status(admin_pb2.StatusRequest())
    assert (status.version, status.device, status.HasField("contract")) == (engine.__version__, "none", False)
    galleries = {gallery.gallery_id: gallery for gallery in status.galleries}
    assert list(galleries) == sorted(galleries)
    mine = galleries[gallery_id]
    assert (mine.num_identities, mine.num_templates, mine.sequence) == (1, 1, 1)


def test_an_index_is_built_with_progress(stubs: Stubs, gallery_id: str) -> None:
    rng = np.random.default_rng(2)
    drafts = [
        enrollment_pb2.Enrollment(
            identity_id=f"{number}", samples=[enrollment_pb2.Sample(vector=as_message(unit(rng)))]
        )
        for number in range(200)
    ]
    request = enrollment_pb2.EnrollStreamRequest(gallery_id=gallery_id, enrollments=drafts)
    list(stubs.enrollment.EnrollStream(iter([request])))
    *earlier, last = stubs.admin.BuildIndex(admin_pb2.BuildIndexRequest(gallery_id=gallery_id))
    assert not any(step.is_done for step in earlier)
    assert (last.is_done, last.num_done, last.num_total, last.sequence) == (True, 200, 200, 1)
    assert last.generation >= 1
    missing = admin_pb2.BuildIndexRequest(gallery_id="nothing")
    assert refusal(lambda: list(stubs.admin.BuildIndex(missing)))[:2] == (NOT_FOUND, "GALLERY_NOT_FOUND")


def test_what_this_version_lacks_says_so(stubs: Stubs) -> None:
    expected = (grpc.StatusCode.UNIMPLEMENTED, "NOT_IMPLEMENTED")
    assert refusal(lambda: list(stubs.admin.Backup(admin_pb2.BackupRequest())))[:2] == expected
