"""Picture bytes to upright RGB pixels and back. Knows nothing of faces or networks.

Pillow's global switches (LOAD_TRUNCATED_IMAGES, MAX_IMAGE_PIXELS) are left alone: files are opened by the
plugin of their own format, with our limits checked between header and pixels, so that any number of
threads may decode at once.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec
import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from engine.config import Settings
from engine.errors import InvalidPictureError, PictureTooLargeError, UndecodablePictureError
from engine.types import Rgb

FORMATS = ("JPEG", "PNG", "WebP", "BMP")
PAPER = (255, 255, 255)
"""What shows through transparent pixels: white, as viewers and printed portraits have it. Dropping the alpha
channel instead would bring out whatever colour the file keeps where nothing is meant to be seen."""
ORIENTATION_TAG = 0x0112
"""EXIF 2.32, section 4.6.4: how the picture is to be turned for viewing, 1 to 8."""
STRIP_PIXELS = 1_000_000
"""Pixels whose colours are converted at once. Converting a whole picture takes up to 20 bytes a pixel."""

# What Pillow is known to raise on damaged or hostile files; UserWarning where warnings are errors.
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
    UserWarning,
)

# A wrong number of animation frames is answered by our own limit; a line on stderr helps nobody.
warnings.filterwarnings("ignore", "Invalid APNG", UserWarning, r"PIL\.PngImagePlugin")


class ImageLimits(Settings, frozen=True, kw_only=True):
    """How large a picture may be; checked before any pixel is decoded."""

    bytes_max: Annotated[int, msgspec.Meta(ge=1)] = 20 * 2**20
    """Size of the file. Raising it raises the memory a request may take."""
    pixels_max: Annotated[int, msgspec.Meta(ge=1)] = 50_000_000
    """Width times height. A decoded pixel takes 3 bytes, and some 7 (PNG), 7 to 10 (JPEG) or 16 (WebP) while
    it is being decoded."""
    side_px_max: Annotated[int, msgspec.Meta(ge=1, le=32_766)] = 32_000
    """Width or height alone; OpenCV's 16-bit coordinates end at 32,766."""
    frames_max: Annotated[int, msgspec.Meta(ge=1)] = 1
    """Frames of an animated PNG or WebP; of those allowed, only the first is ever decoded."""


DEFAULT_LIMITS = ImageLimits()


class _JpegFile(JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Leave the resolution unread: nobody asks for it, and damaged EXIF makes Pillow warn."""


def read_size(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> tuple[int, int]:
    """Width and height, as stored, of a JPEG, PNG, WebP or BMP, from its header: no pixel is decoded.

    Raises what `decode` would raise before it decodes.
    """
    if len(data) > limits.bytes_max:
        raise PictureTooLargeError(f"picture of {len(data)} bytes; at most {limits.bytes_max} are accepted")
    opener = _opener(data)
    if opener is WebPImageFile and (canvas := _webp_canvas(data)):
        # Its decoder takes memory for the whole canvas as soon as the file is opened.
        _check_size(canvas, 1, limits)
        return canvas
    with _damage_named(opener), opener(io.BytesIO(data)) as file:
        _check_size(file.size, getattr(file, "n_frames", 1), limits)
        return file.size


def decode(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Rgb:
    """Decode a JPEG, PNG, WebP or BMP into upright RGB of 8 bits; colours are taken to be sRGB.

    EXIF orientation is applied, grey and palette become RGB, transparent pixels show PAPER, 16-bit grey is
    scaled to 8 bits, CMYK is converted. Raises UndecodablePictureError for other formats and for damaged
    files, PictureTooLargeError where a limit is passed. Safe to call from many threads.
    """
    size = read_size(data, limits)
    opener = _opener(data)
    with _damage_named(opener):
        return _turn(*_load(opener, data, size, limits))


def check_rgb(image: Rgb) -> None:
    """Raise InvalidPictureError for anything but uint8[h, w, 3] with pixels in it."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise InvalidPictureError(f"expected pixels uint8[h, w, 3], got {image.dtype}{list(image.shape)}")


def encode_png(image: Rgb) -> bytes:
    """Encode uint8[h, w, 3] as PNG, without loss.

    Raises InvalidPictureError where the array is no such picture.
    """
    check_rgb(image)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def encode_jpeg(image: Rgb, quality: int) -> bytes:
    """Encode uint8[h, w, 3] as JPEG, with all of its colours' pixels. Raises as `encode_png`."""
    check_rgb(image)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
    return file.getvalue()


@contextmanager
def _damage_named(opener: type[ImageFile]) -> Iterator[None]:
    """What Pillow raises of a file, as our errors."""
    try:
        yield
    except _PILLOW_ERRORS as error:
        raise UndecodablePictureError(f"damaged {opener.format} picture: {error}") from error
    except (MemoryError, Image.DecompressionBombError) as error:
        raise PictureTooLargeError("picture does not fit in memory: send a smaller one") from error


def _load(
    opener: type[ImageFile], data: bytes, size: tuple[int, int], limits: ImageLimits
) -> tuple[Rgb, int]:
    """Pixels as they are stored, and their orientation; Pillow's own are gone once this returns."""
    with opener(io.BytesIO(data)) as file:
        _check_size(file.size, getattr(file, "n_frames", 1), limits)
        if file.size != size:
            raise UndecodablePictureError(f"picture of {file.size} pixels announces {size}")
        file.load()
        return _to_rgb(file), _orientation(file.info.get("exif", b""))


def _opener(data: bytes) -> type[ImageFile]:
    """Choose the reader by the file's first bytes, never by what the caller calls it."""
    if data.startswith(b"\xff\xd8\xff"):
        return _JpegFile
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImageFile
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return WebPImageFile
    if data.startswith(b"BM"):
        return BmpImageFile
    what = "no bytes" if not data else "not a picture of a known format"
    raise UndecodablePictureError(f"{what}: send {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")


def _check_size(size: tuple[int, int], num_frames: int, limits: ImageLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise UndecodablePictureError(f"picture of {width}x{height} pixels holds nothing")
    if width * height > limits.pixels_max or max(size) > limits.side_px_max:
        raise PictureTooLargeError(
            f"picture of {width}x{height} pixels; at most {limits.pixels_max} pixels"
            f" and {limits.side_px_max} a side are accepted"
        )
    if num_frames > limits.frames_max:
        raise PictureTooLargeError(
            f"picture of {num_frames} frames; at most {limits.frames_max} accepted: send one still frame",
            hint="Send one still frame.",
        )


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height that a WebP announces (RFC 9649, sections 2.5 to 2.7); None where it is damaged."""
    kind, body = data[12:16], data[20:30]
    if kind == b"VP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(body) == 10:
        width, height = struct.unpack("<HH", body[6:10])
        return width & 0x3FFF, height & 0x3FFF
    return None


def _to_rgb(image: Image.Image) -> Rgb:
    width, height = image.size
    num_rows = max(1, STRIP_PIXELS // width)
    if num_rows >= height:
        return _strip_to_rgb(image)
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, num_rows):
        bottom = min(top + num_rows, height)
        rgb[top:bottom] = _strip_to_rgb(image.crop((0, top, width, bottom)))
    return rgb


def _strip_to_rgb(image: Image.Image) -> Rgb:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255: everything but the deepest shadows turns white.
        wide = np.asarray(image).astype(np.uint32).clip(0, 65535)
        return np.repeat(((wide + 128) // 257).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        paper = Image.new("RGBA", layered.size, (*PAPER, 255))
        return np.array(Image.alpha_composite(paper, layered).convert("RGB"))
    return np.array(image.convert("RGB"))


def _orientation(exif: object) -> int:
    """Read the orientation tag of the first directory; 1, upright, where there is none or it is damaged.

    Pillow's own reader walks through every tag and warns of each that is damaged.
    """
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (num_entries,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(num_entries):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, start + 2 + 12 * entry)
            if tag == ORIENTATION_TAG:
                return int(value)
    except struct.error:
        return 1
    return 1


def _turn(image: Rgb, orientation: int) -> Rgb:
    """Turn and mirror as EXIF orientation asks; values outside 2..8 leave the picture as it is."""
    if not 2 <= orientation <= 8:
        return image
    if orientation >= 5:
        image = image.transpose(1, 0, 2)
    if orientation in {2, 3, 6, 7}:
        image = image[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        image = image[::-1]
    return np.ascontiguousarray(image)
