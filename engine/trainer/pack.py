"""Crops in one small file, to be carried to another machine, and back. Knows nothing of training.

``python -m engine.trainer.pack --crops FOLDER --to FILE`` packs crops as JPEG, ``--from FILE --crops FOLDER``
keeps them again as the trainer reads them. JPEG changes pixels a little: what comes out has a digest of its
own, the same on every machine that unpacks with the same libraries.

The file is an .npz without pickles: `jpegs` uint8[total], one after the other, `ends` int64[n], `labels`
int64[n], and as UTF-8 JSON in `names` uint8 keys, identities, alignment and side.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from engine.embedding.align import ALIGNMENTS, ARCFACE
from engine.embedding.degrade import encode_jpeg
from engine.embedding.images import decode
from engine.errors import EngineError, InvalidInputError, InvalidPictureError
from engine.trainer.crop_files import is_kept, keep_crops, locked, open_crops, write_file
from engine.trainer.crop_set import CropRows, CropSet
from engine.trainer.crops import describe

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


def pack(
    crops: CropSet, path: Path, quality: int = QUALITY_DEFAULT, size_bytes_max: int = SIZE_BYTES_MAX
) -> int:
    """Write crops as JPEG into one file, in their order; returns its size in bytes.

    Raises InvalidInputError where it would be larger than allowed, and then writes nothing,
    InvalidPictureError for a quality outside 1..100, StorageFullError, DataFolderError.
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


def unpack(path: Path, folder: Path) -> CropSet:
    """Keep the crops of a pack in a folder and open them; a folder that holds them already is opened.

    Raises InvalidInputError where the file is no pack or is damaged, StorageFullError, DataFolderError.
    """
    names, labels, jpegs, ends = _read(path)
    with locked(folder):
        if is_kept(folder, names.alignment):
            found = open_crops(folder, names.alignment)
            if list(found.keys) == names.keys and list(found.identities) == names.identities:
                return found
            raise InvalidInputError(
                f"{folder} holds other crops {names.alignment}", hint="Give a new folder for the crops."
            )
        pixels = np.empty((len(ends), names.side_px, names.side_px, 3), np.uint8)
        starts = np.concatenate([[0], ends[:-1]])
        for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
            try:
                pixels[row] = decode(jpegs[start:end].tobytes())
            except (InvalidPictureError, ValueError) as error:
                raise _damaged(path, f"crop {row}, {names.keys[row]}: {error}") from error
        crops = CropSet(CropRows(pixels), labels, tuple(names.identities), tuple(names.keys), names.alignment)
        return keep_crops(folder, crops)


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack or unpack as the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m engine.trainer.pack", description=__doc__)
    parser.add_argument("--crops", type=Path, required=True, help="folder of crops")
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--to", type=Path, help="file to pack the crops into")
    way.add_argument("--from", type=Path, dest="source", help="file to unpack into the folder")
    parser.add_argument("--alignment", default=ARCFACE.name, choices=sorted(ALIGNMENTS), help="which crops")
    parser.add_argument("--quality", type=int, default=QUALITY_DEFAULT, help="of JPEG, 1 to 100")
    parser.add_argument("--size-max-mib", type=int, default=SIZE_BYTES_MAX // 2**20, help="of the file")
    given = parser.parse_args(arguments)
    try:
        if given.source is not None:
            crops = unpack(given.source, given.crops)
            sys.stderr.write(f"{given.crops}: {describe(crops)}\n")
            return 0
        crops = open_crops(given.crops, given.alignment)
        size_bytes = pack(crops, given.to, given.quality, given.size_max_mib * 2**20)
        sys.stderr.write(f"{given.to}: {describe(crops)}, {size_bytes / 2**20:.1f} MiB\n")
    except EngineError as error:
        sys.stderr.write(f"error: {error.message}\n{error.hint}\n")
        return 1
    return 0


def _read(path: Path) -> tuple[_Names, NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Names, labels, bytes and ends of a pack that fit together."""
    try:
        # Opened here: NumPy leaves a file open that turns out to be none of its own.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            names = msgspec.json.decode(arrays["names"].tobytes(), type=_Names)
            labels, jpegs, ends = arrays["labels"], arrays["jpegs"], arrays["ends"]
    except OSError as error:
        raise InvalidInputError(f"cannot read {path}: {error}") from error
    # What NumPy and zipfile raise of a file that is no .npz, or a damaged one.
    except (ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise _damaged(path, str(error)) from error
    lengths = np.diff(_integers(path, ends), prepend=0)
    if not len(ends) == len(_integers(path, labels)) == len(names.keys) or (lengths < 1).any():
        raise _damaged(path, "crops, labels and keys do not fit together")
    if jpegs.dtype != np.uint8 or jpegs.ndim != 1 or (len(ends) and ends[-1] != len(jpegs)):
        raise _damaged(path, "its pictures do not end where they should")
    if names.side_px < 1 or len(ends) * names.side_px**2 * 3 > CROPS_BYTES_MAX:
        raise _damaged(path, f"{len(ends):,} crops of {names.side_px} px are announced")
    if names.alignment not in ALIGNMENTS:
        raise _damaged(path, f"there is no alignment {names.alignment!r}")
    return names, labels, jpegs, ends


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
