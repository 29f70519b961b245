"""The typed client against real servers: every call, its values and its errors."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engine.client import Client, EnrollItem, EnrollOptions, FaceEnrollResult, Picture, Sample
from engine.errors import (
    AlreadyExistsError,
    ContractMismatchError,
    EngineError,
    GalleryNotFoundError,
    IdentityNotFoundError,
    InvalidIdError,
    InvalidInputError,
    InvalidVectorError,
    NoEmbedderError,
    PreconditionError,
    RequestIdReusedError,
    TemplateLimitError,
    TemplateNotFoundError,
    UndecodablePictureError,
)
from engine.types import (
    Decision,
    EmbeddingContract,
    FaceChoice,
    GallerySettings,
    Template,
    ThresholdOrigin,
    Vector,
)
from tests.e2e.command import sample
from tests.e2e.conftest import ServerProcess, unit

pytestmark = [pytest.mark.e2e]
DIMENSION = 16
CONTRACT = EmbeddingContract("elsewhere", "", "", mirror=False, dimension=DIMENSION, threshold=0.9)
_numbers = itertools.count()


@pytest.fixture
def client(vector_server: ServerProcess) -> Iterator[Client]:
    """A client of the server without a network."""
    with Client(vector_server.address) as client:
        yield client


@pytest.fixture
def staff(client: Client) -> str:
    """A new empty gallery."""
    return client.create_gallery(f"client-{next(_numbers)}", CONTRACT).gallery_id


def vector(seed: int) -> Vector:
    """A unit vector of its own for each seed."""
    return unit(np.random.default_rng(seed), DIMENSION)


def test_galleries_and_aliases(client: Client, staff: str) -> None:
    described = client.get_gallery(staff)
    assert (described.contract, described.settings, described.num_identities) == (
        CONTRACT,
        GallerySettings(),
        0,
    )
    assert abs(described.create_time - time.time()) < 600
    assert staff in [gallery.gallery_id for gallery in client.list_galleries()]
    changed = client.update_gallery(staff, templates_per_identity_max=2, threshold=0.5)
    assert changed.settings == GallerySettings(2, 0.5)
    assert client.update_gallery(staff, clear_threshold=True).settings == GallerySettings(2, None)
    alias, other = f"{staff}-now", f"{staff}-other"
    assert client.set_alias(alias, staff) == ""
    client.create_gallery(other, CONTRACT, GallerySettings(3, -0.25))
    assert client.set_alias(alias, other) == staff
    assert client.get_gallery(alias).gallery_id == other
    assert client.get_gallery(other).aliases == (alias,)
    with pytest.raises(AlreadyExistsError):
        client.create_gallery(staff, CONTRACT)
    with pytest.raises(InvalidIdError):
        client.create_gallery("No Such Name", CONTRACT)
    with pytest.raises(PreconditionError):
        client.delete_gallery(other)
    client.delete_alias(alias)
    client.delete_gallery(other)
    with pytest.raises(GalleryNotFoundError):
        client.get_gallery(other)


def test_identities_come_back_as_they_were_enrolled(client: Client, staff: str) -> None:
    samples: list[Sample] = [vector(1), Template(vector(2), quality=0.5, source="record 7")]
    expire_time = time.time() + 3600.0
    result = client.enroll(
        staff,
        "ada",
        samples,
        attributes={"team": "engines", "née": "Byron"},
        options=EnrollOptions(expire_time=expire_time),
        contract_digest=CONTRACT.digest,
    )
    assert (result.identity_id, result.num_added, result.is_new_identity) == ("ada", 2, True)
    assert (result.faces, len(result.template_ids), result.sequence) == ((None, None), 2, 1)
    again = client.enroll(staff, "ada", samples)
    assert (again.num_added, again.num_ignored, again.template_ids) == (0, 2, result.template_ids)
    ada = client.get_identity(staff, "ada", with_vectors=True)
    assert (ada.identity_id, ada.attributes, ada.template_ids) == (
        "ada",
        {"team": "engines", "née": "Byron"},
        result.template_ids,
    )
    assert ada.expire_time == pytest.approx(expire_time, abs=1e-3)
    assert [(template.quality, template.source) for template in ada.templates] == [(0, ""), (0.5, "record 7")]
    vectors = [template.vector for template in ada.templates]
    np.testing.assert_allclose(vectors, [vector(1), vector(2)], atol=1e-6)
    assert client.get_identity(staff, "ada").templates[0].vector.shape == (0,)
    changed = client.update_identity(
        staff, "ada", attributes={"team": "notes"}, remove_attributes=["née"], clear_expire_time=True
    )
    assert (changed.attributes, changed.expire_time, changed.sequence) == ({"team": "notes"}, None, 2)
    replaced = client.enroll(staff, "ada", [vector(3)], options=EnrollOptions(replace=True))
    assert client.get_identity(staff, "ada").template_ids == replaced.template_ids
    assert client.get_identity(staff, "ada").attributes == {}


def test_removals(client: Client, staff: str) -> None:
    ids = [f"p{number}" for number in range(4)]
    templates = [client.enroll(staff, name, [vector(row)]).template_ids[0] for row, name in enumerate(ids)]
    one = client.remove_template(staff, "p0", templates[0])
    assert (one.num_identities, one.num_templates, one.is_erased) == (0, 1, False)
    two = client.remove_identity(staff, "p1", erase=True)
    assert (two.num_identities, two.num_templates, two.is_erased) == (1, 1, True)
    many = client.batch_remove(staff, ["p2", "ghost"])
    assert (many.num_identities, many.not_found_identity_ids) == (1, ("ghost",))
    assert many.sequence > two.sequence > one.sequence
    assert [identity.identity_id for identity in client.list_identities(staff)] == ["p0", "p3"]
    with pytest.raises(IdentityNotFoundError):
        client.remove_identity(staff, "p1")
    with pytest.raises(TemplateNotFoundError):
        client.remove_template(staff, "p0", templates[0])


def test_identify_and_verify_by_vector(client: Client, staff: str) -> None:
    assert client.identify(staff, vector(1))[0].decision is Decision.NO_MATCH
    for name in (1, 2, 3):
        client.enroll(staff, f"p{name}", [vector(name)])
    (found,) = client.identify(staff, vector(2), 2)
    assert (found.decision, found.face, found.is_exact) == (Decision.MATCH, None, True)
    assert [candidate.identity_id for candidate in found.candidates][:1] == ["p2"]
    assert len(found.candidates) == 2
    oracle = max(float(vector(2) @ vector(other)) for other in (1, 3))
    assert found.candidates[1].similarity == pytest.approx(oracle, abs=1e-5)
    assert (found.threshold, found.threshold_origin, found.num_searched) == (0.9, ThresholdOrigin.CONTRACT, 3)
    (asked,) = client.identify(staff, vector(9), threshold=-1.0, contract_digest=CONTRACT.digest)
    assert (asked.decision, asked.threshold_origin) == (Decision.MATCH, ThresholdOrigin.REQUEST)
    mine = client.verify(staff, "p1", vector(1))
    assert mine.decision is Decision.MATCH
    assert mine.similarity == pytest.approx(1.0, abs=1e-6)
    assert mine.template_id is not None
    other = client.verify(staff, "p1", vector(2))
    assert other.similarity == pytest.approx(float(vector(1) @ vector(2)), abs=1e-6)
    pair = client.verify_pair(vector(1), vector(2), gallery_id=staff)
    assert (pair.decision, pair.template_id) == (Decision.NO_MATCH, None)
    assert pair.similarity == pytest.approx(other.similarity, abs=1e-6)


def test_batches_and_streams_answer_each_item(client: Client, staff: str) -> None:
    num_items = 300
    items = [EnrollItem(f"p{number:03}", [vector(number)]) for number in range(num_items)]
    items[7] = EnrollItem("p007", [np.zeros(DIMENSION, np.float32)])
    outcomes = list(client.enroll_stream(staff, items, contract_digest=CONTRACT.digest))
    assert [name for name, _ in outcomes] == [item.identity_id for item in items]
    assert isinstance(outcomes[7][1], InvalidVectorError)
    assert all(isinstance(outcome, FaceEnrollResult) for _, outcome in outcomes[:7] + outcomes[8:])
    probes = [vector(3), np.full(DIMENSION, np.nan, np.float32), vector(299)]
    for answers in (
        client.batch_identify(staff, probes, 1),
        list(client.identify_stream(staff, probes, 1)),
        list(client.identify_stream(staff, iter(probes), 1, probes_per_message=2)),
    ):
        first, bad, last = answers
        assert isinstance(bad, InvalidVectorError)
        assert not isinstance(first, EngineError)
        assert not isinstance(last, EngineError)
        assert first[0].candidates[0].identity_id == "p003"
        assert last[0].candidates[0].identity_id == "p299"
    with pytest.raises(InvalidInputError):
        client.batch_identify(staff, [])


def test_an_index_is_built_with_progress(client: Client, staff: str) -> None:
    for number in range(3):
        client.enroll(staff, f"p{number}", [vector(number)])
    progress = list(client.build_index(staff))
    assert (progress[-1].is_done, progress[-1].num_total, progress[-1].sequence) == (True, 3, 3)
    (status,) = (gallery for gallery in client.status().galleries if gallery.gallery_id == staff)
    assert (status.generation, status.num_identities, status.sequence) == (progress[-1].generation, 3, 3)


def test_every_class_of_error_arrives_as_itself(client: Client, staff: str) -> None:
    with pytest.raises(GalleryNotFoundError):
        client.identify("no-gallery", vector(1))
    with pytest.raises(InvalidVectorError, match="17 floats"):
        client.identify(staff, np.ones(17, np.float32))
    with pytest.raises(InvalidVectorError, match="length"):
        client.enroll(staff, "ada", [2 * vector(1)])
    with pytest.raises(InvalidIdError):
        client.enroll(staff, "", [vector(1)])
    with pytest.raises(InvalidInputError):
        client.identify(staff, vector(1), 101)
    with pytest.raises(ContractMismatchError):
        client.enroll(staff, "ada", [vector(1)], contract_digest="0" * 64)
    with pytest.raises(NoEmbedderError):
        client.identify(staff, b"jpeg")
    with pytest.raises(NoEmbedderError):
        client.detect([b"jpeg"])
    client.enroll(staff, "ada", [vector(number) for number in range(16)])
    with pytest.raises(TemplateLimitError):
        client.enroll(staff, "ada", [vector(99)])
    with pytest.raises(InvalidInputError, match="64 MiB"):
        client.identify(staff, bytes(65 * 2**20))


def test_a_text_that_is_no_unicode_is_refused_by_the_client(client: Client, staff: str) -> None:
    with pytest.raises(InvalidInputError):
        client.enroll(staff, "bad\udcff", [vector(1)])
    with pytest.raises(InvalidInputError):
        list(client.enroll_stream(staff, [EnrollItem("bad\udcff")]))
    with pytest.raises(InvalidInputError):
        list(client.list_identities("bad\udcff"))


def test_the_same_request_id_is_one_write(client: Client, staff: str) -> None:
    first = client.enroll(staff, "ada", [vector(1)], request_id="one")
    assert client.enroll(staff, "ada", [vector(1)], request_id="one") == first
    with pytest.raises(RequestIdReusedError):
        client.enroll(staff, "ada", [vector(2)], request_id="one")
    assert client.get_gallery(staff).num_templates == 1


def test_eight_threads_each_find_what_they_just_enrolled(client: Client, staff: str) -> None:
    def enroll_and_find(thread: int) -> None:
        for step in range(25):
            name, own = f"t{thread}-{step}", vector(1000 * thread + step + 10**6)
            written = client.enroll(staff, name, [own])
            (found,) = client.identify(staff, own, 1)
            assert found.candidates[0].identity_id == name
            assert found.searched_sequence >= written.sequence

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(enroll_and_find, range(8)))
    assert client.get_gallery(staff).num_identities == 200


@pytest.mark.model
def test_pictures_are_found_embedded_enrolled_and_identified(picture_server: ServerProcess) -> None:
    ada = sample("skimage", "data/astronaut.png").read_bytes()
    grace = sample("matplotlib", "mpl-data/sample_data/grace_hopper.jpg").read_bytes()
    with Client(picture_server.address) as client:
        contract = client.status().contract
        assert contract is not None
        assert client.create_gallery("client-pictures").contract == contract
        found, bad = client.detect([ada, b"jpeg"])
        assert not isinstance(found, EngineError)
        assert isinstance(bad, UndecodablePictureError)
        assert found[0].keypoints.shape == (5, 2)
        outcomes, embedded_by = client.embed([ada, Picture(grace, FaceChoice.CENTRE)])
        assert embedded_by == contract
        streamed = list(client.embed_stream([ada, b"jpeg", grace], pictures_per_message=2))
        assert isinstance(streamed[1], UndecodablePictureError)
        for left, right in ((outcomes[0], streamed[0]), (outcomes[1], streamed[2])):
            assert not isinstance(left, EngineError)
            assert not isinstance(right, EngineError)
            np.testing.assert_allclose(left[0].template, right[0].template, atol=1e-5)
        enrolled = client.enroll("client-pictures", "ada", [Picture(ada, source="ada.png")])
        assert enrolled.faces[0] is not None
        assert client.get_identity("client-pictures", "ada").templates[0].source == "ada.png"
        (face,) = client.identify("client-pictures", ada, choice=FaceChoice.ALL)
        assert face.face is not None
        assert (face.decision, face.candidates[0].identity_id) == (Decision.MATCH, "ada")
        assert client.verify("client-pictures", "ada", grace).decision is Decision.NO_MATCH
        pair = client.verify_pair(ada, grace)
        assert pair.probe_face is not None
        assert pair.reference_face is not None
