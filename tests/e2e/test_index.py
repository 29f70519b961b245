"""`identiface index run` on real pictures: every runner, offline and through a server, gives the same."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.client import Client
from tests.e2e.conftest import PROGRAM, Launch

pytestmark = [pytest.mark.e2e, pytest.mark.data, pytest.mark.model]
PEOPLE = ["Aaron_Peirsol", "Abdullah", "Adrien_Brody", "Alec_Baldwin"]
LONGEST_S = 240.0
Run = Callable[..., dict[str, object]]


@pytest.fixture(scope="session")
def people(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder per identity: real people, one of them twice, and what is no picture of anybody."""
    root = tmp_path_factory.mktemp("people") / "root"
    root.mkdir()
    for name in PEOPLE:
        shutil.copytree(data_folder / "lfw" / "images" / name, root / name)
    first = sorted((root / PEOPLE[0]).iterdir())[0]
    shutil.copy(first, root / PEOPLE[0] / "again.jpg")
    (root / PEOPLE[1] / "broken.jpg").write_bytes(first.read_bytes()[:2000])
    (root / PEOPLE[1] / "text.jpg").write_text("no picture")
    return root


def identiface(*arguments: str) -> str:
    done = subprocess.run(
        [str(PROGRAM), *arguments], check=False, capture_output=True, text=True, timeout=LONGEST_S
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(file: Path) -> str:
    import pyarrow.parquet as pq

    table = pq.read_table(file).drop_columns(["create_time", "identity_create_time", "template_id"])
    return repr(table.sort_by([("identity_id", "ascending"), ("source", "ascending")]).to_pydict())


def test_every_way_gives_the_same_gallery(people: Path, tmp_path: Path, launch: Launch) -> None:
    run = ["index", "run", str(people), "--gallery", "people", "--gate", "faces=centre", "--json"]
    told: dict[str, dict[str, object]] = {}
    for runner in ("inline", "processes", "ray"):
        data = tmp_path / runner
        told[runner] = json.loads(identiface(*run, "--data", str(data), "--runner", runner, "--workers", "2"))
        identiface("export", "people", str(tmp_path / f"{runner}.parquet"), "--data", str(data))
    server = launch("--model", "none").ready()
    jobs = tmp_path / "jobs"
    told["server"] = json.loads(identiface(*run, "--server", server.address, "--jobs", str(jobs)))
    identiface("export", "people", str(tmp_path / "server.parquet"), "--server", server.address)
    assert rows(tmp_path / "inline.parquet") == rows(tmp_path / "processes.parquet")
    assert rows(tmp_path / "inline.parquet") == rows(tmp_path / "ray.parquet")
    assert rows(tmp_path / "inline.parquet") == rows(tmp_path / "server.parquet")
    with Client(server.address) as client:
        assert client.get_gallery("people").contract.name == "dlib-resnet"
    server.stop()
    counts = [{name: one[name] for name in ("items", "refused", "templates")} for one in told.values()]
    assert all(one == counts[0] for one in counts)
    report = json.loads(identiface("index", "report", "--data", str(tmp_path / "inline"), "--json"))
    assert report["refused"] == {"undecodable": 2, "duplicate_of": 1}
    again = json.loads(identiface(*run, "--data", str(tmp_path / "inline")))
    assert again["unchanged"]
