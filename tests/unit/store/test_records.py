"""Binary records: round trips, checksums, versions."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CorruptDataError, NewerFormatError
from engine.store import records
from engine.store.records import IdentityRecord, Journal, ReceiptRecord, State, TemplateRecord
from engine.types import CrowdingCorrection, GallerySettings

NUMBERS = st.integers(0, (1 << 64) - 1)
TIMES_MS = st.integers(0, 253402300800000)


@given(NUMBERS, NUMBERS)
def test_keys_come_back_and_sort_as_their_numbers(one: int, other: int) -> None:
    assert records.number(records.key(one)) == one
    assert (records.key(one) < records.key(other)) == (one < other)


@given(st.integers(0, (1 << 32) - 1), st.lists(NUMBERS, min_size=10, max_size=10))
def test_a_state_comes_back(dimension: int, counters: list[int]) -> None:
    for number in range(records.FORMAT_LEAST, records.FORMAT_VERSION + 1):
        state = State(dimension, *counters, format=number)
        assert records.unpack_state(records.pack_state(state)) == state


@pytest.mark.parametrize(
    ("number", "settings"),
    [
        (2, GallerySettings(threshold=0.5, crowding=CrowdingCorrection.ON)),
        (3, GallerySettings(keep_crops=True)),
        (4, GallerySettings(keep_crops=True, target_fpir=0.01)),
        (4, GallerySettings(target_fmr=0.01)),
        (4, GallerySettings(ambiguity=0.01)),
    ],
)
def test_what_older_versions_would_do_wrong_is_of_a_format_that_they_refuse(
    number: int, settings: GallerySettings
) -> None:
    state = State(4, format=records.format_of(settings))
    assert records.state_format(records.pack_state(state)) == number
    assert records.FORMAT_VERSION == 4
    # A store of format 1 is brought to the next one as it is written.
    assert records.state_format(records.pack_state(State(4, format=1))) == 2


@given(NUMBERS, TIMES_MS, st.floats(0, 1, width=32), st.text(max_size=60), st.integers(0, 1024))
def test_a_template_comes_back(
    number: int, create_ms: int, quality: float, source: str, dimension: int
) -> None:
    vector = np.random.default_rng(dimension).normal(size=dimension).astype(np.float32)
    back = records.unpack_template(
        records.pack_template(TemplateRecord(number, create_ms, quality, source, vector))
    )
    assert (back.identity_number, back.create_ms, back.quality, back.source) == (
        number,
        create_ms,
        quality,
        source,
    )
    assert back.vector.dtype == np.float32
    assert back.vector.tobytes() == vector.tobytes()


@pytest.mark.parametrize(
    "record",
    [
        Journal([], []),
        Journal([1, 1 << 63], [2]),
        IdentityRecord(7, 1, 0, [], {}),
        IdentityRecord(7, 1, 2, [3, 4], {"name": "Zoë", "": ""}),
        ReceiptRecord(b"\x00" * 32, 5, b""),
        "Zoë",
    ],
)
def test_other_records_come_back(record: object) -> None:
    assert records.unpack(records.pack(record), type(record)) == record


@pytest.mark.parametrize("size", range(5))
def test_a_record_that_is_cut_short_is_corrupt(size: int) -> None:
    for unpack in (records.unpack_state, records.unpack_template, lambda data: records.unpack(data, Journal)):
        with pytest.raises(CorruptDataError):
            unpack(records.pack(Journal([1], [2]))[:size])


def test_any_flipped_bit_is_found() -> None:
    vector = np.ones(4, np.float32)
    template = records.pack_template(TemplateRecord(1, 2, 0.5, "source", vector))
    for position in range(len(template) * 8):
        flipped = bytearray(template)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(CorruptDataError):
            records.unpack_template(bytes(flipped))


def test_a_template_of_the_wrong_length_under_a_right_checksum_is_corrupt() -> None:
    body = records.pack_template(TemplateRecord(1, 2, 0.5, "source", np.ones(4, np.float32)))[4:-1]
    with pytest.raises(CorruptDataError, match="length"):
        records.unpack_template(zlib.crc32(body).to_bytes(4, "little") + body)


def test_a_record_of_another_kind_is_corrupt() -> None:
    with pytest.raises(CorruptDataError, match="Journal"):
        records.unpack(records.pack("text"), Journal)


def test_a_newer_format_is_named_whatever_else_it_holds() -> None:
    body = (records.FORMAT_VERSION + 1).to_bytes(4, "little") + b"fields of the future"
    with pytest.raises(NewerFormatError, match=f"format {records.FORMAT_VERSION + 1}"):
        records.unpack_state(zlib.crc32(body).to_bytes(4, "little") + body)


def test_records_of_identities_and_templates_stay_inside_a_page() -> None:
    source = "s" * 255
    template = records.pack_template(TemplateRecord(1, 2, 0.5, source, np.ones(128, np.float32)))
    attributes = {f"{number:03d}": "v" * 29 for number in range(32)}
    identity = records.pack(
        IdentityRecord(1 << 60, 1 << 45, 1 << 45, [(1 << 60) + n for n in range(16)], attributes)
    )
    assert len(template) < 2000
    assert len(identity) < 2000


def test_settings_of_before_the_open_set_are_read_with_its_defaults() -> None:
    written = {"templates_per_identity_max": 4, "threshold": 0.5, "keep_crops": True}
    settings = records.unpack_settings(records.pack(written))
    assert settings == GallerySettings(4, 0.5, keep_crops=True)
    assert (settings.target_fpir, settings.crowding) == (None, CrowdingCorrection.AUTO)


def test_settings_come_back() -> None:
    settings = GallerySettings(
        target_fpir=0.001,
        review_fpir=0.01,
        ambiguity=0.02,
        target_fmr=1e-4,
        crowding=CrowdingCorrection.ON,
        has_probe_statistics=True,
    )
    assert records.unpack_settings(records.pack(settings)) == settings


def test_settings_of_a_newer_version_are_refused_by_what_is_not_known() -> None:
    with pytest.raises(NewerFormatError, match=r"'sometimes'.*crowding"):
        records.unpack_settings(records.pack({"crowding": "sometimes"}))
    with pytest.raises(CorruptDataError, match="checksum"):
        records.unpack_settings(records.pack({"crowding": "on"})[:-1])
