"""Another process on the same data folder, told what to do over pipes. Knows nothing of what is expected."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import EngineError
from engine.galleries import Galleries, GalleriesSettings
from engine.gallery import Gallery
from engine.index.search import Snapshot
from engine.index.settings import IndexSettings
from engine.live_index import report_nothing
from engine.store import folders
from engine.store.environment import StoreSettings
from engine.types import (
    AnsweredBefore,
    Consistency,
    EmbeddingContract,
    Enrollment,
    EnrollResult,
    Receipt,
    SearchOptions,
    Template,
)
from tests.contract.naive import unit_vectors

DIMENSION = 32
CONTRACT = EmbeddingContract("vectors", "", "", mirror=False, dimension=DIMENSION)
FACES = unit_vectors(np.random.default_rng(8), 4000, DIMENSION)
Answer = Any


def settings(**fields: Any) -> GalleriesSettings:
    """Housekeeping by hand unless `maintenance_s` is given; the rest are IndexSettings."""
    maintenance_s = fields.pop("maintenance_s", 0)
    return GalleriesSettings(
        store=StoreSettings(map_size_bytes_max=1 << 28),
        index=IndexSettings(**fields),
        maintenance_s=maintenance_s,
    )


def receipt(key: int) -> Receipt:
    """One that keeps what was done as text."""
    return Receipt(bytes([key]) * 32, b"b" * 32, lambda result: repr(result).encode())


def enroll(gallery: Gallery, first: int, num: int) -> int:
    """Enroll identity p<row> with the face of that row, for `num` rows; returns the sequence."""
    rows = [row % len(FACES) for row in range(first, first + num)]
    outcomes = gallery.enroll([Enrollment(f"p{row}", (Template(FACES[row]),)) for row in rows])
    assert all(isinstance(outcome, EnrollResult) for outcome in outcomes), outcomes
    return gallery.info().sequence


def top(gallery: Gallery, row: int, consistency: Consistency = Consistency.STRONG) -> tuple[str, int]:
    """The best candidate for a face, and the sequence that was searched."""
    options = SearchOptions(consistency=consistency)
    (answer,) = gallery.identify(FACES[row][None], 1, options=options)
    return answer.candidates[0].identity_id if answer.candidates else "", answer.searched_sequence


class Deeds:
    """What a peer can be told; each takes and gives JSON."""

    def __init__(self, galleries: Galleries):
        self.galleries = galleries
        self._held = ExitStack()
        self._kept: list[Snapshot] = []

    def create(self, name: str) -> None:
        self.galleries.create(name, CONTRACT)

    def delete(self, name: str) -> None:
        self.galleries.delete(name)

    def alias(self, alias: str, name: str) -> None:
        self.galleries.set_alias(alias, name)

    def enroll(self, name: str, first: int, num: int) -> int:
        return enroll(self.galleries.get(name), first, num)

    def enroll_once(self, name: str, row: int, key: int) -> str:
        """With a receipt; says how it was answered."""
        try:
            self.galleries.get(name).enroll(
                [Enrollment(f"p{row}", (Template(FACES[row]),))], receipt=receipt(key)
            )
        except AnsweredBefore as before:
            return before.answer.decode()
        return "done"

    def top(self, name: str, row: int) -> tuple[str, int]:
        return top(self.galleries.get(name), row)

    def erase(self, name: str, row: int) -> bool:
        result, _ = self.galleries.get(name).remove_identities([f"p{row}"], erase=True)
        return result.is_erased

    def build(self, name: str) -> tuple[int, int]:
        return self.galleries.get(name).build(report_nothing)

    def refresh(self) -> None:
        self.galleries.refresh()

    def maintain(self) -> None:
        self.galleries.maintain()

    def generation(self, name: str) -> int:
        return self.galleries.get(name).generation()

    def begin_read(self, name: str) -> None:
        """Be in the middle of a read until `end_read`."""
        self._held.enter_context(self.galleries.get(name)._store.read())

    def end_read(self) -> None:
        self._held.close()

    def begin_search(self, name: str) -> None:
        """Be in the middle of a search in the present generation until `end_search`."""
        self._kept.append(self.galleries.get(name)._index._snapshot)

    def end_search(self) -> None:
        self._kept.clear()

    def num_open(self) -> int:
        return sum(slot.gallery is not None for slot in self.galleries._all_slots())


def serve(data: str, lock: str, fields: str) -> None:
    """Open the folder together with others, and do what stdin says until it ends."""
    galleries = Galleries.open(Path(data), settings(**json.loads(fields)), lock_fd=int(lock))
    deeds = Deeds(galleries)
    _say({})
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        try:
            answer = {"answer": getattr(deeds, name)(*arguments)}
        except EngineError as error:
            answer = {"error": type(error).__name__, "message": error.message}
        _say(answer)
    galleries.close()


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


class PeerError(Exception):
    """A peer was answered with an error of that name."""


class Peer:
    """The other end: tells a peer what to do."""

    def __init__(self, data: Path, lock_fd: int, **fields: Any):
        program = "import sys; from tests.contract.peer import serve; serve(*sys.argv[1:])"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, str(data), str(lock_fd), json.dumps(fields)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=(lock_fd,),
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self.answer()

    def begin(self, deed: str, *arguments: Any) -> None:
        """Tell it, and do not wait."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps([deed, *arguments]) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Answer:
        """Wait for the answer to what it was told."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the peer ended"
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"], answer["message"])
        return answer.get("answer")

    def tell(self, deed: str, *arguments: Any) -> Answer:
        """Tell it, and wait for its answer."""
        self.begin(deed, *arguments)
        return self.answer()

    def close(self) -> None:
        """Let it end, or kill it."""
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()


def wait_until(condition: Callable[[], object]) -> None:
    """Look again and again, for a minute at most."""
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up, "it did not come true"
        threading.Event().wait(0.005)


def files_with(data: Path, row: int) -> list[str]:
    """Files that hold a face."""
    vector = FACES[row].tobytes()
    # Not LMDB's lock files: to close one drops this process's locks on it.
    files = [path for path in data.rglob("*") if path.is_file() and path.name != "lock.mdb"]
    return [str(path.relative_to(data)) for path in files if vector in path.read_bytes()]


def opened_by(pid: int) -> list[str]:
    """Files and folders that a process has open or mapped."""
    names = Path(f"/proc/{pid}/maps").read_text().split()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            names.append(str(link.readlink()))
    return names


def children_of(pid: int) -> list[int]:
    """Living builders that a process started; other tests leave processes of Python's own."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return [child for child in found if is_alive(child) and _is_builder(child)]


def _is_builder(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return b"engine.builder" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that ended and was not yet waited for does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@contextmanager
def together(data: Path, num_peers: int = 1, **fields: Any) -> Iterator[tuple[Galleries, list[Peer]]]:
    """This process and peers on one data folder."""
    with ExitStack() as stack:
        lock_fd = folders.lock_folder(data)
        stack.callback(os.close, lock_fd)
        galleries = Galleries.open(data, settings(**fields), lock_fd=lock_fd)
        stack.callback(galleries.close)
        peers = [Peer(data, lock_fd, **fields) for _ in range(num_peers)]
        for peer in peers:
            stack.callback(peer.close)
        yield galleries, peers
