"""Decoding of every accepted kind of picture, and refusal of all else."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.embedding import images
from engine.embedding.images import ImageLimits, decode, encode_png, read_size
from engine.errors import (
    EngineError,
    InvalidPictureError,
    PictureTooLargeError,
    UndecodablePictureError,
)
from engine.types import Rgb


def gradient(height: int = 24, width: int = 32) -> Rgb:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack(
        [rows * 255 // height, columns * 255 // width, (rows + columns) * 3 % 256], axis=2
    ).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b""
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\x00" * 100)), (b"IEND", b"")):
        chunks += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return b"\x89PNG\r\n\x1a\n" + chunks


def webp_header(width: int, height: int) -> bytes:
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4)
    body += struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_come_back_as_they_were(kind: str, options: dict[str, object]) -> None:
    image = gradient()
    decoded = decode(encoded(Image.fromarray(image), kind, **options))
    np.testing.assert_array_equal(decoded, image)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous


def test_jpeg_comes_back_nearly_as_it_was() -> None:
    image = gradient()
    decoded = decode(encoded(Image.fromarray(image), "JPEG", quality=95, subsampling=0))
    assert np.abs(decoded.astype(int) - image).mean() < 4


def test_png_round_trip() -> None:
    np.testing.assert_array_equal(decode(encode_png(gradient())), gradient())


@pytest.mark.parametrize(
    "bad", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3))]
)
def test_what_is_no_picture_is_not_encoded(bad: Rgb) -> None:
    with pytest.raises(InvalidPictureError, match="expected pixels uint8"):
        encode_png(bad)


@pytest.mark.parametrize("size", [(1, 1), (10, 10), (3, 200)])
def test_tiny_pictures_are_accepted(size: tuple[int, int]) -> None:
    assert decode(encode_png(gradient(*size))).shape == (*size, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    # Quarters of four colours; expected by EXIF's own words: where the stored row 0 and column 0 are shown.
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :24], image[:16, 24:], image[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    expected = {
        1: lambda i: i,
        2: np.fliplr,
        3: lambda i: np.rot90(i, 2),
        4: np.flipud,
        5: lambda i: np.rot90(np.fliplr(i), 1),
        6: lambda i: np.rot90(i, -1),
        7: lambda i: np.rot90(np.fliplr(i), -1),
        8: lambda i: np.rot90(i, 1),
    }[orientation](image)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode(encoded(Image.fromarray(image), kind, exif=exif.tobytes(), quality=95))
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).mean() < 6


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff" + b"\x12\x01\x03\x00\x01\x00",
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 99, 0),
        b"nonsense",
    ],
)
def test_damaged_exif_leaves_the_picture_as_it_is(exif: bytes) -> None:
    data = encoded(Image.fromarray(gradient()), "JPEG", exif=exif, quality=95)
    assert decode(data).shape == gradient().shape


def test_grey_becomes_three_equal_channels() -> None:
    grey = gradient()[..., 0]
    decoded = decode(encoded(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat(grey[..., None], 3, axis=2))


def test_black_and_white_becomes_0_and_255() -> None:
    decoded = decode(encoded(Image.fromarray(gradient()[..., 0] > 100).convert("1"), "PNG"))
    assert set(np.unique(decoded)) == {0, 255}


def test_sixteen_bit_grey_is_scaled_and_not_clipped() -> None:
    wide = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    decoded = decode(encoded(Image.fromarray(wide), "PNG"))
    np.testing.assert_array_equal(decoded[..., 0], np.round(wide / 257.0).astype(np.uint8))


def test_transparent_pixels_show_white_paper() -> None:
    layered = np.zeros((4, 4, 4), np.uint8)
    layered[..., 0] = 200
    layered[2:, :, 3] = 255
    layered[1, :, 3] = 128
    decoded = decode(encoded(Image.fromarray(layered), "PNG"))
    np.testing.assert_array_equal(decoded[0], np.full((4, 3), 255))
    np.testing.assert_array_equal(decoded[2], np.tile([200, 0, 0], (4, 1)))
    np.testing.assert_allclose(decoded[1], np.tile([227, 127, 127], (4, 1)), atol=1)


def test_grey_with_alpha_shows_white_paper() -> None:
    layered = np.dstack([np.full((2, 2), 10, np.uint8), np.array([[0, 255], [0, 255]], np.uint8)])
    decoded = decode(encoded(Image.fromarray(layered), "PNG"))
    np.testing.assert_array_equal(decoded[..., 1], [[255, 10], [255, 10]])


def test_palette_with_a_transparent_colour() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    plain = decode(encoded(image, "PNG"))
    np.testing.assert_array_equal(plain[0], [[255, 0, 0], [0, 0, 255]])
    np.testing.assert_array_equal(
        decode(encoded(image, "PNG", transparency=0))[0], [[255, 255, 255], [0, 0, 255]]
    )
    np.testing.assert_array_equal(
        decode(encoded(image, "PNG", transparency=b"\xff\x00"))[0], [[255, 0, 0], [255, 255, 255]]
    )


def test_cmyk_jpeg_keeps_its_colours() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = decode(encoded(red, "JPEG", quality=95))
    np.testing.assert_allclose(decoded[8, 8], [255, 0, 0], atol=6)


@pytest.mark.parametrize("data", [b"", b"\x00", b"not a picture", b"\xff\xd8", b"<svg xmlns=''/>"])
def test_bytes_that_are_no_picture_are_refused_naming_the_formats(data: bytes) -> None:
    with pytest.raises(UndecodablePictureError, match="JPEG, PNG, WebP or BMP"):
        decode(data)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused_naming_the_formats(kind: str) -> None:
    with pytest.raises(UndecodablePictureError, match="JPEG, PNG, WebP or BMP"):
        decode(encoded(Image.fromarray(gradient()), kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.9])
def test_truncated_pictures_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    with pytest.raises(UndecodablePictureError):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("header", "size"),
    [
        (png_header(50_000, 50_000), "50000x50000"),
        (png_header(9_000, 9_000), "9000x9000"),
        (webp_header(16_000, 16_000), "16000x16000"),
        (webp_header(8_000, 9_000), "8000x9000"),
    ],
)
def test_a_bomb_is_refused_from_its_header_without_a_warning(header: bytes, size: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PictureTooLargeError, match=size):
            decode(header)


@pytest.mark.parametrize("lossless", [True, False])
def test_the_size_of_a_webp_is_checked_before_it_is_opened(lossless: bool) -> None:
    data = encoded(Image.fromarray(gradient(20, 30)), "WEBP", lossless=lossless)
    assert decode(data, ImageLimits(pixels_max=600)).shape == (20, 30, 3)
    with pytest.raises(PictureTooLargeError, match="30x20"):
        decode(data, ImageLimits(pixels_max=599))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_the_size_is_read_from_the_header_alone(kind: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (90, 70, 3), np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    assert read_size(data) == (70, 90)
    assert read_size(data[: len(data) // 2]) == (70, 90)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", UndecodablePictureError),
        (b"\xff\xd8\xff", UndecodablePictureError),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", UndecodablePictureError),
        (png_header(0, 5), UndecodablePictureError),
        (png_header(9_000, 9_000), PictureTooLargeError),
        (webp_header(16_000, 16_000), PictureTooLargeError),
    ],
)
def test_a_header_that_is_refused_has_no_size(data: bytes, expected: type[EngineError]) -> None:
    with pytest.raises(expected):
        read_size(data)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "I;16", "P", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize("strip_pixels", [1, 32, 100, 767])
def test_converting_by_strips_gives_what_converting_at_once_gives(
    monkeypatch: pytest.MonkeyPatch, mode: str, strip_pixels: int
) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 85)
    else:
        image = Image.fromarray(gradient()).convert("RGBA").convert(mode)
    options: dict[str, object] = {"quality": 95} if mode == "CMYK" else {"optimize": True}
    if mode == "P":
        options["transparency"] = 3
    data = encoded(image, "JPEG" if mode == "CMYK" else "PNG", **options)
    at_once = decode(data)
    monkeypatch.setattr(images, "STRIP_PIXELS", strip_pixels)
    np.testing.assert_array_equal(decode(data), at_once)


def test_a_bomb_takes_no_memory() -> None:
    tracemalloc.start()
    with pytest.raises(PictureTooLargeError):
        decode(png_header(50_000, 50_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_limits_are_inclusive_and_named() -> None:
    data = encode_png(gradient(20, 30))
    limits = ImageLimits(bytes_max=len(data), pixels_max=600, side_px_max=30)
    assert decode(data, limits).shape == (20, 30, 3)
    with pytest.raises(PictureTooLargeError, match=f"at most {len(data) - 1}"):
        decode(data, ImageLimits(bytes_max=len(data) - 1))
    with pytest.raises(PictureTooLargeError, match="at most 599 pixels"):
        decode(data, ImageLimits(pixels_max=599))
    with pytest.raises(PictureTooLargeError, match="29 a side"):
        decode(data, ImageLimits(side_px_max=29))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_animations_are_refused_unless_allowed_and_then_give_the_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), (i * 60, 0, 0)) for i in range(3)]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(PictureTooLargeError, match="3 frames"):
        decode(data)
    assert decode(data, ImageLimits(frames_max=3)).max() == 0


@given(
    kind=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=20),
)
def test_damage_anywhere_gives_pixels_or_our_error(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(encoded(Image.fromarray(gradient()), kind))
    for place, value in changes:
        data[place % len(data)] = value
    try:
        decoded = decode(bytes(data), ImageLimits(pixels_max=1_000_000))
    except EngineError:
        return
    assert decoded.dtype == np.uint8
    assert decoded.shape[2] == 3


def test_many_threads_decode_at_once() -> None:
    images = [gradient(20 + i, 30) for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        decoded = list(pool.map(decode, [encode_png(image) for image in images]))
    for one, image in zip(decoded, images, strict=True):
        np.testing.assert_array_equal(one, image)
