"""How a gallery is searched survives the wire, and what this version does not know is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidInputError
from engine.pb.identiface.v1 import admin_pb2, identification_pb2, types_pb2
from engine.types import SEARCH_DEFAULTS, Agreement, Consistency, FaceChoice, Fusion, SearchOptions
from engine.wire import limits, values
from engine.wire.answers import pack_agreement, unpack_agreement
from engine.wire.questions import pack_search_options, unpack_search_options

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
OPTIONS = st.builds(
    SearchOptions,
    exact=st.booleans(),
    fusion=st.sampled_from(Fusion),
    filter=st.dictionaries(TEXT, TEXT, max_size=4),
    consistency=st.sampled_from(Consistency),
)


@given(OPTIONS, st.integers(1, 100), st.none() | st.floats(-1, 1), TEXT)
def test_options_survive_the_wire(
    options: SearchOptions, k: int, threshold: float | None, digest: str
) -> None:
    sent = pack_search_options(options, k, threshold, digest)
    message = identification_pb2.SearchOptions.FromString(sent.SerializeToString())
    assert unpack_search_options(message) == options
    assert (message.k, message.contract_digest) == (k, digest)
    assert (message.threshold if message.HasField("threshold") else None) == threshold


def test_options_that_are_not_set_have_their_defaults() -> None:
    assert unpack_search_options(identification_pb2.SearchOptions()) == SEARCH_DEFAULTS


@pytest.mark.parametrize("field", ["fusion", "consistency"])
def test_a_number_that_this_version_does_not_know_is_refused_by_name(field: str) -> None:
    message = identification_pb2.SearchOptions(**{field: 7})  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match=f"{field} 7"):
        unpack_search_options(message)


@given(st.builds(Agreement, st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1)))
def test_what_was_measured_survives_the_wire(agreement: Agreement) -> None:
    message = pack_agreement(agreement)
    assert message is not None
    assert unpack_agreement(admin_pb2.Agreement.FromString(message.SerializeToString())) == agreement
    assert pack_agreement(None) is None


def test_pictures_leave_to_the_server_what_is_not_given() -> None:
    picture = values.pack_picture(b"jpeg")
    assert (picture.data, picture.face_choice) == (b"jpeg", types_pb2.FACE_CHOICE_UNSPECIFIED)
    assert values.unpack_min_face_px(picture) is None
    assert values.unpack_min_face_px(values.pack_picture(b"jpeg", FaceChoice.ALL, 20)) == 20
    for wrong in (-1, 1, limits.FACE_PX_MIN - 1):
        with pytest.raises(InvalidInputError, match=f"min_face_px is {wrong}; it must be at least 12"):
            values.unpack_min_face_px(types_pb2.Picture(min_face_px=wrong))
    assert values.unpack_min_face_px(types_pb2.Picture(min_face_px=limits.FACE_PX_MIN)) == limits.FACE_PX_MIN


def test_the_smallest_face_is_that_of_the_detector() -> None:
    from engine.embedding.detect import WINDOW_PX

    assert limits.FACE_PX_MIN == WINDOW_PX
