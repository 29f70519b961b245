"""Counts of probes end with what they are of: a gallery that wants none any more, or is deleted elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.galleries import Galleries
from engine.types import GallerySettings
from tests.contract.peer import CONTRACT, FACES, Peer, together

Pair = tuple[Galleries, Peer]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """This process, which counted a probe of the gallery "people", and another."""
    with together(tmp_path) as (galleries, (peer,)):
        galleries.create("people", CONTRACT, GallerySettings(has_probe_statistics=True))
        peer.tell("enroll", "people", 0, 5)
        galleries.get("people").identify(FACES[:1])
        assert galleries.probe_counters.of("people").report().num_probes == 1
        yield galleries, peer


def test_nothing_is_told_of_a_gallery_that_another_process_deleted(pair: Pair) -> None:
    galleries, peer = pair
    peer.tell("delete", "people")
    galleries.refresh()
    assert not galleries.probe_counters.all()
    # Nor of its successor what was counted before.
    peer.tell("create", "people")
    assert galleries.probe_counters.of("people").report().num_probes == 0


def test_a_gallery_that_wants_no_counts_any_more_has_none(pair: Pair) -> None:
    galleries, _ = pair
    gallery = galleries.get("people")
    galleries.refresh()
    assert galleries.probe_counters.all()
    gallery.update(has_probe_statistics=False)
    gallery.identify(FACES[:1])
    galleries.refresh()
    assert not galleries.probe_counters.all()
