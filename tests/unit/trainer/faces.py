"""Crops of made-up people: each has a pattern of its own, and each picture of it some noise."""

from __future__ import annotations

import numpy as np

from engine.trainer.crop_set import CropRows, CropSet

ALIGNMENT_SIDES = {"dlib-150": 150, "arcface-112": 112}


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
