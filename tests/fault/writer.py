"""A process that writes to a gallery until it is killed, and keeps a log of what it was answered.

Knows nothing of who kills it, nor what the answers should have been.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError
from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.index.settings import IndexSettings
from engine.live_index import report_nothing
from engine.store.environment import StoreSettings
from engine.types import EmbeddingContract, Enrollment, EnrollResult, Template, Vector
from tests.contract.naive import unit_vectors

DIMENSION = 32
TEMPLATES_MAX = 4
CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=DIMENSION)
SETTINGS = GalleriesSettings(
    store=StoreSettings(map_size_bytes_max=1 << 28),
    # Built in this process, whose files may be kept from growing.
    index=IndexSettings(delta_rows_max=40, build_inline_rows_max=20_000),
    maintenance_s=0,
)
Step = dict[str, Any]
CALM = {"enroll": 60, "remove": 15, "erase": 6, "remove_template": 8, "update": 7, "build": 2, "maintain": 2}
STORMY = {
    "enroll": 40,
    "remove": 10,
    "erase": 20,
    "remove_template": 5,
    "update": 5,
    "build": 20,
    "maintain": 0,
}


def vector(row: int) -> Vector:
    """The one vector of this number."""
    (only,) = unit_vectors(np.random.default_rng(row), 1, DIMENSION)
    return np.asarray(only)


def enrollments(step: Step) -> list[Enrollment]:
    """What an enrolling step asks for."""
    templates = [Template(vector(row), row % 7 / 7) for row in step["rows"]]
    return [
        Enrollment(
            identity_id,
            tuple(templates[position :: len(step["ids"])]),
            {"step": str(step["rows"][0])},
            replace=step["replace"],
            evict_lowest_quality=step["evict"],
        )
        for position, identity_id in enumerate(step["ids"])
    ]


@contextmanager
def opened(data: Path) -> Iterator[Galleries]:
    """The galleries, closed at the end."""
    galleries = Galleries.open(data, SETTINGS)
    try:
        yield galleries
    finally:
        galleries.close()


def choose(rng: np.random.Generator, gallery: Gallery, row: int, odds: dict[str, int]) -> Step:
    """A random step, with vectors numbered from `row`."""
    weights = np.array(list(odds.values()), float)
    kind = str(rng.choice(list(odds), p=weights / weights.sum()))
    ids = [f"p{number}" for number in rng.choice(30, rng.integers(1, 4), replace=False)]
    step: Step = {"kind": kind, "ids": ids}
    if kind == "enroll":
        rows = list(range(row, row + len(ids) * int(rng.integers(1, 4))))
        step |= {"rows": rows, "replace": bool(rng.random() < 0.3), "evict": bool(rng.random() < 0.5)}
    if kind == "remove_template":
        step["template_id"] = next(
            (one.template_ids[0] for one, _ in gallery.list_identities(limit=50) if one.template_ids), 0
        )
        step["ids"] = [
            one.identity_id
            for one, _ in gallery.list_identities(limit=50)
            if step["template_id"] in one.template_ids
        ]
    step["row"] = row
    return step


def take(gallery: Gallery, step: Step) -> None:
    """Do it; refusals of single identities are answers too."""
    kind, ids = step["kind"], step["ids"]
    if kind == "enroll":
        for outcome in gallery.enroll(enrollments(step)):
            assert isinstance(outcome, EngineError | EnrollResult)
    elif kind in ("remove", "erase"):
        gallery.remove_identities(ids, erase=kind == "erase")
    elif kind == "remove_template" and ids:
        gallery.remove_template(ids[0], step["template_id"])
    elif kind == "update":
        first: Sequence[Any] = gallery.list_identities(limit=1)
        for identity, _ in first:
            gallery.update_identity(
                identity.identity_id,
                attributes={"updated": str(step["row"])},
                remove_attributes=("step",),
                expire_time=None,
                clear_expire_time=False,
            )
    elif kind == "build":
        gallery.build(report_nothing)
    elif kind == "maintain":
        gallery.maintain()


def write_until_killed(data: str, log: str, seed: int, odds: dict[str, int]) -> None:
    """Log each step before it begins and once it is answered, for ever."""
    rng = np.random.default_rng(seed)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with opened(Path(data)) as galleries:
        gallery = galleries.get("people")
        row = seed * 100_000
        while True:
            step = choose(rng, gallery, row, odds)
            os.write(descriptor, b"begin " + json.dumps(step).encode() + b"\n")
            take(gallery, step)
            os.write(descriptor, b"done\n")
            row += 20
