"""The measurements run on a small gallery: rows have their keys, wrong answers are seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import bulk, machine
from benchmarks.disturbance import Disturbance
from benchmarks.enrolled import GALLERY, enrolled, scratch_copy
from benchmarks.index import KEYS, main, measure, report_name, rows_of, table
from benchmarks.load import run_load
from benchmarks.measuring import Rounds
from benchmarks.plots import plot_recall_against_throughput
from benchmarks.probe_sets import ProbeSet, load_set
from benchmarks.rivals import FaissFlat, FaissHnsw, Hnswlib, Numpy, Rival
from benchmarks.server import serving
from benchmarks.side_by_side import sure_probes
from benchmarks.variants import variants

pytestmark = pytest.mark.e2e


class Absent(Numpy):
    """A library that nobody has."""

    name = "absent"
    package = "a_library_that_nobody_has"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def probe_set(cache: Path) -> ProbeSet:
    return load_set(cache, "faces", 3000, num_probes=100)


def test_index_is_measured_side_by_side(cache: Path, probe_set: ProbeSet, tmp_path: Path) -> None:
    rivals: list[type[Rival]] = [FaissFlat, FaissHnsw, Numpy, Absent]
    measured = measure(cache, probe_set, rivals, Rounds(2, 5), builds_slow=True)
    rows = rows_of(measured)
    assert [row["name"].split(" ")[0] for row in rows] == [
        "identiface",
        "identiface-exact",
        "faiss-flat-tuned",
        "faiss-hnsw",
        "numpy",
    ]
    assert all(tuple(row) == KEYS for row in rows)
    for row in rows:
        if "hnsw" not in row["name"]:
            assert (row["top1_mated"], row["top1_nonmated"], row["recall_at_10"]) == (1.0, 1.0, 1.0)
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["batch_qps"] > 0
    assert "| absent | not installed: pip install numpy |" in table(rows, {}, measured.missing)

    few = measure(cache, probe_set, [FaissHnsw, Hnswlib], Rounds(1, 3), builds_slow=False)
    assert [one.name.split(" ")[0] for one in few.contestants][2:] == ["faiss-hnsw"]
    assert set(few.missing) == {"hnswlib"}
    plot_recall_against_throughput({"faces": measured.curves}, tmp_path / "plot.png", probe_set.size)
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_a_report_names_its_sets_and_the_command_that_repeats_it(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "REPORTS", tmp_path / "reports")
    told = ["--size", "2000", "--set", "isotropic", "--rival", "numpy", "--rounds", "1", "--kept-only"]
    main([*told[:4], "--json", str(tmp_path / "rows.json"), *told[4:], f"--cache={cache}"])
    plot, report = sorted((tmp_path / "reports").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert report.name.endswith("-index-2000-isotropic.md")
    assert plot.name == report.with_suffix(".png").name
    assert plot.stat().st_size > 10_000
    text = report.read_text()
    assert f": `python -m benchmarks.index {' '.join(told)}`\n" in text
    assert f"]({plot.name})" in text
    assert {row["set"] for row in json.loads((tmp_path / "rows.json").read_text())} == {"isotropic"}


def test_reports_of_other_sets_have_other_names() -> None:
    assert report_name(1000, ["faces"]) == "index-1000-faces"
    assert report_name(1000, ["contract", "faces"]) == "index-1000-contract-faces"
    assert report_name(1000, ["isotropic", "contract", "faces"]) == "index-1000-all"


def test_a_delta_and_removals_are_answered_rightly(cache: Path, probe_set: ProbeSet) -> None:
    changed, text = variants(cache, probe_set, Rounds(1, 5))
    for one, _ in changed:
        assert (one.agreement.top1_mated, one.agreement.top1_nonmated) == (1.0, 1.0)
    assert "10% removed" in text


def test_load_generators_count_calls_and_wrong_answers(cache: Path, probe_set: ProbeSet) -> None:
    asked = sure_probes(probe_set)
    rights = (asked.probes, asked.expected)
    wrongs = (asked.probes, ["somebody else", *asked.expected[1:]])
    with (
        scratch_copy(cache, enrolled(cache, probe_set)) as data,
        serving(data, "--model", "none") as server,
    ):
        for mode, per_s in (("unary", 0.0), ("batch64", 0.0), ("stream", 0.0), ("unary", 100.0)):
            calls = run_load(
                server.address, GALLERY, rights, mode=mode, num_clients=3, duration_s=0.3, offered_per_s=per_s
            )
            assert len(calls.is_error) > 3
            assert (calls.num_errors, calls.num_wrong) == (0, 0)
            assert (calls.latency_ms > 0).all()
        with Disturbance(server.address, GALLERY, "faces", 200.0, is_building=True) as disturbance:
            calls = run_load(server.address, GALLERY, wrongs, mode="batch64", num_clients=1, duration_s=0.5)
        assert disturbance.errors == []
        assert disturbance.num_enrolled > 0
        assert disturbance.num_builds > 0
        assert 0 < calls.num_wrong < len(calls.is_wrong) or len(asked.probes) < 128
        missing = run_load(server.address, "nowhere", rights, mode="unary", num_clients=1, duration_s=0.1)
        assert missing.num_errors == len(missing.is_error) > 0
    assert np.isfinite(calls.per_s)


def test_bulk_jobs_are_measured(cache: Path, probe_set: ProbeSet, tmp_path: Path) -> None:
    rows = bulk.vectors(tmp_path, cache, probe_set.size)
    assert [row["name"] for row in rows] == ["npy", "npy, the same again", "export to Parquet", "Parquet"]
    assert all(row["seconds"] > 0 for row in rows)
    assert {"load", "build", "verify"} <= rows[0]["steps"].keys()
    assert "| npy |" in bulk.table(rows)
