"""Old files open: one data folder of every format, and the answers it gave when it was written."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from engine.galleries import Galleries
from engine.live_index import report_nothing
from engine.store.records import FORMAT_VERSION
from engine.types import Enrollment, Template
from tests.contract.clock import Clock
from tests.golden.make import CALIBRATIONS, FOLDER, PROBES, SETTINGS, VECTORS, answers, fill

FORMATS = sorted(FOLDER.glob("format-*.tar.gz"))
WRITTEN_AT = Clock().now + 12 * 60


def test_there_is_one_of_this_versions_format() -> None:
    assert FOLDER / f"format-{FORMAT_VERSION}.tar.gz" in FORMATS
    assert all(path.stat().st_size < 200_000 for path in FORMATS)


@pytest.mark.parametrize("archive", FORMATS, ids=lambda path: path.name)
def test_an_old_folder_opens_answers_as_it_did_and_can_be_written_to(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    recorded = json.loads(archive.with_name(archive.name.replace(".tar.gz", ".json")).read_text("utf-8"))
    for _ in range(2):
        galleries = Galleries.open(tmp_path, SETTINGS, clock=Clock(WRITTEN_AT))
        try:
            told = json.loads(json.dumps(answers(galleries)))
            # An older version was asked less.
            assert {key: told[key] for key in recorded} == recorded
            (nearest, *_), nobody, _ = told["filtered"]
            assert ([one[0] for one in nearest], nobody) == (["p05"], [[]] * len(PROBES))
        finally:
            galleries.close()
    galleries = Galleries.open(tmp_path, SETTINGS, clock=Clock(WRITTEN_AT))
    try:
        people = galleries.get("people")
        people.enroll([Enrollment("new", (Template(VECTORS[55]),))])
        people.build(report_nothing)
        people.remove_identities(["p05"], erase=True)
        found = people.identify(VECTORS[55][None], 1)[0].candidates[0]
        assert found.identity_id == "new"
        assert found.template_id > max(one[0] for row in recorded["identities"] for one in row[4])
        assert people.identify(PROBES, 5)[0].num_searched == recorded["galleries"][1][2] + 1 - 3
    finally:
        galleries.close()


def test_this_version_gives_the_recorded_answers_from_the_start(tmp_path: Path) -> None:
    recorded = json.loads((FOLDER / f"format-{FORMAT_VERSION}.json").read_text("utf-8"))
    clock = Clock()
    galleries = Galleries.open(tmp_path, SETTINGS, clock=clock, calibrations=CALIBRATIONS)
    try:
        fill(galleries, clock)
        assert json.loads(json.dumps(answers(galleries))) == recorded
    finally:
        galleries.close()
