"""Life of a server of several workers: refusals to start, ends by signal, what clients are told meanwhile."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from engine.pb.identiface.v1 import identification_pb2
from tests.e2e.conftest import Launch, ServerProcess, as_message, make_gallery, unit
from tests.e2e.test_server_lifecycle import assert_refuses_to_start, write_newer_format
from tests.e2e.workers import ANSWER_S, asked, best_of, each_worker, enrollment, question

pytestmark = pytest.mark.e2e
TWO = ("--model", "none", "--workers", "2")


def test_sigterm_ends_streams_and_all_workers(launch: Launch) -> None:
    server = launch(*TWO, settings="grace_s = 20.0").ready()
    pids = worker_pids(server)
    ended = threading.Event()
    vector = unit(np.random.default_rng(0))
    with each_worker(server, 2) as workers:
        gallery_id = make_gallery(workers["0"])

        def silence() -> Iterator[identification_pb2.IdentifyStreamRequest]:
            probe = identification_pb2.Probe(vector=as_message(vector))
            yield identification_pb2.IdentifyStreamRequest(gallery_id=gallery_id, probes=[probe])
            ended.wait(ANSWER_S)

        streams = [stubs.identification.IdentifyStream(silence()) for stubs in workers.values()]
        for stream in streams:
            next(stream)
        server.process.send_signal(signal.SIGTERM)
        for stream in streams:
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert caught.value.details() == "the server is stopping"
        ended.set()
    server.stop()
    assert not any(is_alive(pid) for pid in pids)
    assert '"level":"error"' not in server.output


def test_ctrl_c_in_a_terminal_goes_to_all_processes_and_still_drains(tmp_path: Path) -> None:
    """A stream in progress is told so, instead of being cut by a worker that died of the signal itself."""
    server = ServerProcess(tmp_path, *TWO)
    try:
        server.ready()
        with each_worker(server, 2) as workers:
            gallery_id = make_gallery(workers["0"])
            request = question(gallery_id, unit(np.random.default_rng(0)))
            ended = threading.Event()

            def silence() -> Iterator[identification_pb2.IdentifyStreamRequest]:
                yield identification_pb2.IdentifyStreamRequest(gallery_id=gallery_id, probes=[request.probe])
                ended.wait(ANSWER_S)

            stream = workers["1"].identification.IdentifyStream(silence())
            next(stream)
            for pid in [*worker_pids(server), server.process.pid]:
                os.kill(pid, signal.SIGINT)
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.details() == "the server is stopping"
            ended.set()
        server.stop()
    finally:
        server.process.kill()


def test_a_second_signal_ends_the_grace_period(launch: Launch) -> None:
    server = launch(*TWO, settings="grace_s = 600.0").ready()
    vector = unit(np.random.default_rng(1))
    with server.stubs() as stubs:
        gallery_id = make_gallery(stubs)
        stubs.enrollment.Enroll(enrollment(gallery_id, "x" * 200, [vector] * 16))
        probes = [identification_pb2.Probe(vector=as_message(vector)) for _ in range(256)]
        request = identification_pb2.IdentifyStreamRequest(
            gallery_id=gallery_id, probes=probes, options=identification_pb2.SearchOptions(k=1)
        )
        unread = stubs.identification.IdentifyStream(iter([request] * 40), timeout=ANSWER_S)
        next(unread)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("stopping")
        server.stop()
        unread.cancel()


def test_a_signal_while_starting_stops_it(launch: Launch) -> None:
    server = launch(*TWO)
    server.wait_for("starting")
    server.stop()


def test_clients_are_moved_to_other_workers_by_age_without_losing_a_call(launch: Launch) -> None:
    server = launch(*TWO, settings="max_connection_age_s = 0.2").ready()
    rng = np.random.default_rng(2)
    ended = threading.Event()
    vector = unit(rng)
    with server.stubs() as stubs, server.stubs() as others:
        gallery_id = make_gallery(stubs)
        stubs.enrollment.Enroll(enrollment(gallery_id, "ada", [vector]))
        message = identification_pb2.IdentifyStreamRequest(
            gallery_id=gallery_id, probes=[identification_pb2.Probe(vector=as_message(vector))]
        )
        more = threading.Semaphore(1)

        def requests() -> Iterator[identification_pb2.IdentifyStreamRequest]:
            while more.acquire(timeout=ANSWER_S) and not ended.is_set():
                yield message

        stream = others.identification.IdentifyStream(requests())
        assert next(stream).outcomes
        seen: set[str] = set()
        while len(seen) < 2:
            assert best_of(stubs.identification.Identify(question(gallery_id, vector))) == "ada"
            seen.add(asked(stubs))
        # Older by now than any connection may become, and still answered.
        more.release()
        assert next(stream).outcomes
        ended.set()
        more.release()
        assert list(stream) == []
    server.stop()


def test_two_servers_never_share_a_data_folder_or_a_port(launch: Launch, tmp_path: Path) -> None:
    first = launch(*TWO, folder=tmp_path).ready()
    for flags in (TWO, TWO[:2]):
        same_data = ServerProcess(tmp_path, *flags, "--port-file", str(tmp_path / "other"))
        assert same_data.join() == 1
        assert "in use by another process" in same_data.output
        same_port = launch(*flags, "--listen", first.address)
        assert_refuses_to_start(same_port, first.address, "in use")
    first.stop()


def test_it_refuses_a_port_that_is_taken(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_refuses_to_start(launch(*TWO, "--listen", address), address, "in use")


def test_what_a_worker_cannot_start_for_is_the_servers_own_error(launch: Launch, tmp_path: Path) -> None:
    launch(*TWO, folder=tmp_path).ready().stop()
    write_newer_format(tmp_path / "data")
    assert_refuses_to_start(launch(*TWO, folder=tmp_path), "format 999")


@pytest.mark.model
def test_it_refuses_weights_that_are_none(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "net.dat").write_bytes(b"no weights")
    server = launch("--workers", "2", "--model", str(tmp_path / "net.dat"), folder=tmp_path)
    assert_refuses_to_start(server, "net.dat")


@pytest.mark.parametrize(
    ("flags", "settings", "words"),
    [
        (TWO, "[galleries.store]\nmap_size = 1", ("galleries.store", "map_size_bytes_max")),
        (TWO[:2], "workers = 65", ("workers", "<= 64")),
        (TWO[:2], "embed_workers = 2", ("embed_workers", "workers is 1")),
        (TWO, "worker_silence_s = 0.1", ("worker_silence_s", ">= 1")),
    ],
)
def test_it_refuses_wrong_settings_by_name(
    launch: Launch, flags: tuple[str, ...], settings: str, words: tuple[str, ...]
) -> None:
    assert_refuses_to_start(launch(*flags, settings=settings), *words)


def worker_pids(server: ServerProcess) -> list[int]:
    """Process ids of a server's workers, as its log has them."""
    ready = [line for line in server.lines if '"event":"worker ready"' in line]
    return [int(re.findall(r'"pid":(\d+)', line)[0]) for line in ready]


def is_alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return bool(state.stdout.strip()) and not state.stdout.startswith("Z")
