"""One load generator, a process of its own: ``python -m benchmarks.load``.

Its first line of input says what to do (`Spec`); when it is connected and warm it says so, and its second
line of input says when to begin. Requests are made before the clock starts and answers are read after it
stopped: what is timed is sending bytes and getting bytes. Each client has a connection of its own. Times are
of the machine's monotonic clock, the same for all processes. `run_load` starts several and gathers what they
did.
"""

from __future__ import annotations

import dataclasses
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.schedule import Calls, arrivals
from engine.types import Vectors

PROBES_PER_CALL = {"unary": 1, "batch64": 64, "stream": 1}
PROCESSES_MAX = 4
START_DELAY_S = 0.2
"""From the moment at which all generators are connected and warm."""
TIMEOUT_S = 30.0
WARM_UP_CALLS = 5
READY = "ready"


@dataclass(frozen=True)
class Spec:
    """What one generator does."""

    address: str
    gallery_id: str
    mode: str
    num_clients: int
    duration_s: float
    offered_per_s: float
    """Calls a second of an open loop; 0: a closed loop."""
    seed: int
    probes: str
    """npz file: `probes` float32[m, d], `expected` str[m]: who has to come first; empty: anybody."""
    out: str


def run_load(
    address: str,
    gallery_id: str,
    probes: tuple[Vectors, Sequence[str]],
    *,
    mode: str,
    num_clients: int,
    duration_s: float,
    offered_per_s: float = 0.0,
) -> Calls:
    """Run generators in processes of their own; returns all their calls. Raises RuntimeError if one fails."""
    num = min(num_clients, PROCESSES_MAX)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "probes.npz", probes=probes[0], expected=np.array(list(probes[1])))
        running = []
        for number in range(num):
            spec = Spec(
                address,
                gallery_id,
                mode,
                num_clients // num + (number < num_clients % num),
                duration_s,
                offered_per_s / num,
                number + 1,
                str(folder / "probes.npz"),
                str(folder / f"{number}.npz"),
            )
            running.append(_Generator(spec))
        for generator in running:
            generator.wait_until_ready()
        start_at_s = time.monotonic() + START_DELAY_S
        for generator in running:
            generator.start(start_at_s)
        return Calls.merged([generator.calls() for generator in running])


class _Generator:
    """A generator's process, seen from whom it works for."""

    def __init__(self, spec: Spec):
        self._spec = spec
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent.parent,
            text=True,
        )
        self._tell(json.dumps(dataclasses.asdict(spec)))

    def wait_until_ready(self) -> None:
        """Until it is connected and warm. Raises RuntimeError where it ends instead."""
        if self._process.stdout is None or self._process.stdout.readline().strip() != READY:
            raise RuntimeError("a load generator failed; see above")

    def start(self, at_s: float) -> None:
        """Let it begin at this time."""
        self._tell(repr(at_s))

    def calls(self) -> Calls:
        """Wait for its end. Raises RuntimeError where it failed."""
        self._process.communicate()
        if self._process.returncode != 0:
            raise RuntimeError("a load generator failed; see above")
        with np.load(self._spec.out) as file:
            return Calls(file["intended_s"], file["finished_s"], file["is_error"], file["is_wrong"])

    def _tell(self, line: str) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


class _Calls:
    """What was called and answered, by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.done: list[tuple[float, float, int, bytes | None]] = []
        """Intended, finished, number of the request, the answer; None: it failed."""

    def add(self, intended_s: float, request: int, answer: bytes | None) -> None:
        finished_s = time.monotonic()
        with self._lock:
            self.done.append((intended_s, finished_s, request, answer))


def main() -> None:
    """Read the specification, get ready, work, write what happened."""
    spec = Spec(**json.loads(sys.stdin.readline()))
    # Imported here: `run_load` is used by processes that need no gRPC of their own.
    from benchmarks import rpc

    with np.load(spec.probes) as file:
        probes, expected = file["probes"], file["expected"].tolist()
    if spec.seed > 1:  # others begin elsewhere
        shift = spec.seed * 97 % len(probes)
        probes, expected = np.roll(probes, -shift, axis=0), expected[shift:] + expected[:shift]
    requests = rpc.requests(spec.mode, spec.gallery_id, probes)
    calls = _Calls()
    with rpc.connected(spec.address, spec.num_clients, spec.mode) as clients:
        for client in clients:
            for number in range(WARM_UP_CALLS):
                client.ask(requests[number % len(requests)], TIMEOUT_S)
        print(READY, flush=True)
        start_at_s = float(sys.stdin.readline())
        loop = _open_loop if spec.offered_per_s else _closed_loop
        loop(spec, clients, requests, calls, start_at_s)
    per_call = PROBES_PER_CALL[spec.mode]
    verdicts = [_verdict(rpc.firsts(spec.mode, done[3]), expected, done[2], per_call) for done in calls.done]
    np.savez(
        spec.out,
        intended_s=np.array([done[0] for done in calls.done]),
        finished_s=np.array([done[1] for done in calls.done]),
        is_error=np.array([verdict is None for verdict in verdicts], bool),
        is_wrong=np.array([verdict is False for verdict in verdicts], bool),
    )


def _verdict(firsts: list[str] | None, expected: list[str], request: int, per_call: int) -> bool | None:
    """Whether every probe of a call was answered with whom it had to be; None: the call failed."""
    if firsts is None:
        return None
    first = request * per_call
    wanted = [expected[(first + place) % len(expected)] for place in range(per_call)]
    return len(firsts) == per_call and all(w in ("", f) for w, f in zip(wanted, firsts, strict=True))


def _closed_loop(
    spec: Spec, clients: Sequence[Any], requests: Sequence[bytes], calls: _Calls, start_at_s: float
) -> None:
    """Each client sends its next call when the last was answered."""
    end_s = start_at_s + spec.duration_s

    def work(place: int) -> None:
        number = place * 13
        while (now_s := time.monotonic()) < start_at_s:
            time.sleep(max(0.0, start_at_s - now_s))
        while time.monotonic() < end_s:
            request = number % len(requests)
            sent_s = time.monotonic()
            calls.add(sent_s, request, clients[place].ask(requests[request], TIMEOUT_S))
            number += 1

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _open_loop(
    spec: Spec, clients: Sequence[Any], requests: Sequence[bytes], calls: _Calls, start_at_s: float
) -> None:
    """Calls are sent at their times, on the clients in turn, answered or not."""
    waiting: queue.SimpleQueue[None] = queue.SimpleQueue()
    times = arrivals(spec.offered_per_s, spec.duration_s, spec.seed) + start_at_s
    for number, intended_s in enumerate(times.tolist()):
        request = number % len(requests)
        if (pause_s := intended_s - time.monotonic()) > 0:
            time.sleep(pause_s)
        note = _noting(calls, waiting, intended_s, request)
        clients[number % len(clients)].send(requests[request], TIMEOUT_S, note)
    for _ in times:
        waiting.get()


def _noting(
    calls: _Calls, waiting: queue.SimpleQueue[None], intended_s: float, request: int
) -> Callable[[bytes | None], None]:
    def note(answer: bytes | None) -> None:
        calls.add(intended_s, request, answer)
        waiting.put(None)

    return note


if __name__ == "__main__":
    main()
