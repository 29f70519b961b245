"""Crops of made-up people: each has a pattern of its own, and each picture of it some noise.

And crops kept in a folder without their pictures.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from engine.trainer.crop_files import Recipe, keep_pixels, write_index
from engine.trainer.crop_set import CropRows, CropSet

ALIGNMENT_SIDES = {"dlib-150": 150, "arcface-112": 112, "facenet-160": 160}


def made_up_crops(counts: list[int], alignment: str = "dlib-150", seed: int = 0) -> CropSet:
    """As many people as there are counts, each with so many pictures."""
    rng = np.random.default_rng(seed)
    side = ALIGNMENT_SIDES[alignment]
    names = tuple(f"person-{seed}-{number:03d}" for number in range(len(counts)))
    crops, labels, keys = [], [], []
    for label, count in enumerate(counts):
        coarse = rng.integers(0, 256, (6, 6, 3))
        pattern = np.kron(coarse, np.ones((side // 6 + 1, side // 6 + 1, 1)))[:side, :side]
        for picture in range(count):
            noisy = pattern + rng.normal(0.0, 25.0, pattern.shape)
            crops.append(np.clip(noisy, 0, 255).astype(np.uint8))
            labels.append(label)
            keys.append(f"{names[label]}/{picture}.png")
    return CropSet(CropRows(np.stack(crops)), np.array(labels, np.int64), names, tuple(keys), alignment)


def keep_crops(folder: Path, crops: CropSet) -> CropSet:
    """Keep crops in a folder and open them there, in place of others of their alignment."""
    kept = keep_pixels(folder, crops.alignment, crops.crops.shape, [crops.crops[:].tobytes()])
    same = dataclasses.replace(crops, crops=kept)
    write_index(folder, same, Recipe(0, f"crops {crops.digest}", {}))
    return same
