"""Boxes, keypoints and names drawn on a picture, for people to look at. Knows nothing of detection."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.embedding.images import check_rgb
from engine.errors import InvalidPictureError
from engine.types import Box, Face, Rgb

MATCH_COLOUR = (0, 135, 98)
NO_MATCH_COLOUR = (200, 80, 0)
"""Bluish green and vermilion of Okabe and Ito 2008, "Color Universal Design", darkened until white text on
them is easy to read: told apart by people who confuse red and green too."""
TEXT_COLOUR = (255, 255, 255)
REFERENCE_PX = 640
"""Longer side of a picture on which lines are LINE_PX wide and letters FONT_PX high."""
LINE_PX, FONT_PX = 2.0, 15.0
FACE_WIDTHS_PER_EM = 4.0
"""Letters are at most this part of their face's width high, so that a crowd's names do not hide its faces."""
FONT_PX_MIN = 10
LABEL_CHARACTERS_MAX = 200
"""Of a label; what does not fit the picture's width is cut in any case."""

Label = tuple[Face | Box, str, bool]
"""What to frame, the text beside it, and whether it is a match."""


def draw_faces(image: Rgb, labels: Sequence[Label]) -> Rgb:
    """Draw each face's box, keypoints where it has them, and text, on a copy of uint8[h, w, 3].

    Sizes follow the picture's. Text stays inside the frame, above its box or wherever it hides least of the
    other faces and names; accents are left out, and other than Latin letters show as boxes, as the font
    has neither. Raises InvalidPictureError where the array is no picture.
    """
    check_rgb(image)
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    # Boxes first: no line may run through a neighbour's name.
    for face, _, is_match in labels:
        _draw_frame(pen, face, _colour(is_match), _unit(canvas.size))
    boxes = [face.box if isinstance(face, Face) else face for face, _, _ in labels]
    names: list[Box] = []
    for i, (_, text, is_match) in enumerate(labels):
        others = boxes[:i] + boxes[i + 1 :] + names
        name = _draw_name(pen, canvas.size, boxes[i], others, text, _colour(is_match))
        if name is not None:
            names.append(name)
    return np.array(canvas)


def _colour(is_match: bool) -> tuple[int, int, int]:
    return MATCH_COLOUR if is_match else NO_MATCH_COLOUR


def _unit(size: tuple[int, int]) -> float:
    return max(size) / REFERENCE_PX


def _draw_frame(
    pen: ImageDraw.ImageDraw, face: Face | Box, colour: tuple[int, int, int], unit: float
) -> None:
    box = face.box if isinstance(face, Face) else face
    width = _line_px(unit)
    edges = (box.x1, box.y1, max(box.x1, box.x2 - 1), max(box.y1, box.y2 - 1))
    pen.rounded_rectangle(edges, radius=2 * width, outline=colour, width=width)
    if not isinstance(face, Face):
        return
    # On small faces the dots shrink, or they would hide what they mark.
    radius = max(1.0, min(1.3 * width, box.width / 30))
    for x, y in face.keypoints.tolist():
        dot = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(dot, fill=TEXT_COLOUR, outline=colour, width=max(1, round(radius / 2)))


def _draw_name(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    box: Box,
    others: Sequence[Box],
    text: str,
    colour: tuple[int, int, int],
) -> Box | None:
    """Draw the text on its background; answers where, or None where not a letter fits."""
    unit = _unit(size)
    font_px = max(
        FONT_PX_MIN, round(min(FONT_PX * unit, max(0.7 * FONT_PX * unit, box.width / FACE_WIDTHS_PER_EM)))
    )
    font = _font(font_px)
    padding = max(2, round(font_px / 4))
    shown = _fitted(_plain(text), font, size[0] - 2 * padding)
    if not shown:
        return None
    ascent, descent = font.getmetrics()
    width = math.ceil(font.getlength(shown)) + 2 * padding
    place = _place(box, (width, ascent + descent + padding), size, others)
    edges = (place.x1, place.y1, place.x2 - 1, place.y2 - 1)
    pen.rounded_rectangle(edges, radius=padding, fill=colour)
    pen.text((place.x1 + padding, place.y1 + padding / 2), shown, font=font, fill=TEXT_COLOUR)
    return place


def _place(box: Box, label: tuple[int, int], size: tuple[int, int], others: Sequence[Box]) -> Box:
    """Where the label hides least: above the box, below it, or over its top; always in the frame."""
    width, height = label
    line = _line_px(_unit(size))
    places = []
    for left in (round(box.x1), round(box.x2) - width):
        for top in (round(box.y1) - height + line, round(box.y2) - line, round(box.y1)):
            x = max(0, min(left, size[0] - width))
            y = max(0, min(top, size[1] - height))
            places.append(Box(x, y, x + width, y + height))

    def hidden(place: Box) -> float:
        # To a tenth, so that the width of a line does not outweigh the order of preference.
        return round(sum(_common(place, other) for other in [*others, box]) / place.area, 1)

    return min(places, key=hidden)


def _common(one: Box, other: Box) -> float:
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    return max(0.0, width) * max(0.0, height)


def _plain(text: str) -> str:
    """One line without accents, which Pillow's own font lacks."""
    parts = unicodedata.normalize("NFKD", text[:LABEL_CHARACTERS_MAX])
    return " ".join("".join(part for part in parts if not unicodedata.combining(part)).split())


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, or as much of its beginning as fits, with dots after it."""
    if font.getlength(text) <= width:
        return text
    for length in range(len(text) - 1, 0, -1):
        shortened = text[:length].rstrip() + "..."
        if font.getlength(shortened) <= width:
            return shortened
    return ""


def _line_px(unit: float) -> int:
    return max(1, round(LINE_PX * unit))


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise InvalidPictureError("Pillow is built without FreeType: no text can be drawn")
    return font
