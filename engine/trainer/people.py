"""Templates of folders of people, to be judged like vectors from a file.

Layout: ``root/PERSON/picture``; the folder's name is the label. Files that are no pictures by their suffix,
and files beside the folders, are passed over.

Knows nothing of how faces are found or embedded, and nothing of what the templates are judged by.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from engine.errors import InvalidInputError
from engine.trainer.evaluate import MIN_FACE_PX, PicturePipeline, embed_pictures
from engine.trainer.vectors_file import LabelledVectors, as_labels
from engine.types import FaceChoice

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
PEOPLE_MIN = 2


def find_pictures(root: Path) -> tuple[Path, ...]:
    """List the pictures of all people, by the person's name and then by their own.

    Raises InvalidInputError where the folder cannot be read or holds pictures of fewer than two people.
    """
    try:
        people = sorted(path for path in root.iterdir() if path.is_dir())
        found = [
            path
            for person in people
            for path in sorted(person.iterdir())
            if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file()
        ]
    except OSError as error:
        raise InvalidInputError(f"cannot read folder {root}: {error.strerror}") from error
    num_people = len({path.parent for path in found})
    if num_people < PEOPLE_MIN:
        raise InvalidInputError(
            f"{root} holds pictures of {num_people} people (as {', '.join(PICTURE_SUFFIXES)}, in a folder for"
            f" each person): at least {PEOPLE_MIN} are needed"
        )
    return tuple(found)


def embed_people(
    pipeline: PicturePipeline,
    root: Path,
    *,
    choice: FaceChoice = FaceChoice.CENTRE,
    min_face_px: int = MIN_FACE_PX,
    progress: bool = False,
    only: Collection[str] | None = None,
) -> LabelledVectors:
    """Embed every picture of `find_pictures` once; a picture without a face gives a row of zeros.

    `only` names the people to take; None: all.

    Raises InvalidInputError as `find_pictures`, and for choice ALL; whatever the pipeline raises.
    """
    if choice is FaceChoice.ALL:
        raise InvalidInputError("one face of each picture is judged: choose centre or largest, not all")
    paths = find_pictures(root)
    if only is not None:
        paths = tuple(path for path in paths if path.parent.name in only)
    templates = embed_pictures(pipeline, paths, choice=choice, min_face_px=min_face_px, progress=progress)
    vectors = np.where(templates.is_detected[:, None], templates.vectors, np.float32(0.0))
    labels = as_labels([path.parent.name for path in paths])
    return LabelledVectors(vectors, labels, tuple(str(path.relative_to(root)) for path in paths))
