"""Templates of real faces, LFW's, by the default network: who is enrolled, who asks, who is a stranger.

Folder ``IDENTIFACE_DATA`` (default ``../shared/data``) holds ``lfw/images/<Person>/*.jpg`` and
``lfw/people.tsv``, whose fold 0 holds people who are never enrolled. Making the templates of 10,000 pictures
takes some minutes, once. Knows nothing of galleries.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.cache import kept
from benchmarks.lfw_people import STRANGERS_FOLD, read_people
from engine.trainer.lists import read_errata
from engine.types import Vectors

REPOSITORY = Path(__file__).resolve().parent.parent
NETWORK = "dlib-resnet"
PROBES_PER_PERSON_MAX = 4
"""A few people have hundreds of pictures: they must not be the measurement."""


@dataclass(frozen=True)
class RealFaces:
    """Templates of real people; every one of unit length."""

    enrolled: Vectors
    """float32[p, d], one picture of each person"""
    probes: Vectors
    """float32[m, d], other pictures of these people"""
    probe_people: NDArray[np.int64]
    """int64[m], row in `enrolled` of each probe's person"""
    strangers: Vectors
    """float32[s, d], pictures of people who are not enrolled"""


def data_folder() -> Path | None:
    """Folder with LFW's pictures; None where there is none."""
    folder = Path(os.environ.get("IDENTIFACE_DATA", REPOSITORY.parent / "shared" / "data"))
    return folder if (folder / "lfw" / "people.tsv").is_file() else None


def real_faces(cache: Path) -> RealFaces | None:
    """Templates of LFW's people; None where the pictures are missing."""
    folder = data_folder()
    if folder is None:
        return None
    lfw = folder / "lfw"
    kept_in = kept(cache, f"lfw-{NETWORK}", lambda target: _embed(lfw, target))
    with np.load(kept_in / "templates.npz") as file:
        vectors, people = file["vectors"], file["people"].tolist()
    strangers = {person.name for person in read_people(lfw) if person.fold == STRANGERS_FOLD}
    return divide(vectors, people, strangers, _known_twice(lfw))


def divide(vectors: Vectors, people: list[str], strangers: set[str], known_twice: set[str]) -> RealFaces:
    """Split templates by the names of their people: first picture enrolled, later ones probes.

    Who is there under two names is neither a stranger nor asked for: "right" would not be known.
    """
    enrolled: list[int] = []
    probes: list[tuple[int, int]] = []
    strange: list[int] = []
    row_of: dict[str, int] = {}
    num_probes: dict[str, int] = {}
    for row, person in enumerate(people):
        if person in known_twice:
            continue
        if person in strangers:
            strange.append(row)
        elif person not in row_of:
            row_of[person] = len(enrolled)
            enrolled.append(row)
        elif num_probes.get(person, 0) < PROBES_PER_PERSON_MAX:
            num_probes[person] = num_probes.get(person, 0) + 1
            probes.append((row, row_of[person]))
    asked = np.array(probes, np.int64).reshape(-1, 2)
    return RealFaces(vectors[enrolled], vectors[asked[:, 0]], asked[:, 1], vectors[strange])


def _known_twice(lfw: Path) -> set[str]:
    errata = lfw / "errata.tsv"
    if not errata.is_file():
        return set()
    return {name for pair in read_errata(errata) for name in pair}


def _embed(lfw: Path, target: Path) -> None:
    # Imported here: torch takes seconds that no other benchmark needs.
    from engine.assembly import EmbeddingSettings, build_pipeline
    from engine.trainer.evaluate import embed_pictures

    pictures = sorted((lfw / "images").glob("*/*.jpg"))
    with build_pipeline(EmbeddingSettings(model=NETWORK)) as pipeline:
        templates = embed_pictures(pipeline, pictures, progress=True)
    found = templates.is_detected
    people = np.array([picture.parent.name for picture in pictures])
    np.savez(target / "templates.npz", vectors=templates.vectors[found], people=people[found])
