"""Agreement with an exact scan: measured on a generation's own vectors, kept in its manifest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import CorruptDataError
from engine.index.agreement import measure, store_agreement
from engine.index.build import build
from engine.index.codes import Codes
from engine.index.generation import MANIFEST, Generation, read_manifest
from engine.index.parameters import CodeParameters
from engine.types import Agreement, Columns, Vectors
from tests.contract.naive import unit_vectors


def make(folder: Path, vectors: Vectors, numbers: list[int], flat_rows_max: int = 50_000) -> Generation:
    ids = np.arange(1, len(vectors) + 1, dtype=np.uint64)
    rows = Columns(ids, np.array(numbers, np.uint64), vectors)
    return build(folder, rows, number=1, sequence=1, contract_digest="digest", flat_rows_max=flat_rows_max)


def faces(rng: np.random.Generator, num: int, dimension: int = 128) -> Vectors:
    """Different people's cosines are 0 +- .11, as real faces' of networks that centre them."""
    spread = (1.0 + np.arange(dimension) / 16.0) ** -0.6
    wide = rng.standard_normal((num, dimension)) * spread
    vectors: Vectors = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return vectors


@pytest.mark.parametrize("kind", ["face-like", "isotropic"])
def test_codes_of_60000_rows_reach_the_bar(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    vectors = faces(rng, 60_000) if kind == "face-like" else unit_vectors(rng, 60_000, 128)
    generation = make(tmp_path, vectors, list(range(60_000)))
    assert not generation.is_exact
    reports: list[tuple[int, int]] = []
    found = measure(generation, 300, 5, lambda done, total: reports.append((done, total)))
    assert found.num_probes == 300
    assert found.top1 >= 0.995
    assert found.top10 >= 0.98
    assert reports[-1] == (300, 300)


def test_a_poor_search_is_found_out(tmp_path: Path, rng: np.random.Generator) -> None:
    """Codes of other vectors than those compared."""
    vectors = unit_vectors(rng, 5000, 32)
    right = make(tmp_path / "right", vectors, list(range(5000)), 0)
    wrong = make(tmp_path / "wrong", unit_vectors(rng, 5000, 32), list(range(5000)), 0)
    assert measure(right, 100, 1).top1 >= 0.99
    few = CodeParameters(num_subquantisers=8, num_found=40, sample_step=1)
    right.codes = Codes(wrong.folder, few, right.vectors, right._similarities)
    assert measure(right, 100, 1).top1 <= 0.5


def test_the_probes_own_identity_does_not_count(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = np.repeat(unit_vectors(rng, 40, 16), 3, axis=0)
    assert measure(make(tmp_path / "three", vectors, [row // 3 for row in range(120)]), 500, 1) == Agreement(
        120, 1.0, 1.0
    )
    # Nobody else is there.
    assert measure(make(tmp_path / "one", vectors, [7] * 120), 500, 1) == Agreement(0, 1.0, 1.0)
    assert measure(make(tmp_path / "none", vectors[:0], []), 500, 1) == Agreement(0, 1.0, 1.0)


def test_it_is_kept_in_the_manifest(tmp_path: Path, rng: np.random.Generator) -> None:
    folder = make(tmp_path, unit_vectors(rng, 20, 16), list(range(20))).folder
    assert read_manifest(folder).agreement is None
    agreement = Agreement(1000, 0.9985, 0.98)
    assert store_agreement(folder, agreement).agreement == agreement
    assert Generation(folder, "digest").manifest.agreement == agreement
    assert MANIFEST + ".new" not in [path.name for path in folder.iterdir()]
    (folder / MANIFEST).unlink()
    with pytest.raises(CorruptDataError):
        store_agreement(folder, agreement)
