"""What a parent of workers does about processes that hang, that never begin, or that cannot be started."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.registry import Collector

from engine import config
from engine.errors import OperatorError, SettingsError
from engine.server import children, parent
from engine.server.control import Alive, Beat, Line, Orders, ToChild, ToParent
from engine.server.port import taken_error
from engine.server.settings import ServeSettings
from engine.server.signals import STOP_SIGNALS, StopSignals, WorkerSignals
from engine.server.sockets import PREFIX, socket_paths
from engine.server.worker import Worker

ANSWER_S = 60.0
SETTINGS = config.build(
    ServeSettings,
    {"data": "faces", "workers": 2, "worker_silence_s": 1.0, "embedding": {"model": "none"}},
)
HANGS = "import time; time.sleep(600)"
SAYS_READY = (
    "import socket, sys, time; line = socket.socket(fileno=int(sys.argv[1])); line.recv(1 << 20);"
    """ line.sendall(b'{"type":"Ready"}\\n'); """
)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """A process that was asked to stop ignores further signals until it ends; this one goes on."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def parent_of(
    monkeypatch: pytest.MonkeyPatch, script: str, settings: ServeSettings = SETTINGS
) -> Iterator[tuple[parent.Parent, StopSignals]]:
    """A parent of processes that run a script instead of a worker."""
    monkeypatch.setattr(children, "_MAIN", script)
    monkeypatch.setattr(parent, "BEAT_S", 0.05)
    with StopSignals() as signals, contextlib.ExitStack() as parts:
        made = parent.Parent(settings, 0, -1, parts)
        parts.callback(made.kill)
        yield made, signals


def test_a_process_that_hangs_before_it_is_ready_is_killed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parent, "START_SILENCE_S", 1.0)
    with parent_of(monkeypatch, HANGS) as (made, signals):
        made.start()
        with pytest.raises(OperatorError, match="SIGKILL"):
            made.watch(signals, until=made.is_ready)


def test_a_second_signal_cuts_the_grace_period_of_a_process_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parent, "STOP_MARGIN_S", 0.1)
    settings = config.build(
        ServeSettings, {"data": "faces", "grace_s": 600.0, "embedding": {"model": "none"}}
    )
    with parent_of(monkeypatch, SAYS_READY + HANGS, settings) as (made, signals):
        made.start()
        assert made.watch(signals, until=made.is_ready)
        os.kill(os.getpid(), signal.SIGTERM)
        # Within seconds, or the test runs into its time limit.
        made.stop(signals)
        assert not made.is_ready()


def test_a_process_that_cannot_be_started_is_no_reason_to_stop_serving(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(children, "PAUSE_S_MIN", 0.01)
    with parent_of(monkeypatch, SAYS_READY + "time.sleep(0.1)") as (made, signals):
        made.start()
        assert made.watch(signals, until=made.is_ready)
        made.note_serving("here")
        missing = str(Path(sys.executable).parent / "no-such-python")
        with monkeypatch.context() as changed, caplog.at_level(logging.ERROR, "identiface"):
            changed.setattr(sys, "executable", missing)
            assert made.watch(signals, until=lambda: caplog.text.count("cannot be started") > 2)
        assert made.watch(signals, until=made.is_ready)


def test_a_process_that_cannot_be_started_is_a_reason_not_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    num_open = len(list(Path("/dev/fd").iterdir()))
    with parent_of(monkeypatch, HANGS) as (made, _):
        monkeypatch.setattr(sys, "executable", "/no/such/python")
        with pytest.raises(OperatorError, match="worker 0 cannot be started: No such file"):
            made.start()
    assert len(list(Path("/dev/fd").iterdir())) <= num_open


def test_a_process_that_reads_nothing_holds_nobody_up() -> None:
    mine, its = socket.socketpair()
    with its:
        line: Line[ToParent] = Line(mine, ToParent, is_patient=False)
        for number in range(20_000):
            line.send(Beat(number))
        received: list[ToChild] = []
        child: Line[ToChild] = Line(its, Beat | Orders)
        line.close()
        while (messages := child.receive()) is not None:
            received += messages
    # Those that found room, whole and in order.
    assert 0 < len(received) < 20_000
    assert received == [Beat(number) for number in range(len(received))]


class Waiting(Collector):
    """Counts that take as long as a gallery takes to be opened."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.is_opened = threading.Event()

    def collect(self) -> Iterator[Metric]:
        self.asked.set()
        self.is_opened.wait(ANSWER_S)
        yield Metric("galleries", "Counted.", "gauge")

    def describe(self) -> Iterator[Metric]:
        return iter(())


def test_a_worker_that_counts_galleries_for_long_says_meanwhile_that_it_lives() -> None:
    mine, its = socket.socketpair()
    line: Line[ToParent] = Line(mine, ToParent)
    child: Line[ToChild] = Line(its, Beat | Orders)
    with WorkerSignals() as signals, contextlib.closing(line), contextlib.closing(child):
        worker = Worker(Orders(name="0", settings=SETTINGS, sockets=[]), child, signals)
        counted = Waiting()
        worker._sizes.register(counted)

        def messages() -> Iterator[ToChild]:
            yield Beat(1, has_galleries=True)
            assert counted.asked.wait(ANSWER_S)
            yield Beat(2)
            # Their end would be the end of this process.
            threading.Event().wait()

        threading.Thread(target=worker.listen, args=(messages(),), daemon=True).start()
        mine.settimeout(ANSWER_S)
        assert line.receive() == [Alive(2)]
        counted.is_opened.set()
        (told,) = line.receive() or []
        assert isinstance(told, Alive)
        assert told.number == 1
        assert told.galleries is not None


def test_stop_signals_wait_for_a_worker_that_is_still_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    loading = (
        "import sys; sys.stderr.close(); "
        "import os, signal; os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM); "
        "from engine.server.signals import WorkerSignals\n"
        "with WorkerSignals() as signals: sys.exit(7 if signals.wait(60) else 8)"
    )
    path = f"import sys; sys.path.append({str(Path(parent.__file__).parents[2])!r}); "
    monkeypatch.setattr(children, "_MAIN", path + loading)
    place = children.Place("0", lambda: Orders(name="0", settings=SETTINGS, sockets=[]))
    child = place.start()
    assert child.process.wait(ANSWER_S) == 7
    assert place.vacate() == "exit code 7"
    assert not {signal.SIGINT, signal.SIGTERM} & signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.fixture
def short_tmp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary folder with a path short enough for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_sockets_are_their_owners_alone_and_leave_nothing(short_tmp: Path) -> None:
    with socket_paths(2) as paths, socket.socket(socket.AF_UNIX) as listening:
        assert len(set(paths)) == 2
        assert Path(paths[0]).parent.stat().st_mode & 0o777 == 0o700
        listening.bind(paths[0])
    assert list(short_tmp.iterdir()) == []


def test_sockets_of_a_killed_server_are_removed_and_nobody_elses(short_tmp: Path) -> None:
    abandoned = short_tmp / f"{PREFIX}abandoned"
    abandoned.mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(abandoned / "0"))
    kept = short_tmp / f"{PREFIX}of-somebody"
    kept.mkdir()
    (kept / "letter.txt").write_text("kept")
    with socket_paths(1) as of_another, socket_paths(1) as paths:
        assert Path(of_another[0]).parent.is_dir()
        assert Path(of_another[0]).parent != Path(paths[0]).parent
        assert not abandoned.exists()
        assert (kept / "letter.txt").read_text() == "kept"


def test_no_place_for_sockets_is_said_before_anything_is_started(
    short_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = short_tmp / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(SettingsError, match="longer than 107 bytes"), socket_paths(1):
        pass
    assert list(long.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(short_tmp / "nowhere"))
    with pytest.raises(SettingsError, match="no folder can be made"), socket_paths(1):
        pass


def test_an_address_of_ipv6_is_said_with_its_brackets() -> None:
    assert "[::1]:7300" in taken_error("::1", 7300).message
