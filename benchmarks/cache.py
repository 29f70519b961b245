"""Where slow things are kept between runs: galleries, exact answers, rivals' indexes, data folders.

One folder each, made under another name and renamed, so that a folder that is there is complete.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER = Path("~/.cache/identiface-bench")


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let the caller say where the cache lies."""
    parser.add_argument(
        "--cache", type=Path, default=FOLDER, help=f"keeps what is slow to make (default: {FOLDER})"
    )


def kept(cache: Path, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of that key; where it is missing, `make` fills a new one first.

    A second process that asks for the same key meanwhile waits for the first.
    """
    target = cache.expanduser() / key
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():
            unfinished = target.with_name(f".{target.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(target)
    return target


def is_kept(cache: Path, key: str) -> bool:
    """Whether the folder of that key is there."""
    return (cache.expanduser() / key).is_dir()


def copied(source: Path, target: Path) -> Path:
    """Copy a folder, sharing its blocks where the file system can; returns the copy."""
    subprocess.run(["cp", "-a", "--reflink=auto", str(source), str(target)], check=True)
    return target


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
