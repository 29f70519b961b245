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
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
import torch

from engine.errors import PreconditionError, SettingsError
from engine.outputs import make_folder, whole_file
from engine.trainer.settings import TrainSettings

PACKAGES = ("identiface", "torch", "numpy", "facenet-pytorch", "pytorch-metric-learning", "timm")
FORMAT = 1
LOCK = ".lock"
"""In a run's folder; held while a process trains there."""


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

    def open(self, settings: TrainSettings, data: Mapping[str, Any]) -> None:
        """Begin a run here, or go on with the one that is.

        `data` describes what is trained on, digests included. Raises PreconditionError naming what differs
        where the folder holds another run, StorageFullError, InvalidInputError where nothing can be written.
        """
        make_folder(self.path)
        asked = {"format": FORMAT, "settings": msgspec.to_builtins(settings), "data": dict(data)}
        file = self.path / "settings.json"
        if not file.exists():
            # What a run killed at its very beginning leaves is no other thing.
            if any(not _is_of_beginning(place.name) for place in self.path.iterdir()):
                raise PreconditionError(
                    f"{self.path} is not empty and holds no run", hint="Name a new folder for the run."
                )
            self._take()
            write_json(self.path / "environment.json", environment())
            write_json(file, asked)
            return
        self._take()
        there = _read_json(file)
        different = [
            f"{key} was {there_value!r}, now {asked_value!r}"
            for key, there_value, asked_value in _differences(there, json.loads(json.dumps(asked)))
        ]
        if different:
            self.close()
            raise PreconditionError(
                f"{self.path} holds another run: {'; '.join(different)}",
                hint="Name a new folder, or give the settings and data of the run that is there.",
            )

    def _take(self) -> None:
        """Hold the folder until `close` or the process's end: two would spoil each other's files."""
        if self._lock is None:
            self._lock = (self.path / LOCK).open("w")
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
        """Add figures of a step to metrics.jsonl and TensorBoard."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **figures}) + "\n")
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
        there = _read_json(file)
        return msgspec.convert(there["settings"], TrainSettings), there["data"]

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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{path} cannot be read: {error}", hint="Name a new folder for the run."
        ) from error
    return values


def _is_of_beginning(name: str) -> bool:
    return name in {"environment.json", LOCK} or (name.startswith(".") and name.endswith(".part"))


def _differences(
    there: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key in sorted({*there, *asked}):
        a, b = there.get(key), asked.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found


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
