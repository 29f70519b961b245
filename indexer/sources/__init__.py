"""What bulk jobs read: pictures or vectors, in the forms that data sets come in."""

from __future__ import annotations

from pathlib import Path

from engine.errors import InvalidInputError
from indexer.items import PictureSource, VectorSource

KINDS = (
    "a folder of folders of pictures, one for each identity",
    "a .tar file, or a folder that holds some, in WebDataset form",
    "a manifest of pictures, .csv, .tsv or .parquet, with the columns path and identity_id",
    "an .h5 or .hdf5 file with images and labels",
    "an .npy file of vectors, with --ids FILE",
    "a .parquet file of vectors with the columns identity_id and vector",
)
_HDF5_SUFFIXES = (".h5", ".hdf5")


def open_source(
    path: Path, ids: Path | None = None, *, images: str = "", labels: str = ""
) -> PictureSource | VectorSource:
    """Open a source by what it is; `ids` goes with .npy, `images` and `labels` name data sets of HDF5.

    A folder that holds tars is taken for tars, whatever lies beside them. Raises InvalidInputError for what
    is none of KINDS, and for what cannot be used as a whole.
    """
    suffix = path.suffix.lower()
    if ids is not None and suffix != ".npy":
        raise InvalidInputError(f"{path} says itself whose its rows are", hint="Leave --ids out.")
    if (images or labels) and suffix not in _HDF5_SUFFIXES:
        raise InvalidInputError(
            f"{path} is no HDF5 file", hint="Names of data sets for images and labels go with .h5 and .hdf5."
        )
    try:
        if path.is_dir():
            return _open_folder(path)
        # Else opening a pipe would wait for ever.
        if not path.is_file():
            raise InvalidInputError(
                f"there is no file and no folder {path}", hint=f"Give {'; '.join(KINDS)}."
            )
        if not path.name.isprintable():
            raise InvalidInputError(f"{path.name!r} cannot be part of a key", hint="Rename the file.")
        return _open_file(path, suffix, ids, images=images, labels=labels)
    except OSError as error:
        raise InvalidInputError(
            f"cannot read {path}: {error.strerror or error}", hint="Check the path and its permissions."
        ) from error


# The libraries of a kind are imported where it is opened: all of them together take half a second.


def _open_folder(path: Path) -> PictureSource:
    from indexer.sources.folder import FolderSource
    from indexer.sources.tar import TarSource, tars_in

    if tars_in(path):
        return TarSource(path)
    source = FolderSource(path)
    # Says so where there is no picture at all, before a job is begun.
    next(source.items())
    return source


def _open_file(
    path: Path, suffix: str, ids: Path | None, *, images: str, labels: str
) -> PictureSource | VectorSource:
    if suffix == ".tar":
        from indexer.sources.tar import TarSource

        return TarSource(path)
    if suffix in {".csv", ".tsv"}:
        from indexer.sources.manifest import ManifestSource

        return ManifestSource(path)
    if suffix == ".parquet":
        from indexer.sources.manifest import ManifestSource
        from indexer.sources.parquet import ParquetSource, has_vectors

        return ParquetSource(path) if has_vectors(path) else ManifestSource(path)
    if suffix in _HDF5_SUFFIXES:
        from indexer.sources.hdf5 import Hdf5Source

        return Hdf5Source(path, images, labels)
    if suffix == ".npy":
        from indexer.sources.npy import NpySource

        return NpySource(path, ids)
    hint = f"Give {'; '.join(KINDS)}."
    if path.name.lower().endswith((".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")):
        hint = "Unpack it first: pictures are read from where they lie. " + hint
    raise InvalidInputError(f"{path} is of no known kind", hint=hint)
