"""Which of several faces is meant."""

from __future__ import annotations

import numpy as np
import pytest

from engine.embedding.pipeline import choose
from engine.types import Box, Face, FaceChoice


def face(x1: float, y1: float, x2: float, y2: float, confidence: float = 0.9) -> Face:
    return Face(Box(x1, y1, x2, y2), confidence, np.zeros((5, 2), np.float32))


@pytest.mark.parametrize("choice", FaceChoice)
def test_of_no_faces_none_is_chosen(choice: FaceChoice) -> None:
    assert choose([], choice, 100, 100) == []


def test_choices_differ_where_the_largest_is_not_in_the_middle() -> None:
    small_centre, large_aside, medium = face(45, 45, 55, 55), face(0, 0, 40, 40), face(60, 60, 90, 90)
    faces = [small_centre, large_aside, medium]
    assert choose(faces, FaceChoice.LARGEST, 100, 100) == [large_aside]
    assert choose(faces, FaceChoice.CENTRE, 100, 100) == [small_centre]
    assert choose(faces, FaceChoice.ALL, 100, 100) == [large_aside, medium, small_centre]
    assert faces == [small_centre, large_aside, medium]


def test_equals_keep_the_order_given() -> None:
    left, right = face(0, 45, 10, 55), face(90, 45, 100, 55)
    for choice in (FaceChoice.LARGEST, FaceChoice.CENTRE):
        assert choose([left, right], choice, 100, 100) == [left]
        assert choose([right, left], choice, 100, 100) == [right]
    assert choose([right, left], FaceChoice.ALL, 100, 100) == [right, left]
