"""The folder of a run: what it was asked for, on which machine, what came of it. Knows nothing of training.

::

    RUN/settings.json       all that decides the weights, with the digest of the data
    RUN/environment.json    machine, versions, threads
    RUN/metrics.jsonl       a line for every few steps and for every validation
    RUN/tensorboard/        the same, for TensorBoard
    RUN/checkpoints/        where it goes on
    RUN/network.safetensors, model-card.md    what it came to, written at the end
"""

from __future__ import annotations

import fcntl
import importlib.metadata
import json
import os
import platform
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
import torch

from engine.errors import PreconditionError, SettingsError
from engine.outputs import cannot_write, make_folder, whole_file
from engine.trainer.settings import TrainSettings

PACKAGES = ("identiface", "torch", "numpy", "facenet-pytorch", "pytorch-metric-learning", "timm")
FORMAT = 1
LOCK = ".lock"
"""In a run's folder; held while a process trains there."""
DIFFERENCES_MAX = 5
"""Of two runs, told one by one; of more, their number."""
_DATA = (
    ("the people to learn from differ", {"training", "num_pictures", "num_identities"}),
    (
        "the people to judge by differ",
        {"validation", "num_validation_pictures", "num_validation_identities"},
    ),
    ("the weights to start from differ", {"start"}),
)
"""Digests and numbers of a run's data, in words."""


class RunFolder:
    """Files of one run; one process writes them."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.trunk = path / "trunk"
        self.network = path / "network.safetensors"
        self.card = path / "model-card.md"
        self._metrics = path / "metrics.jsonl"
        self._board: Any = None
        self._lock: IO[str] | None = None

    @property
    def is_finished(self) -> bool:
        """Whether all that a run comes to is written: the card, and after it the network."""
        return self.network.exists() and self.card.exists()

    def check(self) -> None:
        """Refuse, before the work, a place that can hold no run; makes and leaves nothing.

        Raises PreconditionError for a folder of other things, StorageFullError, InvalidInputError where
        nothing can be written.
        """
        path = self.path.absolute()
        try:
            place = next(place for place in (path, *path.parents) if place.exists())
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise cannot_write(self.path, error) from error
        if place == path:
            self._refuse_other_things()

    def open(self, settings: TrainSettings, data: Mapping[str, Any]) -> None:
        """Begin a run here, or go on with the one that is.

        `data` describes what is trained on, digests included. Raises PreconditionError naming what differs
        where the folder holds another run, StorageFullError, InvalidInputError where nothing can be written.
        """
        make_folder(self.path)
        asked = {"format": FORMAT, "settings": msgspec.to_builtins(settings), "data": dict(data)}
        file = self.path / "settings.json"
        self._refuse_other_things()
        if not file.exists():
            self._take()
            write_json(self.path / "environment.json", environment())
            write_json(file, asked)
            return
        self._take()
        different = _told(_differences(_read_settings(file), json.loads(json.dumps(asked))))
        if different:
            self.close()
            num_more = len(different) - DIFFERENCES_MAX
            more = f"; and {num_more} more" if num_more > 0 else ""
            raise PreconditionError(
                f"{self.path} holds another run: {'; '.join(different[:DIFFERENCES_MAX])}{more}",
                hint="Name a new folder, or give the settings and data of the run that is there.",
            )

    def _refuse_other_things(self) -> None:
        if (self.path / "settings.json").exists():
            return
        # What a run killed at its very beginning leaves is no other thing.
        if any(not _is_of_beginning(place.name) for place in self.path.iterdir()):
            raise PreconditionError(
                f"{self.path} is not empty and holds no run", hint="Name a new folder for the run."
            )

    def _take(self) -> None:
        """Hold the folder until `close` or the process's end: two would spoil each other's files."""
        if self._lock is None:
            # Not "w", which makes the file a new one: a run that is done is left as it is.
            self._lock = (self.path / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.close()
            raise PreconditionError(
                f"another process trains in {self.path}", hint="Wait for it, or name another folder."
            ) from error

    def rewind(self, step: int) -> None:
        """Drop what was noted after `step`: the run goes on from there."""
        if self._metrics.exists():
            kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
            with whole_file(self._metrics) as file:
                file.write("".join(f"{line}\n" for line in kept).encode())
        self._board = _board(self.path / "tensorboard", step)

    def note(self, step: int, figures: Mapping[str, float], kind: str = "train") -> None:
        """Add figures of a step to metrics.jsonl and TensorBoard.

        Raises StorageFullError, InvalidInputError where nothing can be written.
        """
        try:
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "kind": kind, **figures}) + "\n")
        except OSError as error:
            raise cannot_write(self._metrics, error) from error
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def notes(self, kind: str) -> list[dict[str, Any]]:
        """All that was noted of a kind, in order."""
        if not self._metrics.exists():
            return []
        return [line for line in map(json.loads, self._lines()) if line["kind"] == kind]

    def is_noted(self, step: int, kind: str) -> bool:
        """Whether a note of that kind is there of a step."""
        return any(note["step"] == step for note in self.notes(kind))

    def close(self) -> None:
        """Write out what TensorBoard still holds, and let the folder go."""
        if self._board is not None:
            self._board.close()
            self._board = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def settings(self) -> tuple[TrainSettings, dict[str, Any]]:
        """Settings of the run that is here, and its data described. Raises SettingsError where none is."""
        file = self.path / "settings.json"
        if not file.exists():
            raise SettingsError(f"{self.path} holds no run: it has no settings.json")
        there = _read_settings(file)
        try:
            return msgspec.convert(there["settings"], TrainSettings), there["data"]
        except msgspec.ValidationError as error:
            raise _unreadable(file, error) from error

    def _lines(self) -> list[str]:
        """Whole lines: a process killed while it wrote leaves half of one."""
        return [line for line in self._metrics.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def environment() -> dict[str, Any]:
    """What else the figures of a run depend on: machine, threads, versions."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write values for people and programs."""
    with whole_file(path) as file:
        file.write((json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(values[key], dict) for key in ("settings", "data")):
            raise ValueError("settings and data are no objects")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from error
    return values


def _unreadable(path: Path, error: Exception) -> SettingsError:
    return SettingsError(
        f"{path} is not what a run writes: {error}",
        hint="Name a new folder for the run, or put the file back.",
    )


def _is_of_beginning(name: str) -> bool:
    return name in {"environment.json", LOCK} or (name.startswith(".") and name.endswith(".part"))


def _differences(
    there: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Keys with both values, in the order of what is asked: settings come before data."""
    found: list[tuple[str, Any, Any]] = []
    for key in {**asked, **there}:
        a, b = there.get(key), asked.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found


def _told(differences: Iterable[tuple[str, Any, Any]]) -> list[str]:
    """Settings with both values; data in words, since a digest tells a person nothing."""
    words = {f"data.{key}": words for words, keys in _DATA for key in keys}
    told = [words.get(key, f"{key} was {there!r}, now {asked!r}") for key, there, asked in differences]
    return list(dict.fromkeys(told))


def _board(folder: Path, step: int) -> Any:
    """A TensorBoard writer, None where the extra is not installed."""
    try:
        with warnings.catch_warnings():
            # tensorboard brings protocol code that warns of its own age.
            warnings.simplefilter("ignore")
            from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
