"""kill -9 and kill -STOP of workers, of embed workers and of their parent."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from engine.client import Client
from engine.pb.identiface.v1 import admin_pb2
from tests.e2e.conftest import Launch, ServerProcess, make_gallery, unit
from tests.e2e.test_workers import metrics_of, read
from tests.e2e.workers import ANSWER_S, asked, best_of, each_worker, enrollment, question

pytestmark = [pytest.mark.fault, pytest.mark.e2e]
DIMENSION = 16
NUM_CLIENTS = 6
NUM_KILLS = 3


@contextlib.contextmanager
def clients(address: str, gallery_id: str) -> Iterator[list[int]]:
    """Clients of the package that enroll and search without end, retries and all; nothing of it may fail."""
    ended = threading.Event()
    failures: list[BaseException] = []
    done = [0] * NUM_CLIENTS

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        with Client(address, num_channels=2) as client:
            try:
                while not ended.is_set():
                    vector, identity_id = unit(rng, DIMENSION), f"{number}-{done[number]}"
                    client.enroll(gallery_id, identity_id, [vector])
                    (face,) = client.identify(gallery_id, vector, 1)
                    assert face.candidates[0].identity_id == identity_id
                    done[number] += 1
            except BaseException as error:  # noqa: BLE001 - shown by the test
                failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(NUM_CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield done
    finally:
        ended.set()
        for thread in threads:
            thread.join(ANSWER_S)
    assert failures == []


def pid_of(server: ServerProcess, worker: str) -> int:
    """Process id of the worker of that name that was ready last."""
    line = [line for line in server.lines if f'"worker ready","worker":"{worker}"' in line][-1]
    return int(re.findall(r'"pid":(\d+)', line)[0])


def test_a_killed_worker_costs_only_calls_in_flight_and_is_replaced(launch: Launch) -> None:
    server = launch("--model", "none", "--workers", "2", "--metrics-listen", "127.0.0.1:0").ready()
    metrics = metrics_of(server)
    with server.stubs() as stubs:
        gallery_id = make_gallery(stubs, DIMENSION)
    with each_worker(server, 2) as workers:
        num_shown = 0.0
        with clients(server.address, gallery_id) as done:
            for number in range(NUM_KILLS):
                name = str(number % 2)
                before = list(done)
                os.kill(pid_of(server, name), signal.SIGKILL)
                died = server.wait_for("worker died")
                assert (died["worker"], died["ended"]) == (name, "SIGKILL")
                assert server.wait_for("worker ready")["worker"] == name
                # Everybody goes on with the worker that is there.
                while any(now <= then for now, then in zip(done, before, strict=True)):
                    threading.Event().wait(0.01)
                shown = num_requests(metrics)
                assert shown >= num_shown
                num_shown = shown
        # A connection to a worker that died is made anew, to whichever.
        assert {asked(stubs) for stubs in workers.values()} <= {"0", "1"}
    with each_worker(server, 2) as workers:
        for stubs in workers.values():
            vector = unit(np.random.default_rng(0), DIMENSION)
            assert best_of(stubs.identification.Identify(question(gallery_id, vector))) == "0-0"
    assert 'identiface_worker_restarts_total{worker="0"} 2.0' in read(metrics)
    server.stop()


def test_a_call_in_flight_on_a_killed_worker_fails_as_unavailable(launch: Launch) -> None:
    server = launch("--model", "none", "--workers", "2").ready()
    with each_worker(server, 2) as workers:
        gallery_id = make_gallery(workers["0"], DIMENSION)
        codes = []
        for name, stubs in workers.items():
            stream = stubs.identification.IdentifyStream(iter_silence(), timeout=ANSWER_S)
            if name == "0":
                os.kill(pid_of(server, "0"), signal.SIGKILL)
                with pytest.raises(grpc.RpcError) as caught:
                    next(stream)
                codes.append(caught.value.code())
            else:
                stream.cancel()
                vector = unit(np.random.default_rng(1), DIMENSION)
                assert best_of(stubs.identification.Identify(question(gallery_id, vector))) == ""
    assert codes == [grpc.StatusCode.UNAVAILABLE]
    server.stop()


def test_a_hung_worker_is_killed_and_replaced(launch: Launch) -> None:
    server = launch("--model", "none", "--workers", "2", settings="worker_silence_s = 1.0").ready()
    os.kill(pid_of(server, "1"), signal.SIGSTOP)
    assert server.wait_for("worker is silent: killed")["worker"] == "1"
    assert server.wait_for("worker died")["ended"] == "SIGKILL"
    assert server.wait_for("worker ready")["worker"] == "1"
    server.stop()


def test_a_killed_parent_leaves_neither_port_nor_folder_held(launch: Launch, tmp_path: Path) -> None:
    server = launch("--model", "none", "--workers", "2", folder=tmp_path).ready()
    address = server.address
    vector = unit(np.random.default_rng(2), DIMENSION)
    with server.stubs() as stubs:
        gallery_id = make_gallery(stubs, DIMENSION)
        stubs.enrollment.Enroll(enrollment(gallery_id, "ada", [vector]))
    # Its output ends once the last worker has closed it, so that this waits for them all.
    server.kill()
    again = launch("--model", "none", "--workers", "2", "--listen", address, folder=tmp_path).ready()
    with again.stubs() as stubs:
        assert best_of(stubs.identification.Identify(question(gallery_id, vector))) == "ada"
    again.stop()


def test_a_parent_killed_while_a_worker_hangs_takes_it_along(launch: Launch, tmp_path: Path) -> None:
    server = launch("--model", "none", "--workers", "2", folder=tmp_path).ready()
    os.kill(pid_of(server, "0"), signal.SIGSTOP)
    server.kill()
    launch("--model", "none", "--workers", "2", folder=tmp_path).ready().stop()


def test_a_killed_builder_costs_nothing_but_its_build(launch: Launch) -> None:
    settings = "[galleries.index]\nbuild_inline_rows_max = 0"
    server = launch("--model", "none", "--workers", "2", settings=settings).ready()
    rng = np.random.default_rng(3)
    with each_worker(server, 2) as workers:
        gallery_id = make_gallery(workers["0"], DIMENSION)
        vectors = [unit(rng, DIMENSION) for _ in range(20)]
        for number, vector in enumerate(vectors):
            workers["0"].enrollment.Enroll(enrollment(gallery_id, f"id-{number}", [vector]))
        request = admin_pb2.BuildIndexRequest(gallery_id=gallery_id)
        build = workers["1"].admin.BuildIndex(request, timeout=ANSWER_S)
        os.kill(builder_of(pid_of(server, "1")), signal.SIGKILL)
        with pytest.raises(grpc.RpcError) as caught:
            list(build)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        for stubs in workers.values():
            for number, vector in enumerate(vectors):
                assert best_of(stubs.identification.Identify(question(gallery_id, vector))) == f"id-{number}"
        again = list(workers["0"].admin.BuildIndex(request, timeout=ANSWER_S))[-1]
        assert again.is_done
    server.stop()


def test_a_worker_that_is_told_to_stop_drains_and_is_replaced(launch: Launch) -> None:
    server = launch("--model", "none", "--workers", "2").ready()
    with server.stubs() as stubs:
        gallery_id = make_gallery(stubs, DIMENSION)
    with clients(server.address, gallery_id):
        os.kill(pid_of(server, "0"), signal.SIGTERM)
        assert server.wait_for("worker died")["ended"] == "exit code 0"
        assert server.wait_for("worker ready")["worker"] == "0"
    server.stop()


def builder_of(worker_pid: int) -> int:
    """Process id of the builder that a worker is about to start."""
    while True:
        command = ["pgrep", "-P", str(worker_pid), "-f", "engine.builder"]
        if found := subprocess.run(command, capture_output=True, text=True, check=False).stdout.split():
            return int(found[0])


def num_requests(metrics: str) -> float:
    values = re.findall(r"^identiface_requests_total\{[^}]*\} (\S+)$", read(metrics), re.MULTILINE)
    return sum(map(float, values))


def iter_silence() -> Iterator[object]:
    threading.Event().wait(5.0)
    yield from ()
