"""`identiface check` through a server and, once it has ended, on its folder: the same findings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.client import Client, EnrollItem
from engine.types import EmbeddingContract, Template
from tests.contract.naive import unit_vectors
from tests.e2e.command import answered, refused
from tests.e2e.conftest import Launch

pytestmark = [pytest.mark.e2e]
CONTRACT = EmbeddingContract("elsewhere", "", "", mirror=False, dimension=32, threshold=0.9)


def people() -> list[EnrollItem]:
    """600 identities, more than a page, with two templates each: the last is the first once more."""
    rng = np.random.default_rng(9)
    centres = np.repeat(unit_vectors(rng, 600, 32), 2, axis=0)
    centres[-2:] = centres[:2]
    rows = centres + 0.05 * rng.normal(size=centres.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    templates = [Template(row.astype(np.float32), 0.5, f"{place}.jpg") for place, row in enumerate(rows)]
    return [EnrollItem(f"山{number:03}", templates[2 * number : 2 * number + 2]) for number in range(600)]


def test_a_server_and_its_folder_are_checked_alike(launch: Launch, tmp_path: Path) -> None:
    server = launch("--model", "none").ready()
    with Client(server.address) as client:
        client.create_gallery("staff", CONTRACT)
        client.set_alias("now", "staff")
        for _, outcome in client.enroll_stream("staff", people()):
            assert not isinstance(outcome, Exception)
    html = tmp_path / "staff.html"
    online = answered(server, "check", "now", "--html", html, "--json").json
    assert (online["gallery_id"], online["num_identities"], online["num_templates"]) == ("staff", 600, 1200)
    assert online["num_written"] == 0
    (pair, *_) = online["lists"]["duplicates"]
    assert (pair["first"]["identity_id"], pair["second"]["identity_id"]) == ("山000", "山599")
    assert online["lists"]["counts"]["near_another"] == 0
    assert "山599" in html.read_text("utf-8")
    assert "identiface gallery list" in refused(server, "check", "nobody")
    assert "in use" in refused(None, "check", "staff", "--data", server.data)
    server.stop()

    offline = answered(None, "check", "now", "--data", server.data, "--json").json
    del online["compare_s"], offline["compare_s"]
    assert online == offline
