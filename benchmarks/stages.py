"""Where the time of a request goes, from the lines that the server writes. Knows no sockets."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Stages:
    """Medians over the requests of one rpc, milliseconds."""

    num: int
    handler_ms: float
    """From the start of the handler to its end."""
    search_ms: float
    """In the stage `search`: index, names and decisions."""


def read_stages(log: Path, rpc: str, first_byte: int = 0) -> Stages | None:
    """Medians of the requests of `rpc` in a server's log from `first_byte` on; None where there are none."""
    with log.open("rb") as file:
        file.seek(first_byte)
        return stages_of((line.decode(errors="replace") for line in file), rpc)


def stages_of(lines: Iterable[str], rpc: str) -> Stages | None:
    """Medians of the requests of `rpc` among JSON lines; other lines are skipped."""
    handler, search = [], []
    for line in lines:
        if f'"{rpc}"' not in line:
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError:
            continue
        if fields.get("rpc") == rpc and fields.get("code") == "OK":
            handler.append(float(fields["latency_ms"]))
            search.append(float(fields.get("stages_ms", {}).get("search", 0.0)))
    return Stages(len(handler), float(np.median(handler)), float(np.median(search))) if handler else None
