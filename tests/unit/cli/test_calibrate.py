"""The verb `calibrate` of people: what it takes, writes and prints, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.cli.verbs import main
from engine.decision import calibration as files
from engine.decision.estimator import PEOPLE_MIN
from engine.types import EmbeddingContract

DIMENSION = 16
CONTRACT = EmbeddingContract("made-up", "", "", False, DIMENSION)
FEW = ("--resamples", "20")


def write_parquet(path: Path, contract: EmbeddingContract, num: int = 150) -> Path:
    """Vectors of people as `identiface export` writes them; 60 have two, and the last one is the first."""
    rng = np.random.default_rng(4)
    faces = rng.standard_normal((num, contract.dimension))
    faces[-1] = faces[0]
    rows = np.repeat(np.arange(num), np.where(np.arange(num) < 60, 2, 1))
    vectors = faces[rows] + 0.2 * rng.standard_normal((len(rows), contract.dimension))
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    columns = {"identity_id": [f"p{row:03}" for row in rows], "vector": list(units)}
    fields = [("identity_id", pa.string()), ("vector", pa.list_(pa.float32(), contract.dimension))]
    metadata = {b"identiface.contract": msgspec.json.encode(dataclasses.asdict(contract))}
    pq.write_table(pa.table(columns, schema=pa.schema(fields, metadata)), path)
    return path


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 people, one of whom is there under two names."""
    return write_parquet(tmp_path_factory.mktemp("vectors") / "people.parquet", CONTRACT)


def test_a_calibration_is_written_and_told(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made-up.json"
    words = ("--people", "nobody at all", "--target-fpir", "0.1", "0.02", "--size", "100", "10000")
    assert main(["calibrate", "--vectors", str(vectors), "--out", str(out), *words, *FEW]) == 0
    told = capsys.readouterr()
    found = files.read(out, CONTRACT.digest)
    assert (found.people, found.num_people, found.left_out[0].second) == ("nobody at all", 149, "p149")
    assert "calibrating: 150 people" in told.err
    lines = told.out.splitlines()
    assert lines[-1] == f"wrote {out}"
    assert any("nobody at all" in line for line in lines)
    assert any("p149" in line and "as p000" in line for line in lines)
    threshold = found.curves[files.PLAIN].table.threshold(0.02, 100)
    row = next(line for line in lines if line.split()[:2] == ["0.02", "100"])
    assert row.split()[2:6] == [
        f"{threshold.value:.4f}",
        f"{threshold.low:.4f}",
        "to",
        f"{threshold.high:.4f}",
    ]
    # Of 149 people three are expected at FPIR 0.02: ten would carry it.
    assert "*" in row
    assert any(line.startswith("note: no curve for the crowding correction") for line in lines)


def test_json_tells_the_same_and_that_nothing_was_saved(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", "--vectors", str(vectors), "--json", "--size", "100", *FEW]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["file"], told["contract_name"], told["people"]) == (
        None,
        "made-up",
        "people of people.parquet",
    )
    assert list(tmp_path.iterdir()) == []
    assert {row["curve"] for row in told["thresholds"]} == {"max", "mean"}
    first, last = told["thresholds"][0], told["thresholds"][4]
    assert (first["target_fpir"], last["target_fpir"], last["size"]) == (0.1, 0.001, 100)
    assert first["threshold"] < last["threshold"]
    assert "lies beyond the calibration" in last["warnings"][0]
    assert told["curves"]["max"]["tail"]["num_exceedances"] >= 10
    assert "table" not in told["curves"]["max"]


def test_names_and_groups_are_taken_from_files(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only, same, groups = (tmp_path / name for name in ("only.txt", "same.tsv", "groups.csv"))
    only.write_text("".join(f"p{row:03}\n" for row in range(130)))
    same.write_text("name\tname\tkind\np001\tp002\tsame\n")
    groups.write_text("identity_id,team\n" + "".join(f"p{row:03},red\n" for row in range(40)))
    given = ("--only", str(only), "--same", str(same), "--attributes", str(groups), "--json", *FEW)
    assert main(["calibrate", "--vectors", str(vectors), *given]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["num_people"] == 129
    assert [one["second"] for one in told["left_out"]] == ["p002"]
    assert [(one["group"], one["num_people"]) for one in told["groups"]] == [("red", 39)] * 2


@pytest.mark.model
def test_vectors_of_another_contract_than_the_model_are_refused(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_parquet(tmp_path / "other.parquet", dataclasses.replace(CONTRACT, dimension=128))
    given = ("--model", "dlib-resnet", "--out", str(tmp_path / "x.json"), *FEW)
    for path in (vectors, other):
        assert main(["calibrate", "--vectors", str(path), *given]) == 1
        err = capsys.readouterr().err
        assert "holds templates of contract made-up" in err
        assert "of dlib-resnet" in err
    assert not (tmp_path / "x.json").exists()


@pytest.mark.model
def test_vectors_of_a_file_of_numbers_are_taken_to_be_the_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(1)
    np.save(tmp_path / "v.npy", rng.standard_normal((120, 128)))
    np.save(tmp_path / "short.npy", rng.standard_normal((120, 64)))
    (tmp_path / "l.csv").write_text("".join(f"{row}\n" for row in range(120)))
    labels = ("--labels", str(tmp_path / "l.csv"))
    assert main(["calibrate", "--vectors", str(tmp_path / "v.npy"), *labels, "--json", *FEW]) == 0
    assert json.loads(capsys.readouterr().out)["contract_name"] == "dlib-resnet"
    assert main(["calibrate", "--vectors", str(tmp_path / "short.npy"), *labels, *FEW]) == 1
    assert "the vectors have 64 numbers, contract dlib-resnet has 128" in capsys.readouterr().err


def test_what_cannot_be_done_is_said_in_one_line_and_nothing_written(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights.json").write_text("{}")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "nobody.txt").write_text("p000\nsomebody\n")
    (tmp_path / "one.txt").write_text("p000\n")
    np.save(tmp_path / "nan.npy", np.full((3, 16), np.nan))
    (tmp_path / "l.csv").write_text("a\nb\nc\n")
    lines = {
        "--vectors {v} --out {t}/gone/x.json": "there is no folder",
        "--vectors {v} --out {t}/weights.json": "holds no calibration: it is not replaced",
        "--vectors {v} --out {t}/folder.json": "it is a folder",
        "--vectors {v} --out {t}/x.json --only {t}/nobody.txt": "--only names 'somebody'",
        "--vectors {v} --out {t}/x.json --only {t}/one.txt": "1 people to calibrate on: at least 120",
        "--vectors {v} --out {t}/x.json --target-fpir 0.001": "at least 1,000 are needed for FPIR 0.001",
        "--vectors {v} --out {t}/x.json --same {t}/one.txt": "expected the header name, name, kind",
        "--vectors {v} --out {t}/x.json --attributes {t}/gone.csv": "cannot read",
        "--vectors {v} --out {t}/x.json --labels {t}/l.csv": "holds its labels itself",
        "--vectors {t}/nan.npy --out {t}/x.json": "holds no labels",
        "--vectors {t}/nan.npy --out {t}/x.json --labels {t}/l.csv": "a value is NaN",
        "--vectors {t}/gone.npy --out {t}/x.json --labels {t}/l.csv": "cannot read",
        "--data {t} --out {t}/x.json": "holds pictures of 0 people",
    }
    for line, said in lines.items():
        assert main(["calibrate", *line.format(v=vectors, t=tmp_path).split(), *FEW]) == 1, line
        err = capsys.readouterr().err.splitlines()
        assert said in err[-1], line
        assert err[-1].startswith("identiface: ")
    assert not (tmp_path / "x.json").exists()
    assert (tmp_path / "weights.json").read_text() == "{}"


def test_an_older_calibration_is_replaced(vectors: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.json"
    for words in ("first", "second"):
        given = ("--out", str(out), "--people", words, *FEW)
        assert main(["calibrate", "--vectors", str(vectors), *given]) == 0
        assert files.read(out).people == words


@pytest.mark.model
def test_beside_the_weights_is_where_it_goes_unless_told(tmp_path: Path) -> None:
    """A network named by itself has no place of its own."""
    from engine.cli.calibrate import _target
    from engine.cli.verbs import build_parser

    def target(*given: str) -> Path | None:
        return _target(build_parser().parse_args(["calibrate", "--data", "d", *given]))

    weights = tmp_path / "mine.safetensors"
    assert target() is None
    assert target("--model", "dlib-resnet") is None
    assert target("--model", str(weights)) == tmp_path / "mine.calibration.json"
    assert target("--model", f"inception-resnet-v1={weights}") == tmp_path / "mine.calibration.json"
    assert target("--model", str(weights), "--out", str(tmp_path / "x.json")) == tmp_path / "x.json"


@pytest.mark.model
@pytest.mark.data
def test_pictures_are_embedded_with_the_network_that_serves(
    data_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """120 of LFW's people; two of them are too few, which is said before any picture is embedded."""
    import torch

    torch.set_num_threads(1)
    people = tmp_path / "people"
    people.mkdir()
    alone = [
        one for one in sorted((data_folder / "lfw" / "images").iterdir()) if len(list(one.iterdir())) == 1
    ]
    for folder in alone[:PEOPLE_MIN]:
        (people / folder.name).symlink_to(folder)
    (tmp_path / "only.txt").write_text("".join(f"{folder.name}\n" for folder in alone[:2]))
    given = ("--data", str(people), "--device", "cpu", "--out", str(tmp_path / "out.json"))
    assert main(["calibrate", *given, "--only", str(tmp_path / "only.txt"), *FEW]) == 1
    err = capsys.readouterr().err
    assert "2 people to calibrate on: at least 120" in err
    assert "calibrating" not in err
    assert main(["calibrate", *given, "--target-fpir", "0.001", *FEW]) == 1
    assert "120 people to calibrate on: at least 1,000 are needed for FPIR 0.001" in capsys.readouterr().err
    assert main(["calibrate", *given, *FEW]) == 0
    calibration = files.read(tmp_path / "out.json")
    assert (calibration.num_people, calibration.num_pictures) == (PEOPLE_MIN, PEOPLE_MIN)
    assert calibration.contract_name == "dlib-resnet"
    # Different people of LFW are alike to about 0.84 by this network.
    assert 0.85 < calibration.curves["max"].table.threshold(0.1, 50).value < 0.97


def test_a_gallery_is_calibrated_by_its_server(
    vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine.client import Client
    from engine.galleries import Galleries, GalleriesSettings
    from engine.server.backend import Backend
    from engine.server.endpoint import Endpoint
    from engine.server.services import all_services
    from engine.server.settings import ServeSettings
    from engine.store.environment import StoreSettings
    from engine.telemetry import Telemetry
    from engine.types import Enrollment, Template

    out = tmp_path / "made-up.json"
    assert main(["calibrate", "--vectors", str(vectors), "--out", str(out), *FEW]) == 0
    capsys.readouterr()
    calibration = files.read(out)
    settings = GalleriesSettings(store=StoreSettings(map_size_bytes_max=1 << 28), maintenance_s=0)
    galleries = Galleries.open(tmp_path / "data", settings, calibrations={CONTRACT.digest: calibration})
    galleries.create("staff", CONTRACT)
    units = np.eye(DIMENSION, dtype=np.float32)[:12]
    galleries.get("staff").enroll([Enrollment(f"e{i}", (Template(one),)) for i, one in enumerate(units)])
    endpoint = Endpoint(ServeSettings(data="unused"), Telemetry(), all_services(Backend(galleries)))
    server = f"127.0.0.1:{endpoint.bind('127.0.0.1', 0)}"
    endpoint.start()
    endpoint.open()
    ask = ["calibrate", "--gallery", "staff", "--server", server, "--target-fpir", "0.1", "0.03"]
    try:
        with Client(server) as client:
            client.wait_until_ready(10)
        assert main([*ask, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)["calibrations"]
        assert main(ask) == 0
        lines = capsys.readouterr().out.splitlines()
    finally:
        endpoint.close()
        galleries.close()
    table = calibration.curves[files.PLAIN].table
    for one, fpir in zip(told, (0.1, 0.03), strict=True):
        assert (one["id"], one["identities"], one["target_fpir"]) == ("staff", 12, fpir)
        # A server keeps thresholds by size, to within a percent of it.
        assert one["threshold"] == pytest.approx(table.threshold(fpir, 12).value, abs=1e-3)
        assert one["by_own_people"] is None
    assert lines[0].startswith(f"staff: threshold {told[0]['threshold']:.4f} by the network's calibration")
    assert "  the gallery's own people: too few" in lines
