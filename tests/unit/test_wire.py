"""Values and errors survive the wire, and nothing that a server may send breaks the client."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import (
    CorruptDataError,
    DeadlineError,
    EngineError,
    ExhaustedError,
    GalleryNotFoundError,
    InvalidInputError,
    InvalidVectorError,
    NotFoundError,
    NotImplementedYetError,
    OverloadedError,
    PreconditionError,
    SettingsError,
    UnavailableError,
)
from engine.pb.identiface.v1 import gallery_pb2, identification_pb2, types_pb2
from engine.types import (
    Box,
    Candidate,
    CrowdingCorrection,
    Decision,
    EmbeddedFace,
    EmbeddingContract,
    EnrollResult,
    Face,
    FaceChoice,
    GalleryInfo,
    GallerySettings,
    Identification,
    Identity,
    RemoveResult,
    StoredTemplate,
    ThresholdOrigin,
    Verification,
)
from engine.wire import answers, galleries, values
from engine.wire.errors import STATUS_MESSAGE_BYTES_MAX, code_of, from_status, to_status

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOATS32 = st.floats(-1e6, 1e6, width=32)
TIMES_S = st.floats(0, 4e9)
SEQUENCES = st.integers(0, 2**64 - 1)
COUNTS = st.integers(0, 2**31 - 1)


@st.composite
def faces(draw: st.DrawFn) -> Face:
    points = draw(st.lists(st.tuples(FLOATS32, FLOATS32), min_size=5, max_size=5))
    box = Box(*draw(st.tuples(FLOATS32, FLOATS32, FLOATS32, FLOATS32)))
    return Face(box, draw(st.floats(0, 1, width=32)), np.array(points, np.float32))


CONTRACTS = st.builds(
    EmbeddingContract,
    name=TEXT,
    weights_sha256=TEXT,
    alignment=TEXT,
    mirror=st.booleans(),
    dimension=st.integers(2, 1024),
    threshold=st.floats(-1, 1),
)
RATES = st.floats(0, 1)
SETTINGS = st.builds(
    GallerySettings,
    templates_per_identity_max=st.integers(1, 16),
    threshold=st.none() | st.floats(-1, 1),
    keep_crops=st.booleans(),
    target_fpir=st.none() | RATES,
    review_fpir=st.none() | RATES,
    ambiguity=st.floats(0, 2),
    target_fmr=st.none() | RATES,
    crowding=st.sampled_from(CrowdingCorrection),
    has_probe_statistics=st.booleans(),
)
CANDIDATES = st.builds(Candidate, TEXT, st.floats(-1, 1), SEQUENCES, st.none() | st.floats(-2, 2))
IDENTIFICATIONS = st.builds(
    Identification,
    decision=st.sampled_from(Decision),
    candidates=st.lists(CANDIDATES, max_size=4).map(tuple),
    threshold=st.floats(-1, 1),
    threshold_origin=st.sampled_from(ThresholdOrigin),
    searched_sequence=SEQUENCES,
    num_searched=COUNTS,
    is_exact=st.booleans(),
    num_identities=COUNTS,
    estimated_fpir=st.none() | RATES,
    review_threshold=st.none() | st.floats(-2, 2),
)
VERIFICATIONS = st.builds(
    Verification,
    decision=st.sampled_from(Decision),
    similarity=st.floats(-1, 1),
    threshold=st.floats(-1, 1),
    threshold_origin=st.sampled_from(ThresholdOrigin),
    template_id=st.none() | st.integers(1, 2**64 - 1),
    searched_sequence=SEQUENCES,
)


def over_the_wire(message: Message) -> Message:
    """The message as its receiver has it."""
    return type(message).FromString(message.SerializeToString())


def is_same_face(left: Face | None, right: Face | None) -> bool:
    if left is None or right is None:
        return left is right
    return (left.box, left.confidence) == (right.box, right.confidence) and bool(
        (left.keypoints == right.keypoints).all()
    )


def all_error_classes(kind: type[EngineError] = EngineError) -> Iterator[type[EngineError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from all_error_classes(below)


def test_every_error_class_survives_the_wire_with_message_hint_and_retry() -> None:
    kinds = list(all_error_classes())
    assert len({kind.reason for kind in kinds}) == len(kinds) > 25
    for kind in kinds:
        plain = from_status(over_the_wire(to_status(kind("was soll das"))))
        assert type(plain) is kind
        assert (plain.message, plain.hint, plain.retry_after_s) == ("was soll das", kind.hint, None)
        rich = from_status(over_the_wire(to_status(kind("m", hint="wait", retry_after_s=0.25))))
        assert type(rich) is kind
        assert (rich.message, rich.hint, rich.retry_after_s) == ("m", "wait", 0.25)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (EngineError, grpc.StatusCode.INTERNAL),
        (InvalidVectorError, grpc.StatusCode.INVALID_ARGUMENT),
        (GalleryNotFoundError, grpc.StatusCode.NOT_FOUND),
        (PreconditionError, grpc.StatusCode.FAILED_PRECONDITION),
        (SettingsError, grpc.StatusCode.FAILED_PRECONDITION),
        (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
        (UnavailableError, grpc.StatusCode.UNAVAILABLE),
        (NotImplementedYetError, grpc.StatusCode.UNIMPLEMENTED),
        (CorruptDataError, grpc.StatusCode.DATA_LOSS),
    ],
)
def test_a_class_has_the_code_of_its_nearest_ancestor(kind: type[EngineError], code: grpc.StatusCode) -> None:
    assert code_of(kind("m")) is code
    assert to_status(kind("m")).code == code.value[0]


@given(st.text(max_size=3000) | st.text("é漢😀\ud800", max_size=3000))
def test_a_status_of_any_text_is_valid_and_bounded(text: str) -> None:
    status = over_the_wire(to_status(EngineError(text, hint=text)))
    back = from_status(status)
    assert len(back.message.encode()) <= STATUS_MESSAGE_BYTES_MAX
    assert status.ByteSize() < 3 * STATUS_MESSAGE_BYTES_MAX
    if text and len(text) < 200 and "\ud800" not in text and text.isprintable():
        assert back.message == text


def test_a_reason_of_a_newer_version_becomes_the_nearest_class_by_code() -> None:
    status = Status(code=grpc.StatusCode.NOT_FOUND.value[0], message="no shard 7")
    status.details.add().Pack(ErrorInfo(reason="SHARD_NOT_FOUND", domain="identiface"))
    error = from_status(status)
    assert type(error) is NotFoundError
    assert error.message == "no shard 7 (SHARD_NOT_FOUND)"


def test_a_status_of_somebody_else_is_read_by_its_code_alone() -> None:
    status = Status(code=grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], message="quota")
    status.details.add().Pack(ErrorInfo(reason="GALLERY_NOT_FOUND", domain="example.com"))
    assert type(from_status(status)) is ExhaustedError
    assert type(from_status(Status(code=999))) is EngineError


@given(CONTRACTS)
def test_contracts_survive_the_wire_digest_included(contract: EmbeddingContract) -> None:
    message = over_the_wire(values.pack_contract(contract))
    assert isinstance(message, types_pb2.EmbeddingContract)
    assert values.unpack_contract(message) == contract
    assert message.digest == contract.digest


def test_a_contract_sent_without_normalisation_is_l2() -> None:
    assert values.unpack_contract(types_pb2.EmbeddingContract(name="mine", dimension=4)).normalisation == "l2"


@given(st.builds(GalleryInfo, TEXT, CONTRACTS, SETTINGS, COUNTS, COUNTS, SEQUENCES, TIMES_S), st.sets(TEXT))
def test_galleries_survive_the_wire(info: GalleryInfo, aliases: set[str]) -> None:
    message = over_the_wire(galleries.pack_gallery(info, aliases))
    assert isinstance(message, gallery_pb2.Gallery)
    back = galleries.unpack_gallery(message)
    assert back.create_time == pytest.approx(info.create_time, abs=1e-9)
    assert (back.gallery_id, back.contract, back.settings) == (info.gallery_id, info.contract, info.settings)
    assert (back.num_identities, back.num_templates) == (info.num_identities, info.num_templates)
    assert back.sequence == info.sequence
    assert list(message.aliases) == sorted(aliases)


def test_settings_that_are_not_set_have_their_defaults() -> None:
    assert galleries.unpack_gallery_settings(gallery_pb2.GallerySettings()) == GallerySettings()


@given(st.floats(values.TIME_S_MIN, values.TIME_S_MAX - 1))
def test_times_survive_the_wire_to_the_nanosecond(time_s: float) -> None:
    assert values.unpack_time(values.pack_time(time_s)) == pytest.approx(time_s, rel=1e-15, abs=1e-9)


@pytest.mark.parametrize("time_s", [float("nan"), float("inf"), -1e12, 1e12])
def test_times_out_of_range_are_refused(time_s: float) -> None:
    with pytest.raises(InvalidInputError, match="years 1 to 9999"):
        values.pack_time(time_s)


@pytest.mark.parametrize(("seconds", "nanos"), [(2**62, 0), (-(2**62), 0), (0, -1), (0, 10**9)])
def test_timestamps_out_of_range_are_refused_by_name(seconds: int, nanos: int) -> None:
    with pytest.raises(InvalidInputError, match="expire_time"):
        values.unpack_time(Timestamp(seconds=seconds, nanos=nanos), "expire_time")


@given(faces())
def test_faces_survive_the_wire(face: Face) -> None:
    message = values.pack_face(face)
    assert message is not None
    assert is_same_face(values.unpack_face(message), face)


def test_a_face_without_keypoints_has_none() -> None:
    assert values.unpack_face(types_pb2.Face()).keypoints.shape == (0, 2)


@given(st.lists(faces(), max_size=3), st.integers(1, 8))
def test_embedded_faces_survive_the_wire_and_detected_ones_carry_no_vector(
    found: list[Face], dimension: int
) -> None:
    embedded = [EmbeddedFace(face, np.full(dimension, row, np.float32)) for row, face in enumerate(found)]
    back = values.unpack_embedded_faces(values.pack_picture_faces(embedded))
    assert all(is_same_face(left.face, right.face) for left, right in zip(back, embedded, strict=True))
    assert all((left.template == right.template).all() for left, right in zip(back, embedded, strict=True))
    detected = values.pack_picture_faces(found)
    assert all(not face.vector for face in detected.faces)
    assert all(map(is_same_face, values.unpack_detected_faces(detected), found))


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=16))
def test_vectors_are_little_endian_float32(floats: list[float]) -> None:
    vector = np.array(floats, np.float32)
    data = values.pack_vector(vector).data
    assert data == vector.astype("<f4").tobytes()
    back = values.vector_from_bytes(data)
    assert back.flags.writeable
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, vector)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 4), np.float32), np.float32(1), np.array(["a"]), np.zeros(4, np.complex64)]
)
def test_what_is_no_vector_is_refused(array: np.ndarray) -> None:
    with pytest.raises(InvalidVectorError, match=r"expected a vector float32\[d\]"):
        values.pack_vector(array)


def test_doubles_and_integers_are_sent_as_float32() -> None:
    assert len(values.pack_vector(np.array([1.0, 0.0])).data) == 8
    assert len(values.pack_vector(np.array([1, 0])).data) == 8


def test_a_torn_vector_is_refused() -> None:
    with pytest.raises(InvalidVectorError, match="7 bytes"):
        values.vector_from_bytes(b"1234567")


def test_face_choices_survive_the_wire_and_unspecified_is_the_default() -> None:
    for choice in FaceChoice:
        assert values.unpack_face_choice(values.pack_face_choice(choice)) is choice
    for default in FaceChoice:
        assert values.unpack_face_choice(values.pack_face_choice(None), default) is default
    with pytest.raises(InvalidInputError, match="face_choice 77"):
        values.unpack_face_choice(77)


@given(IDENTIFICATIONS, st.none() | faces())
def test_identifications_survive_the_wire(identification: Identification, face: Face | None) -> None:
    message = over_the_wire(answers.pack_identification(identification, face))
    assert isinstance(message, identification_pb2.FaceIdentification)
    back, back_face = answers.unpack_identification(message)
    assert back == identification
    assert is_same_face(back_face, face)


@given(VERIFICATIONS, st.none() | faces(), st.none() | faces())
def test_verifications_survive_the_wire(
    verification: Verification, probe_face: Face | None, reference_face: Face | None
) -> None:
    message = over_the_wire(answers.pack_verification(verification, probe_face, reference_face))
    assert isinstance(message, identification_pb2.VerifyResponse)
    back, back_probe, back_reference = answers.unpack_verification(message)
    assert back == verification
    assert is_same_face(back_probe, probe_face)
    assert is_same_face(back_reference, reference_face)


def test_a_decision_or_threshold_origin_of_a_newer_server_is_refused_by_name() -> None:
    message = identification_pb2.FaceIdentification(
        decision=types_pb2.DECISION_MATCH, threshold_origin=types_pb2.THRESHOLD_ORIGIN_GALLERY
    )
    message.decision = 9  # type: ignore[assignment]
    with pytest.raises(NotImplementedYetError, match="decision 9"):
        answers.unpack_identification(message)
    message.decision = types_pb2.DECISION_MATCH
    message.threshold_origin = 8  # type: ignore[assignment]
    with pytest.raises(NotImplementedYetError, match="threshold origin 8"):
        answers.unpack_identification(message)


@given(st.lists(st.tuples(SEQUENCES, st.none() | faces()), max_size=4), SEQUENCES, TEXT, st.booleans())
def test_enroll_results_survive_the_wire(
    templates: list[tuple[int, Face | None]], sequence: int, identity_id: str, is_new: bool
) -> None:
    ids = tuple(template_id for template_id, _ in templates)
    result = EnrollResult(sequence, identity_id, ids, len(ids), 2, 1, is_new, 3)
    message = answers.pack_enroll_result(result, [face for _, face in templates])
    back, back_faces = answers.unpack_enroll_result(message, identity_id)
    assert back == result
    assert all(is_same_face(*pair) for pair in zip(back_faces, [face for _, face in templates], strict=True))
    assert message.receipt.durability == types_pb2.DURABILITY_SYNCED
    assert (
        answers.pack_enroll_result(result).templates[:1]
        == answers.pack_enroll_result(result, [None] * len(ids)).templates[:1]
    )


@given(st.builds(RemoveResult, SEQUENCES, COUNTS, COUNTS, st.booleans()))
def test_removals_survive_the_wire(result: RemoveResult) -> None:
    receipt = answers.pack_receipt(result.sequence)
    assert answers.unpack_removal(answers.pack_removal(result), receipt) == result


@given(
    st.lists(st.tuples(SEQUENCES, st.floats(0, 1, width=32), TEXT, TIMES_S), max_size=3),
    st.dictionaries(TEXT, TEXT, max_size=3),
    st.none() | TIMES_S,
    st.booleans(),
)
def test_identities_survive_the_wire(
    stored: list[tuple[int, float, str, float]],
    attributes: dict[str, str],
    expire_time: float | None,
    with_vectors: bool,
) -> None:
    vector = np.array([0.6, 0.8], np.float32)
    templates = [StoredTemplate(row[0], vector, *row[1:]) for row in stored]
    identity = Identity("ada", attributes, tuple(row[0] for row in stored), 1.5, expire_time)
    message = over_the_wire(answers.pack_identity(identity, templates, with_vectors=with_vectors))
    assert isinstance(message, types_pb2.Identity)
    back, back_templates = answers.unpack_identity(message)
    assert back.expire_time == (None if expire_time is None else pytest.approx(expire_time, abs=1e-9))
    assert (back.identity_id, back.attributes, back.template_ids, back.create_time) == (
        identity.identity_id,
        identity.attributes,
        identity.template_ids,
        identity.create_time,
    )
    for left, right in zip(back_templates, templates, strict=True):
        assert (left.template_id, left.quality, left.source) == (
            right.template_id,
            right.quality,
            right.source,
        )
        np.testing.assert_array_equal(left.vector, vector if with_vectors else np.empty(0))
