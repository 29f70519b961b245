"""Crops in one small file, to be carried to another machine, and back. Knows nothing of training.

``python -m engine.trainer.pack --crops FOLDER --to FILE.npz`` packs crops as JPEG; ``identiface train run RUN
--data FILE.npz`` trains on them. JPEG changes pixels a little: what comes out has a digest of its own, the
same on every machine that unpacks with the same libraries.

The file is an .npz without pickles: `jpegs` uint8[total], one after the other, `ends` int64[n], `labels`
int64[n], and as UTF-8 JSON in `names` uint8 keys, identities, alignment and side.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.embedding.align import ALIGNMENTS, ARCFACE
from engine.embedding.degrade import encode_jpeg
from engine.embedding.images import decode
from engine.errors import EngineError, InvalidInputError, InvalidPictureError
from engine.trainer.crop_files import (
    FORMAT,
    Recipe,
    keep_only,
    keep_pixels,
    kept_alignments,
    locked,
    open_crops,
    open_made,
    write_file,
    write_index,
)
from engine.trainer.crop_set import CropSet
from engine.trainer.crops import describe

SUFFIX = ".npz"
"""Of a pack's name."""
QUALITY_DEFAULT = 90
SIZE_BYTES_MAX = 55 * 2**20
"""Of a pack, unless another limit is given; LFW's 10,054 crops of 112 px take 39.8 MB at quality 90."""
CROPS_BYTES_MAX = 64 * 2**30
"""Of the pixels that a pack may announce."""


class _Names(msgspec.Struct, frozen=True):
    keys: list[str]
    identities: list[str]
    alignment: str
    side_px: int


@dataclass(frozen=True, eq=False)
class _Packed:
    """What a pack holds."""

    path: Path
    names: _Names
    labels: NDArray[np.int64]
    jpegs: NDArray[np.uint8]
    ends: NDArray[np.int64]

    @property
    def digest(self) -> str:
        """Hex sha256 of all of it: the same wherever the file lies."""
        hashed = hashlib.sha256()
        for part in (msgspec.json.encode(self.names), self.labels, self.ends, self.jpegs):
            hashed.update(memoryview(part))  # type: ignore[arg-type]
        return hashed.hexdigest()


def pack(
    crops: CropSet, path: Path, quality: int = QUALITY_DEFAULT, size_bytes_max: int = SIZE_BYTES_MAX
) -> int:
    """Write crops as JPEG into one file, in their order; returns its size in bytes.

    Raises InvalidInputError where it would be larger than allowed, and then writes nothing,
    InvalidPictureError for a quality outside 1..100, StorageFullError.
    """
    jpegs: list[bytes] = []
    size_bytes = 0
    for row in range(len(crops)):
        jpegs.append(encode_jpeg(crops.crops[row], quality))
        size_bytes += len(jpegs[-1])
        if size_bytes > size_bytes_max:
            raise InvalidInputError(
                f"{row + 1:,} of {len(crops):,} crops already take {size_bytes:,} bytes at quality {quality};"
                f" at most {size_bytes_max:,} are allowed",
                hint="Lower --quality, raise --size-max-mib, or pack fewer crops.",
            )
    names = _Names(list(crops.keys), list(crops.identities), crops.alignment, crops.side_px)
    arrays = {
        "jpegs": np.frombuffer(b"".join(jpegs), np.uint8),
        "ends": np.cumsum([len(data) for data in jpegs], dtype=np.int64),
        "labels": crops.labels,
        "names": np.frombuffer(msgspec.json.encode(names), np.uint8),
    }
    write_file(path, lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]
    return path.stat().st_size


def is_pack(path: Path) -> bool:
    """Whether a source of pictures is meant as a pack, by its name."""
    return path.suffix.lower() == SUFFIX


def unpack(path: Path, folder: Path, alignment: str) -> CropSet:
    """Keep the crops of a pack in a folder, as `build_crops` keeps those of pictures, or open what is kept.

    Waits where another process writes in the same folder; killed, it begins again. Raises InvalidInputError
    where the file is no pack, is damaged, or holds crops of another alignment, StorageFullError.
    """
    packed = _read(path)
    names = packed.names
    if names.alignment != alignment:
        raise InvalidInputError(
            f"{path} holds crops {names.alignment}; the network takes {alignment}",
            hint=f"Pack crops {alignment}, those of a run of such a network, or train a network that takes"
            f" {names.alignment}.",
        )
    recipe = Recipe(FORMAT, f"pack {packed.digest}", {})
    with locked(folder):
        keep_only(folder, recipe)
        crops = open_made(folder, alignment, recipe)
        if crops is None:
            shape = (len(packed.ends), names.side_px, names.side_px, 3)
            pixels = keep_pixels(folder, alignment, shape, _pixels_of(packed))
            crops = CropSet(pixels, packed.labels, tuple(names.identities), tuple(names.keys), alignment)
            write_index(folder, crops, recipe)
    sys.stderr.write(f"{path}: {describe(crops)}\n")
    return crops


def _pixels_of(packed: _Packed) -> Iterator[bytes]:
    """Pixels of each crop."""
    side = packed.names.side_px
    start = 0
    for row, end in enumerate(packed.ends.tolist()):
        key = packed.names.keys[row]
        try:
            crop = decode(packed.jpegs[start:end].tobytes())
        except InvalidPictureError as error:
            raise _damaged(packed.path, f"crop {row}, {key}: {error}") from error
        if crop.shape != (side, side, 3):
            raise _damaged(packed.path, f"crop {row}, {key}, is {list(crop.shape)}, not of side {side} px")
        yield crop.tobytes()
        start = end


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m engine.trainer.pack", description=__doc__)
    parser.add_argument("--crops", type=Path, required=True, help="folder of crops of a run")
    parser.add_argument("--to", type=Path, required=True, help="file to pack the crops into, an .npz")
    parser.add_argument(
        "--alignment", choices=sorted(ALIGNMENTS), help="which crops (default: those that are there)"
    )
    parser.add_argument("--quality", type=int, default=QUALITY_DEFAULT, help="of JPEG, 1 to 100")
    parser.add_argument("--size-max-mib", type=int, default=SIZE_BYTES_MAX // 2**20, help="of the file")
    given = parser.parse_args(arguments)
    if not is_pack(given.to):
        parser.error(f"--to is {given.to}; its name must end in {SUFFIX}, for train run --data to know it")
    try:
        crops = open_crops(given.crops, given.alignment or _only_alignment(given.crops))
        size_bytes = pack(crops, given.to, given.quality, given.size_max_mib * 2**20)
    except EngineError as error:
        sys.stderr.write(f"error: {error.message}\n{error.hint}\n")
        return 1
    sys.stderr.write(
        f"{given.to}: {describe(crops)}, {size_bytes / 2**20:.1f} MiB\n"
        f"train on them anywhere: identiface train run RUN --data {given.to.name}\n"
    )
    return 0


def _only_alignment(folder: Path) -> str:
    """Name of the alignment whose crops are kept; where there are none, that of ArcFace, which is missed."""
    kept = kept_alignments(folder)
    if len(kept) > 1:
        raise InvalidInputError(
            f"{folder} holds crops {' and '.join(kept)}", hint="Say which with --alignment."
        )
    return kept[0] if kept else ARCFACE.name


def _read(path: Path) -> _Packed:
    """A pack whose parts fit together; its pictures are not decoded."""
    try:
        # Opened here: NumPy leaves a file open that turns out to be none of its own.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = msgspec.json.decode(arrays["names"].tobytes(), type=_Names)
            labels, jpegs, ends = arrays["labels"], arrays["jpegs"], arrays["ends"]
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error.strerror or error}") from error
    # What NumPy and zipfile raise of a file that is no .npz, or a damaged one.
    except (ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise _damaged(path, str(error)) from error
    lengths = np.diff(_integers(path, ends), prepend=0)
    if not len(ends) == len(_integers(path, labels)) == len(names.keys) > 0 or (lengths < 1).any():
        raise _damaged(path, "crops, labels and keys do not fit together")
    if names.identities != sorted(set(names.identities)) or not np.array_equal(
        np.unique(labels), np.arange(len(names.identities))
    ):
        raise _damaged(path, "labels and identities do not fit together")
    if jpegs.dtype != np.uint8 or jpegs.ndim != 1 or ends[-1] != len(jpegs):
        raise _damaged(path, "its pictures do not end where they should")
    if names.alignment not in ALIGNMENTS or names.side_px != ALIGNMENTS[names.alignment].size_px:
        raise _damaged(path, f"there is no alignment {names.alignment!r} of {names.side_px} px")
    if len(ends) * names.side_px**2 * 3 > CROPS_BYTES_MAX:
        raise _damaged(path, f"{len(ends):,} crops of {names.side_px} px are announced")
    return _Packed(path, names, labels, jpegs, ends)


def _integers(path: Path, values: Any) -> NDArray[np.int64]:
    if values.dtype != np.int64 or values.ndim != 1:
        raise _damaged(path, f"{values.dtype}{list(values.shape)} where int64[n] belongs")
    integers: NDArray[np.int64] = values
    return integers


def _damaged(path: Path, what: str) -> InvalidInputError:
    return InvalidInputError(
        f"{path} is no whole pack of crops: {what}", hint="Carry the file over again, or pack it anew."
    )


if __name__ == "__main__":
    sys.exit(main())
