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
from engine.pb.identiface.v1 import admin_pb2, identification_pb2
from tests.e2e.conftest import Launch, ServerProcess, make_gallery, unit
from tests.e2e.test_workers import metrics_of, read
from tests.e2e.test_workers_lifecycle import is_alive
from tests.e2e.workers import ANSWER_S, asked, best_of, each_worker, enrollment, question

pytestmark = [pytest.mark.fault, pytest.mark.e2e]
DIMENSION = 16
NUM_CLIENTS = 6
NUM_KILLS = 3
SILENCE_S = 3.0
"""Enough for a busy machine, and not long to wait for."""
SETTINGS = f"worker_silence_s = {SILENCE_S}\n[galleries.index]\nbuild_inline_rows_max = 0"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Two workers, shared by the tests that kill no more than what their parent replaces."""
    flags = ("--model", "none", "--workers", "2", "--metrics-listen", "127.0.0.1:0")
    started = ServerProcess(tmp_path_factory.mktemp("workers"), *flags, settings=SETTINGS)
    try:
        yield started.ready()
        started.stop()
    finally:
        started.process.kill()


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


def test_a_killed_worker_costs_only_calls_in_flight_and_is_replaced(server: ServerProcess) -> None:
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


def test_a_call_in_flight_on_a_killed_worker_fails_as_unavailable(server: ServerProcess) -> None:
    vector = unit(np.random.default_rng(1), DIMENSION)
    ended = threading.Event()
    with each_worker(server, 2) as workers:
        gallery_id = make_gallery(workers["0"], DIMENSION)
        asked_ = identification_pb2.IdentifyStreamRequest(
            gallery_id=gallery_id, probes=[question(gallery_id, vector).probe]
        )

        def silence() -> Iterator[identification_pb2.IdentifyStreamRequest]:
            yield asked_
            ended.wait(ANSWER_S)

        streams = {
            name: stubs.identification.IdentifyStream(silence(), timeout=ANSWER_S)
            for name, stubs in workers.items()
        }
        for stream in streams.values():
            next(stream)
        os.kill(pid_of(server, "1"), signal.SIGKILL)
        with pytest.raises(grpc.RpcError) as caught:
            next(streams["1"])
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        # The other's is still there, and ends with what it asks.
        ended.set()
        assert list(streams["0"]) == []
    until_replaced(server, "1")


def test_a_hung_worker_is_killed_and_replaced(server: ServerProcess) -> None:
    os.kill(pid_of(server, "1"), signal.SIGSTOP)
    assert server.wait_for("worker is silent: killed")["worker"] == "1"
    assert server.wait_for("worker died")["ended"] == "SIGKILL"
    until_replaced(server, "1")


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


def test_a_parent_killed_while_its_workers_load_leaves_the_folder_free_at_once(
    launch: Launch, tmp_path: Path
) -> None:
    server = launch("--model", "none", "--workers", "2", folder=tmp_path)
    server.wait_for("starting")
    server.process.kill()
    server.process.wait()
    # Without waiting for the workers, which take longer to load than this parent takes to lock the folder.
    launch("--model", "none", "--workers", "2", folder=tmp_path).ready().stop()


def test_a_killed_builder_costs_nothing_but_its_build(server: ServerProcess) -> None:
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


def test_a_worker_that_dies_takes_its_builder_along_and_another_builds(server: ServerProcess) -> None:
    rng = np.random.default_rng(4)
    with each_worker(server, 2) as workers:
        gallery_id = make_gallery(workers["0"], DIMENSION)
        vectors = [unit(rng, DIMENSION) for _ in range(20)]
        for number, vector in enumerate(vectors):
            workers["0"].enrollment.Enroll(enrollment(gallery_id, f"id-{number}", [vector]))
        request = admin_pb2.BuildIndexRequest(gallery_id=gallery_id)
        worker = pid_of(server, "0")
        build = workers["0"].admin.BuildIndex(request, timeout=ANSWER_S)
        builder = builder_of(worker)
        # Asked for twice at once: the other one waits for the first, and builds when that is gone.
        other = workers["1"].admin.BuildIndex(request, timeout=ANSWER_S)
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(grpc.RpcError):
            list(build)
        assert list(other)[-1].is_done
        for number, vector in enumerate(vectors):
            answer = workers["1"].identification.Identify(question(gallery_id, vector))
            assert best_of(answer) == f"id-{number}"
    assert not is_alive(builder)
    until_replaced(server, "0")


def test_a_worker_that_is_told_to_stop_drains_and_is_replaced(server: ServerProcess) -> None:
    with server.stubs() as stubs:
        gallery_id = make_gallery(stubs, DIMENSION)
    with clients(server.address, gallery_id):
        os.kill(pid_of(server, "0"), signal.SIGTERM)
        assert server.wait_for("worker died")["ended"] == "exit code 0"
        until_replaced(server, "0")


def builder_of(worker_pid: int) -> int:
    """Process id of the builder that a worker is about to start."""
    while True:
        command = ["pgrep", "-P", str(worker_pid), "-f", "engine.builder"]
        if found := subprocess.run(command, capture_output=True, text=True, check=False).stdout.split():
            return int(found[0])


def num_requests(metrics: str) -> float:
    values = re.findall(r"^identiface_requests_total\{[^}]*\} (\S+)$", read(metrics), re.MULTILINE)
    return sum(map(float, values))


def until_replaced(server: ServerProcess, worker: str) -> None:
    while server.wait_for("worker ready")["worker"] != worker:
        pass
