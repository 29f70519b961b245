"""Enrollment over one stream, then search, on fresh galleries: ``python -m benchmarks.serve --enroll``.

The client is in another process than the server.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.galleries import Distribution
from benchmarks.server import serving
from engine.client import Client, EnrollItem
from engine.limits import ENROLL_ITEMS_MAX
from engine.types import EmbeddingContract

GALLERY = "bench"
SEED = 20_261_121
ABOUT = (
    f"One server process without a network, one client process, one connection at a time. Messages of "
    f"{ENROLL_ITEMS_MAX} identities, one synced commit each; searches by vector, k = 10. Vectors drawn to "
    f"the default network's distribution, seed {SEED}.\n\n"
)


def measure(num_identities: int, num_searches: int, rounds: int) -> list[dict[str, Any]]:
    """Enroll over one stream, then search one by one, each round on a fresh gallery; two rows a round."""
    contract = EmbeddingContract("drawn", "", "", False, 128, "l2", 0.94)
    distribution = Distribution.load("dlib-resnet")
    vectors = distribution.draw(num_identities, SEED)
    probes = distribution.draw(num_searches, SEED + 1)
    rows: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory(dir=".") as folder,
        serving(Path(folder) / "data", "--model", "none") as server,
        Client(server.address) as client,
    ):
        for round_ in range(rounds):
            gallery_id = f"{GALLERY}-{round_}"
            client.create_gallery(gallery_id, contract)
            rows.append({"round": round_, **_enroll(client, gallery_id, vectors)})
            rows.append({"round": round_, **_search(client, gallery_id, probes, num_identities)})
    return rows


def _enroll(client: Client, gallery_id: str, vectors: Any) -> dict[str, Any]:
    items = [EnrollItem(f"id-{number:07d}", [vector]) for number, vector in enumerate(vectors)]
    started = time.perf_counter()
    errors = sum(isinstance(answer, Exception) for _, answer in client.enroll_stream(gallery_id, items))
    seconds = time.perf_counter() - started
    per_s = len(items) / seconds
    return {"kind": "enroll stream", "enrolled": len(items), "per_s": per_s, "errors": errors}


def _search(client: Client, gallery_id: str, probes: Any, num_identities: int) -> dict[str, Any]:
    for probe in probes[:20]:
        client.identify(gallery_id, probe)
    times_ms = []
    for probe in probes:
        started = time.perf_counter()
        faces = client.identify(gallery_id, probe)
        times_ms.append((time.perf_counter() - started) * 1e3)
        if len(faces[0].candidates) != 10:
            raise RuntimeError("a search returned fewer candidates than asked for")
    p50, p99 = np.percentile(times_ms, [50, 99])
    return {
        "kind": "identify",
        "enrolled": num_identities,
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "errors": 0,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| round | what | enrolled | per second | p50 ms | p99 ms | errors |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        per_s = f"{row['per_s']:,.0f}" if "per_s" in row else ""
        p50, p99 = (f"{row[key]:.2f}" if key in row else "" for key in ("p50_ms", "p99_ms"))
        lines.append(
            f"| {row['round']} | {row['kind']} | {row['enrolled']:,} "
            f"| {per_s} | {p50} | {p99} | {row['errors']} |"
        )
    return "\n".join(lines)
