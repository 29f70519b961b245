"""What deciding costs is timed on decisions that are the gallery's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.decision import DIMENSION, SEED, WAYS, K, decider, drawn, filled, main, settle, timed
from engine.decision.calibration import shipped
from engine.galleries import Galleries, GalleriesSettings
from engine.types import EmbeddingContract

NUM_IDENTITIES, NUM_PROBES = 400, 3
"""The crowding correction has an effect from 300 identities on."""


def test_every_way_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("--identities", str(NUM_IDENTITIES), "--probes", str(NUM_PROBES), "--repeats", "1")
    main([*sizes, "--json", str(tmp_path / "rows.json")])
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["way"] for row in rows] == list(WAYS)
    assert all(row["decision_us"] > 0 for row in rows)
    assert [row["identify_us"] is None for row in rows] == [not has for _, has in WAYS.values()]
    assert all(row["identify_us"] > 0 for row in rows if row["identify_us"] is not None)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line[:34].strip() for line in lines] == list(WAYS)
    assert [line.split()[-1] for line in lines[1:]] == [f"{row['identify_us']:.1f}" for row in rows[1:]]


def test_what_is_timed_decides_as_the_gallery_does(tmp_path: Path) -> None:
    calibration = next(one for one in shipped().values() if one.contract_name == "dlib-resnet")
    contract = EmbeddingContract("drawn", "", "", mirror=False, dimension=DIMENSION, threshold=0.9)
    settings = GalleriesSettings(maintenance_s=0)
    galleries = Galleries.open(tmp_path, settings, calibrations={contract.digest: calibration})
    probes = drawn(NUM_PROBES, SEED + 1)
    seen = []
    try:
        gallery = filled(galleries, contract, NUM_IDENTITIES)
        assert gallery.info().num_identities == NUM_IDENTITIES
        for way, has_calibration in WAYS.values():
            if has_calibration:
                settle(gallery, way)
                decide = decider(gallery, probes, way, has_calibration, calibration)
                seen.append(gallery.identify(probes, K))
                assert [decide(probe) for probe in range(NUM_PROBES)] == seen[-1]
    finally:
        galleries.close()
    is_corrected = [one[0].candidates[0].similarity_corrected is not None for one in seen]
    assert is_corrected == [False, False, True]
    assert seen[0][0].threshold == pytest.approx(0.9)
    assert len({one[0].threshold for one in seen}) == 3


def test_a_way_that_times_itself_is_taken_at_its_word() -> None:
    asked: list[int] = []

    def ask(probe: int) -> float:
        asked.append(probe)
        # The first turn does not count.
        return 9.0 if len(asked) <= 3 else 2e-6 * probe

    assert timed({"told": ask}, 3, 1) == {"told": pytest.approx(2.0)}
    assert asked == [0, 1, 2] * 2
