"""Galleries searched on a device, with CPU tensors in its place."""

from __future__ import annotations

import contextlib
import gc
import logging
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.config import build
from engine.errors import DeviceError, SettingsError
from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.index.gpu import MemoryPlan
from engine.index.settings import IndexSettings
from engine.live_index import report_nothing
from engine.types import EmbeddingContract, Enrollment, Template, Vectors
from tests.contract.naive import unit_vectors

CONTRACT = EmbeddingContract("drawn", "", "", False, 32, "l2", 0.5)
INDEX = IndexSettings(search_device="torch-cpu", flat_rows_max=0)
ON_DEVICE = GalleriesSettings(index=INDEX, maintenance_s=0.0)
NUM = 1500


def fill(galleries: Galleries, vectors: Vectors) -> Gallery:
    galleries.create("people", CONTRACT)
    gallery = galleries.get("people")
    enroll(gallery, vectors, range(len(vectors)))
    return gallery


def enroll(gallery: Gallery, vectors: Vectors, rows: range) -> None:
    for start in range(rows.start, rows.stop, 250):
        part = range(start, min(start + 250, rows.stop))
        gallery.enroll([Enrollment(f"{row:05d}", (Template(vectors[row]),)) for row in part])


def owners() -> int:
    """Threads that own a device's copy of a generation."""
    return sum(thread.name.startswith("search-") for thread in threading.enumerate())


def best(gallery: Gallery, probes: Vectors) -> list[list[str]]:
    answers = gallery.identify(probes, 5)
    assert all(answer.is_exact for answer in answers)
    return [[candidate.identity_id for candidate in answer.candidates] for answer in answers]


def expected(vectors: Vectors, probes: Vectors, gone: set[int]) -> list[list[str]]:
    exact = probes.astype(np.float64) @ vectors.astype(np.float64).T
    exact[:, sorted(gone)] = -np.inf
    return [[f"{row:05d}" for row in np.argsort(-of)[:5]] for of in exact]


def test_a_gallery_on_a_device_answers_exactly_through_removals_and_rebuilds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(1)
    vectors, probes = unit_vectors(rng, NUM, 32), unit_vectors(rng, 6, 32)
    with (
        caplog.at_level(logging.INFO, "engine.index.gpu"),
        contextlib.closing(Galleries.open(tmp_path / "data", ON_DEVICE)) as galleries,
    ):
        gallery = fill(galleries, vectors[:1400])
        gallery.build(report_nothing)
        assert "search on cpu (CPU tensors) by torch" in caplog.text
        assert gallery.index_status().kind == "codes"
        assert best(gallery, probes) == expected(vectors[:1400], probes, set())
        gone = {int(name) for names in best(gallery, probes) for name in names[:2]}
        gallery.remove_identities([f"{row:05d}" for row in gone])
        enroll(gallery, vectors, range(1400, NUM))
        assert best(gallery, probes) == expected(vectors, probes, gone)
        gallery.build(report_nothing)
        assert best(gallery, probes) == expected(vectors, probes, gone)
    assert caplog.text.count("search on cpu (CPU tensors) by torch") == 2


def test_what_a_replaced_generation_held_on_the_device_is_given_back(tmp_path: Path) -> None:
    vectors = unit_vectors(np.random.default_rng(2), 50, 32)
    before = threading.active_count()
    with contextlib.closing(Galleries.open(tmp_path / "data", ON_DEVICE)) as galleries:
        gallery = fill(galleries, vectors)
        for _ in range(4):
            gallery.build(report_nothing)
            gallery.identify(vectors[:1])
            gc.collect()
            assert owners() == 1
    del gallery
    gc.collect()
    assert owners() == 0
    # Threads of tests before this one may have ended meanwhile.
    assert threading.active_count() <= before


def test_a_generation_that_does_not_fit_the_device_is_searched_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nothing_fits(_plan: MemoryPlan, _free_bytes: int) -> None:
        raise DeviceError("search on the device needs 1.00 GiB; 0.50 GiB are free")

    monkeypatch.setattr(MemoryPlan, "refuse_beyond", nothing_fits)
    vectors = unit_vectors(np.random.default_rng(3), 100, 32)
    with contextlib.closing(Galleries.open(tmp_path / "data", ON_DEVICE)) as galleries:
        gallery = fill(galleries, vectors)
        gallery.build(report_nothing)
        assert best(gallery, vectors[:3]) == expected(vectors, vectors[:3], set())
    assert "is searched on the CPU: search on the device needs 1.00 GiB" in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_data_folder_is_not_opened_where_the_device_is_not_there(tmp_path: Path) -> None:
    settings = GalleriesSettings(index=IndexSettings(search_device="cuda"))
    with pytest.raises(DeviceError, match="search on cuda was asked for"):
        Galleries.open(tmp_path / "data", settings)
    assert not (tmp_path / "data").exists()


def test_the_setting_takes_the_devices_there_are() -> None:
    assert build(GalleriesSettings, {}).index.search_device == "cpu"
    assert build(GalleriesSettings, {"index": {"search_device": "cuda"}}).index.search_device == "cuda"
    with pytest.raises(SettingsError, match="search_device"):
        build(GalleriesSettings, {"index": {"search_device": "gpu"}})
