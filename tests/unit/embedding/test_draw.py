"""What is drawn, where, and that it never leaves the frame."""

from __future__ import annotations

import numpy as np
import pytest

from engine.embedding.draw import MATCH_COLOUR, NO_MATCH_COLOUR, draw_faces
from engine.errors import InvalidPictureError
from engine.types import Box, Face, Rgb


def face(x1: float, y1: float, x2: float, y2: float) -> Face:
    share = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]], np.float32)
    points = (np.array([x1, y1]) + share * [x2 - x1, y2 - y1]).astype(np.float32)
    return Face(Box(x1, y1, x2, y2), 0.99, points)


def has_colour(image: Rgb, colour: tuple[int, int, int]) -> bool:
    return bool((image == colour).all(axis=2).any())


def test_nothing_to_draw_gives_an_equal_copy() -> None:
    image = np.full((50, 60, 3), 128, np.uint8)
    drawn = draw_faces(image, [])
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


def test_the_picture_given_is_left_alone() -> None:
    image = np.full((200, 200, 3), 128, np.uint8)
    draw_faces(image, [(face(50, 50, 120, 140), "Ana 0.91", True)])
    assert (image == 128).all()


def test_match_and_no_match_have_their_colours() -> None:
    image = np.full((300, 400, 3), 128, np.uint8)
    drawn = draw_faces(
        image, [(face(40, 60, 120, 160), "Ana 0.91", True), (Box(250, 60, 330, 160), "unknown", False)]
    )
    assert has_colour(drawn[:, :200], MATCH_COLOUR)
    assert not has_colour(drawn[:, :200], NO_MATCH_COLOUR)
    assert has_colour(drawn[:, 230:], NO_MATCH_COLOUR)
    assert not has_colour(drawn[:, 230:], MATCH_COLOUR)


def test_the_five_points_are_marked() -> None:
    image = np.zeros((300, 300, 3), np.uint8)
    one = face(60, 60, 240, 260)
    with_points = draw_faces(image, [(one, "", True)])
    without = draw_faces(image, [(one.box, "", True)])
    for x, y in one.keypoints.round().astype(int):
        assert with_points[y, x].any()
        assert not without[y, x].any()


@pytest.mark.parametrize(
    "box",
    [
        Box(0, 0, 30, 30),
        Box(170, 0, 200, 30),
        Box(0, 170, 30, 200),
        Box(170, 170, 200, 200),
        Box(0, 0, 200, 200),
    ],
)
def test_a_whole_label_stays_inside_the_frame(box: Box) -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    inner = np.zeros((600, 600, 3), np.uint8)
    text = "Ana 0.91"
    drawn = draw_faces(image, [(box, text, True)])
    # As many pixels of letters as in a frame with room on all sides, of the same scale.
    free = draw_faces(inner[:200, :200], [(Box(60, 90, 60 + box.width, 91), text, True)])
    letters, expected = ((one == 255).all(axis=2).sum() for one in (drawn, free))
    assert letters == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("size", [(1, 1), (10, 10), (5, 300), (300, 5)])
@pytest.mark.parametrize("text", ["", "Ana", "x" * 5000, "line\nbreak\ttab", "Zoë Müller", "名前"])
def test_any_text_on_any_size_of_picture(size: tuple[int, int], text: str) -> None:
    image = np.zeros((*size, 3), np.uint8)
    drawn = draw_faces(
        image, [(Box(0, 0, size[1], size[0]), text, False), (Box(-5, -5, 2000, 1e4), text, True)]
    )
    assert drawn.shape == image.shape


def test_a_name_is_not_written_over_a_neighbours_face() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    above, below = Box(100, 60, 200, 180), Box(110, 185, 210, 300)
    drawn = draw_faces(image, [(above, "", True), (below, "Somebody 0.5", False)])
    assert not has_colour(drawn[70:175, 110:190], NO_MATCH_COLOUR)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(InvalidPictureError, match="expected pixels"):
        draw_faces(np.zeros((4, 4), np.uint8), [])
