"""The protocol of LFW's folds 7 and 8 holds the pictures it says, and its table their rates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.lfw_open_set import FPIRS, Protocol, as_json, judge, lfw_protocol, table
from engine.trainer.bootstrap import BootstrapSettings
from engine.trainer.evaluate import PictureTemplates

pytestmark = pytest.mark.data

SETTINGS = BootstrapSettings(num_resamples=20)


@pytest.fixture(scope="module")
def protocol(data_folder: Path) -> Protocol:
    return lfw_protocol(data_folder / "lfw")


def test_the_parts_are_as_large_as_stated_and_share_nobody(protocol: Protocol) -> None:
    sizes = len(protocol.gallery), len(protocol.mated), len(protocol.strangers)
    assert sizes == (886, 1699, 1041)
    assert len(set(protocol.pictures)) == sum(sizes)
    enrolled = {path.parent.name for path in protocol.gallery}
    assert len(enrolled) == 886
    assert {path.parent.name for path in protocol.mated} <= enrolled
    assert not {path.parent.name for path in protocol.strangers} & enrolled
    assert all(path.stem.endswith("_0001") for path in protocol.gallery)
    assert len(protocol.same) == 10
    assert (len(protocol.pairs.folds), len(protocol.pairs.pairs)) == (2, 1200)
    assert set(protocol.pairs.pictures) <= set(protocol.pictures)


def test_a_better_network_is_told_from_a_worse_one(protocol: Protocol) -> None:
    """Templates drawn about each person's own direction, with less and with more noise."""
    rng = np.random.default_rng(0)
    names, people = np.unique([path.parent.name for path in protocol.pictures], return_inverse=True)
    centres = rng.normal(size=(len(names), 32))
    judged = []
    for name, noise in (("worse", 1.0), ("better", 0.6)):
        vectors = centres[people] + noise * rng.normal(size=(len(people), 32))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        templates = PictureTemplates(vectors.astype(np.float32), np.ones(len(people), dtype=np.bool_))
        judged.append(judge(name, protocol, templates, SETTINGS))

    told = json.loads(json.dumps(as_json(judged, SETTINGS)))

    for target in FPIRS:
        difference = told["second_less_first"]["fnir_at_fpir"][f"{target:g}"]
        assert difference["low"] <= difference["value"] <= difference["high"] < 0.0
    assert (
        told["models"]["better"]["pairs"]["accuracy_mean"] > told["models"]["worse"]["pairs"]["accuracy_mean"]
    )
    lines = table(judged, SETTINGS).splitlines()
    assert lines[0] == "|  | worse | better | second less first |"
    assert {line.count("|") for line in lines} == {5}
    assert any(line.startswith("| FNIR at FPIR 0.01 |") for line in lines)
    assert table(judged[:1], SETTINGS).splitlines()[0] == "|  | worse |"
