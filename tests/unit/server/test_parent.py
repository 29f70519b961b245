"""What the parent of workers is made of: its port, its processes' messages, its sums, its pauses."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from engine import config
from engine.errors import DataFolderError, OperatorError, SettingsError
from engine.server import children
from engine.server.control import Alive, Beat, Failed, Family, Line, Orders, Ready, Sample, ToChild, ToParent
from engine.server.gathered import Totals
from engine.server.port import check_free, held
from engine.server.settings import CONNECTION_AGE_S, ServeSettings, read_galleries

HOST = "127.0.0.1"


def listener(port: int, *, is_shared: bool) -> socket.socket:
    """A socket as gRPC listens with."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(is_shared))
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening


def test_a_held_port_is_free_for_workers_and_for_nobody_else() -> None:
    with held(HOST, 0) as port:
        with pytest.raises(SettingsError, match="in use"), held(HOST, port):
            pass
        with pytest.raises(OSError, match="in use"):
            listener(port, is_shared=False)
        with listener(port, is_shared=True), listener(port, is_shared=True):
            with pytest.raises(SettingsError, match="in use"), held(HOST, port):
                pass
            with pytest.raises(SettingsError, match="in use"):
                check_free(HOST, port)
    check_free(HOST, port)


def test_the_holder_of_a_port_is_given_no_connection() -> None:
    with held(HOST, 0) as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, port), timeout=5)
        with listener(port, is_shared=True) as worker:
            for _ in range(50):
                with socket.create_connection((HOST, port), timeout=5):
                    worker.accept()[0].close()


def test_a_port_that_somebody_shares_is_not_free() -> None:
    with (
        listener(0, is_shared=True) as other,
        pytest.raises(SettingsError, match="in use"),
        held(HOST, other.getsockname()[1]),
    ):
        pass


def test_messages_arrive_whole_and_in_order_however_they_are_cut() -> None:
    mine, its = socket.socketpair()
    parent: Line[ToParent] = Line(mine, ToParent)
    child: Line[ToChild] = Line(its, ToChild)
    settings = config.build(ServeSettings, {"data": "faces", "workers": 3, "galleries": {"store": {}}})
    orders = Orders(name="1", settings=settings, port=7, lock_descriptor=5, sockets=["a", "b"])
    parent.send(orders)
    assert child.receive() == [orders]
    large = Family(
        "f", "of many samples", "counter", [Sample("f_total", {"n": str(n)}, n) for n in range(500)]
    )
    sent: list[ToParent] = [Ready(), Alive(1, [large]), Alive(2)]
    data = b"".join(msgspec.json.encode(message) + b"\n" for message in sent)
    received: list[ToParent] = []
    for start in range(0, len(data), 1000):
        its.sendall(data[start : start + 1000])
        received += parent.receive() or []
    assert received == sent
    child.close()
    assert parent.receive() is None
    parent.send(Beat(1))
    parent.close()


def test_an_error_comes_out_as_it_went_in() -> None:
    error = Failed.of(DataFolderError("in use", hint="Wait.")).error()
    assert type(error) is DataFolderError
    assert (error.message, error.hint) == ("in use", "Wait.")
    assert type(Failed("A_NEW_REASON", "what", "do").error()) is OperatorError


def counter(value: float, created: float = 1.0, rpc: str = "A") -> Family:
    labels = {"rpc": rpc}
    samples = [Sample("calls_total", labels, value), Sample("calls_created", labels, created)]
    return Family("calls", "Calls.", "counter", samples)


def gauge(value: float) -> Family:
    return Family("in_flight", "Now.", "gauge", [Sample("in_flight", {}, value)])


def values(totals: Totals) -> dict[tuple[str, str], float]:
    """Name of each sample and its only label."""
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in totals.families()
        for sample in family.samples
    }


def test_counts_are_summed_and_outlive_their_process() -> None:
    totals = Totals()
    totals.note("0", [counter(3, 10.0), gauge(1)])
    totals.note("1", [counter(4, 5.0), counter(1, rpc="B"), gauge(2)])
    assert values(totals)["calls_total", "A"] == 7
    assert values(totals)["calls_created", "A"] == 5.0
    assert values(totals)["in_flight", "1"] == 2
    totals.retire("1")
    totals.retire("1")
    assert values(totals)["calls_total", "A"] == 7
    assert ("in_flight", "1") not in values(totals)
    totals.note("1", [counter(2, 20.0)])
    totals.note("0", [counter(5, 10.0)])
    assert values(totals) == {
        ("calls_total", "A"): 11,
        ("calls_created", "A"): 5.0,
        ("calls_total", "B"): 1,
        ("calls_created", "B"): 1.0,
    }


def test_what_is_said_of_all_is_said_once() -> None:
    totals = Totals()
    device = Family("device", "Where.", "info", [Sample("device_info", {"device": "cpu"}, 1.0)])
    sizes = Family("templates", "Enrolled.", "gauge", [Sample("templates", {"gallery": "g"}, 9.0)])
    for name in ("0", "1"):
        totals.note(name, [device])
        totals.note_galleries([sizes])
    assert [family.name for family in totals.families()] == ["device", "templates"]
    assert values(totals) == {("device_info", "cpu"): 1.0, ("templates", "g"): 9.0}


def test_who_keeps_dying_is_started_after_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(children, "_MAIN", "import sys; sys.exit(3)")
    settings = config.build(ServeSettings, {"data": "faces"})
    place = children.Place("0", lambda: Orders(name="0", settings=settings, sockets=[]))
    pauses = []
    for _ in range(10):
        place.start()
        assert place.vacate() == "exit code 3"
        pauses.append(place.due_in_s())
    assert pauses == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    place.start().is_ready = True
    now += children.HEALTHY_S
    place.vacate()
    assert place.due_in_s() == 0.0
    assert place.num_restarts == 11


def test_workers_ask_clients_to_move_and_a_single_process_does_not() -> None:
    def age_s(**values: object) -> float:
        return config.build(ServeSettings, {"data": "faces", **values}).connection_age_s()

    assert age_s() == 0.0
    assert age_s(workers=2) == CONNECTION_AGE_S
    assert age_s(workers=2, max_connection_age_s=0) == 0.0
    assert age_s(max_connection_age_s=7) == 7.0


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": 65}, {"embed_workers": 2}, {"workers": "two"}])
def test_impossible_numbers_of_workers_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="workers"):
        config.build(ServeSettings, {"data": "faces", **wrong})


def test_keys_of_galleries_are_refused_by_their_full_name() -> None:
    settings = config.build(ServeSettings, {"data": "faces", "galleries": {"index": {"delta_rows": 1}}})
    with pytest.raises(SettingsError, match=r"galleries\.index.*delta_rows_max"):
        read_galleries(settings)
    assert read_galleries(config.build(ServeSettings, {"data": "faces"})).open_galleries_max > 0


def test_the_parent_loads_no_heavy_library() -> None:
    heavy = ["torch", "faiss", "lmdb", "grpc", "numpy", "google.protobuf", "prometheus_client"]
    script = (
        "import sys, engine.cli.verbs as verbs; verbs.build_parser(is_for_serve=True)\n"
        "import engine.server.parent, engine.server.launch\n"
        "print(*(m for m in sys.argv[1:] if m in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", script, *heavy], capture_output=True, text=True, check=True)
    assert out.stdout.split() == []


def test_a_worker_started_by_hand_ends_when_nobody_orders_it(tmp_path: Path) -> None:
    mine, its = socket.socketpair()
    with mine, its:
        script = "import sys; from engine.server.launch import main; sys.exit(main())"
        # Not the parent that it is told to have.
        command = [sys.executable, "-c", script, str(its.fileno()), "1"]
        ended = subprocess.run(command, pass_fds=[its.fileno()], cwd=tmp_path, timeout=60, check=False)
    assert ended.returncode == 1
