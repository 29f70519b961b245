"""`identiface export`, from a server and, once it has ended, from its folder: the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.client import Client, EnrollItem, EnrollOptions
from engine.types import EmbeddingContract, Template
from tests.e2e.command import answered, refused
from tests.e2e.conftest import Launch, ServerProcess, unit

pytestmark = [pytest.mark.e2e]
CONTRACT = EmbeddingContract("elsewhere", "", "", mirror=False, dimension=16, threshold=0.9)


def people(num: int) -> list[EnrollItem]:
    """Identities with 0 to 2 templates, a third of them with attributes, some with an end."""
    rng = np.random.default_rng(7)
    items = []
    for number in range(num):
        samples = [Template(unit(rng, 16), rng.random(), f"{number}/{row}.jpg") for row in range(number % 3)]
        attributes = {"team": "räume", "b": "", "a": str(number)} if number % 3 == 0 else {}
        options = EnrollOptions(expire_time=4e9 + number / 8 if number % 5 == 0 else None)
        items.append(EnrollItem(f"山{number:03}", samples, attributes, options))
    return items


def test_a_server_and_its_folder_export_the_same_bytes(launch: Launch, tmp_path: Path) -> None:
    server = launch("--model", "none").ready()
    items = people(600)  # more than a page
    with Client(server.address) as client:
        client.create_gallery("staff", CONTRACT)
        client.set_alias("now", "staff")
        for _, outcome in client.enroll_stream("staff", items):
            assert not isinstance(outcome, Exception)
        client.update_gallery("staff", threshold=0.625)
    online, offline = tmp_path / "online.parquet", tmp_path / "offline.parquet"
    told = answered(server, "export", "now", online, "--json").json
    assert (told["gallery"], told["identities"], told["templates"]) == ("staff", 600, 600)
    assert (told["file"], told["size_bytes"]) == (str(online), online.stat().st_size)
    assert "in use" in refused(None, "export", "staff", offline, "--data", server.data)
    assert not offline.exists()
    server.stop()

    said = answered(None, "export", "now", offline, "--data", server.data).out
    size = f"{offline.stat().st_size / 2**20:.1f} MiB"
    assert said == f"staff: 600 identities and 600 templates in {offline}, {size}\n"
    assert online.read_bytes() == offline.read_bytes()
    table = pq.read_table(offline)
    assert json.loads(table.schema.metadata[b"identiface.gallery"])["threshold"] == 0.625
    rows = {(row["identity_id"], row["source"]): row for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    for item in items:
        samples = [sample for sample in item.samples if isinstance(sample, Template)]
        assert ((item.identity_id, None) in rows) == (not samples)
        sources: list[str | None] = [sample.source for sample in samples]
        for source in sources or [None]:
            row = rows[item.identity_id, source]
            assert dict(row["attributes"]) == item.attributes
            assert row["expire_time"] == item.options.expire_time
        for sample in samples:
            row = rows[item.identity_id, sample.source]
            # The server brings to unit length what is nearly so.
            assert np.allclose(row["vector"], sample.vector, rtol=0, atol=1e-7)
            assert row["quality"] == np.float32(sample.quality)


def test_an_export_takes_the_place_of_a_file_only_when_told(
    vector_server: ServerProcess, tmp_path: Path
) -> None:
    server = vector_server
    answered(server, "gallery", "create", "leaving", "--dimension", "4", "--threshold", "0.9")
    target = tmp_path / "staff.PARQUET"
    target.write_text("mine")
    assert "exists" in refused(server, "export", "leaving", target)
    assert target.read_text() == "mine"
    answered(server, "export", "leaving", target, "--overwrite")
    assert pq.read_table(target).num_rows == 0
    assert "identiface gallery list" in refused(server, "export", "nobody", tmp_path / "n.parquet")
    assert not (tmp_path / "n.parquet").exists()
