"""Builds a generation from a store: in this process, or in one of its own that gives way to all others.

::

    python -m engine.builder FOLDER ARGUMENTS      FOLDER of the gallery, ARGUMENTS as JSON, see `Arguments`
      stdin   nothing is read from it; when it ends, the parent is gone, and so is the builder
      stdout  one JSON object a line, see `Line`: progress, and at last what was built or why not

The templates are read in one short transaction that is over before anything is written: it holds back the
reuse of the store's pages. A build takes 4 x d + 16 bytes of memory a template for them, and what the index's
codes and their training need besides (see engine.index.build). Knows nothing of snapshots.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

import engine
from engine.errors import EngineError, UnavailableError, class_of_reason
from engine.index.build import build
from engine.index.neighbours import correction_of, store_neighbours
from engine.index.parameters import CROWDING_TEMPLATES_MAX
from engine.processes import die_with_parent
from engine.store import changes
from engine.store.columns import collect
from engine.store.environment import StoreSettings
from engine.store.gallery_store import GalleryStore

NICENESS = 10
SILENCE_S = 0.1
"""Longest pause between two calls of the progress function while a builder says nothing."""
SILENT_S_MAX = 900.0
"""A builder that says nothing for so long is taken for hung, and killed: it holds back other builds and
erasures. Of a million templates no step takes more than a few seconds."""
RETRY_AFTER_S = 1.0
CORES_FOR_TWO = 4
"""With fewer a second thread would leave searches no core of their own."""
Progress = Callable[[int, int], None]


class Arguments(msgspec.Struct, frozen=True):
    """What a builder is told."""

    number: int
    """Of the generation."""
    flat_rows_max: int
    """Templates up to which it is searched by an exact scan."""
    threads: int
    """That encode, 1 or 2; 0: two where there are `CORES_FOR_TWO`."""
    store: StoreSettings
    crowding_templates_max: int = CROWDING_TEMPLATES_MAX
    """Templates up to which their crowding is computed, where the gallery says no more of it than AUTO."""
    is_auto_off: bool = False
    """Whether none is computed then: the gallery's calibration says that it does not help."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a builder says: progress, or its end by a sequence or a reason."""

    done: int = 0
    total: int = 0
    sequence: int | None = None
    """Of the generation that was made current."""
    reason: str = ""
    """Of the EngineError that ended the build."""
    message: str = ""
    hint: str | None = None


def build_here(store: GalleryStore, told: Arguments, progress: Progress) -> int:
    """Build a generation and make it current in one transaction; returns the sequence it covers.

    `progress(done, total)` counts templates: a third of them when all are read, two when they are encoded,
    all when their neighbours are found, as far as that is due. Raises StorageFullError, DataFolderError,
    CorruptDataError, and what `progress` raises.
    """
    with store.read() as reader:
        sequence, contract = reader.state().sequence, reader.contract()
        settings = reader.settings()
        columns = collect(reader, lambda done, total: progress(done // 3, total))
    num_rows = len(columns.template_ids)
    generation = build(
        store.index_folder,
        columns,
        number=told.number,
        sequence=sequence,
        contract_digest=contract.digest,
        flat_rows_max=told.flat_rows_max,
        threads=told.threads or (2 if len(os.sched_getaffinity(0)) >= CORES_FOR_TWO else 1),
        progress=lambda done, total: progress((total + done) // 3, total),
    )
    del columns
    # Not yet current: what ends the work here leaves a folder that nobody opens, and who builds removes it.
    if settings.target_fpir is not None:  # else nobody would look at it
        store_neighbours(
            generation,
            correction_of(settings, is_auto_off=told.is_auto_off),
            told.crowding_templates_max,
            lambda done, total: progress(num_rows * (2 * total + done) // (3 * total), num_rows),
        )
    store.write(lambda writer: changes.make_current(writer, told.number, sequence))
    return sequence


def build_apart(folder: Path, told: Arguments, progress: Progress, kept_open: int) -> int:
    """As `build_here`, in a process of its own that ends with this one; `progress` may raise to end it.

    `kept_open` is a descriptor that the builder shares, for the lock on it to last as long as the builder.
    Raises UnavailableError where the builder was killed, or hangs, besides.
    """
    arguments = msgspec.json.encode(told).decode()
    # Where this code is, whatever the current folder is and however it is installed.
    paths = [str(Path(engine.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        # Two threads make the training of codes many times slower.
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "engine.builder", str(folder), arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(kept_open,),
        env=environment,
    ) as child:
        try:
            assert child.stdout is not None
            for line in _lines(child.stdout, progress):
                if line.sequence is not None:
                    return line.sequence
                if line.reason:
                    kind = class_of_reason(line.reason) or EngineError
                    raise kind(line.message, hint=line.hint)
        finally:
            # Whatever it may still do, nobody waits for it.
            child.kill()
        raise UnavailableError(
            f"the process that built generation {told.number} ended before it was done (exit {child.wait()})",
            hint="Ask again. Where it happens again, look for a lack of memory in the system's log.",
            retry_after_s=RETRY_AFTER_S,
        )


def _lines(output: IO[bytes], progress: Progress) -> Iterator[Line]:
    """What a builder says up to its end; progress is reported, again and again while it is silent."""
    decoder, rest, last = msgspec.json.Decoder(Line), b"", Line()
    heard = time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if selector.select(SILENCE_S):
                if not (data := os.read(output.fileno(), 1 << 16)):
                    return
                heard = time.monotonic()
                *lines, rest = (rest + data).split(b"\n")
                for line in map(decoder.decode, lines):
                    if line.sequence is not None or line.reason:
                        yield line
                    else:
                        last = line
            elif time.monotonic() - heard > SILENT_S_MAX:
                raise UnavailableError(
                    f"the process that builds said nothing for {SILENT_S_MAX:g} s and was killed",
                    hint="Look whether the disk hangs, or the machine has no core to spare for it.",
                    retry_after_s=RETRY_AFTER_S,
                )
            progress(last.done, last.total)


def main() -> None:
    """Run a builder."""
    die_with_parent()
    _end_with_stdin()
    # Whoever interrupts the parent from a terminal: it decides when its builder ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(NICENESS)
    with contextlib.suppress(OSError, AttributeError):
        # Linux only: whoever searches does not wait until this process has used up its turn.
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    channel = os.dup(sys.stdout.fileno())
    # A library that prints must not print between the lines.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    folder, arguments = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Arguments)

    def say(line: Line) -> None:
        os.write(channel, msgspec.json.encode(line) + b"\n")

    try:
        with contextlib.closing(GalleryStore(folder, arguments.store, is_shared=True)) as store:
            sequence = build_here(store, arguments, lambda done, total: say(Line(done, total)))
    except EngineError as error:
        say(Line(reason=error.reason, message=error.message, hint=error.hint))
        sys.exit(1)
    say(Line(sequence=sequence))


def _end_with_stdin() -> None:
    """End this process when its parent has, also where that was before the system was told."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()


if __name__ == "__main__":
    main()
