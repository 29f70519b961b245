"""Several workers on one port: every one answers, and what one wrote all the others know."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from engine.client import Client
from engine.pb.identiface.v1 import admin_pb2, enrollment_pb2, gallery_pb2
from engine.server.services import SERVICES
from tests.e2e.conftest import ServerProcess, Stubs, make_gallery, refusal, unit
from tests.e2e.workers import ANSWER_S, asked, best_of, each_worker, enrollment, question, worker_of

pytestmark = pytest.mark.e2e
NUM_WORKERS = 3
DIMENSION = 32
NUM_WRITES = 1000
NUM_WRITERS = 4
NUM_BUSY = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of several workers without a network, shared by this module."""
    flags = ("--model", "none", "--workers", str(NUM_WORKERS), "--metrics-listen", "127.0.0.1:0")
    started = ServerProcess(tmp_path_factory.mktemp("workers"), *flags)
    try:
        yield started.ready()
        started.stop()
    finally:
        started.process.kill()


@pytest.fixture(scope="module")
def workers(server: ServerProcess) -> Iterator[dict[str, Stubs]]:
    """A connection to each worker."""
    with each_worker(server, NUM_WORKERS) as reached:
        yield reached


@contextlib.contextmanager
def busy(server: ServerProcess, gallery_id: str, dimension: int) -> Iterator[None]:
    """Searches without end from connections of their own; none of them may fail."""
    ended = threading.Event()
    failures: list[grpc.RpcError] = []

    def search(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with server.stubs() as stubs:
            while not ended.is_set():
                try:
                    stubs.identification.Identify(
                        question(gallery_id, unit(rng, dimension)), timeout=ANSWER_S
                    )
                except grpc.RpcError as error:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(NUM_BUSY)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(ANSWER_S)
    assert failures == []


def test_a_connection_stays_with_its_worker_and_new_ones_reach_all(workers: dict[str, Stubs]) -> None:
    for name, stubs in workers.items():
        assert {asked(stubs) for _ in range(20)} == {name}


def test_every_worker_says_that_it_serves(workers: dict[str, Stubs]) -> None:
    for stubs in workers.values():
        for name in ("", *SERVICES):
            answer = stubs.health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert stubs.admin.Status(admin_pb2.StatusRequest()).num_workers == NUM_WORKERS


def test_an_error_names_its_worker_too(workers: dict[str, Stubs]) -> None:
    for name, stubs in workers.items():
        with pytest.raises(grpc.RpcError) as caught:
            stubs.galleries.GetGallery(gallery_pb2.GetGalleryRequest(gallery_id="nobody"))
        assert worker_of(caught.value) == name


def test_the_channels_of_one_client_are_spread_over_workers(server: ServerProcess) -> None:
    gallery_id = make_gallery_on(server)
    rng = np.random.default_rng(1)
    with Client(server.address, num_channels=12) as client, contextlib.ExitStack() as parts:
        streams = []
        for _ in range(12):
            # Open all at once: the pool gives each a channel of its own.
            probes = iter_until(parts, unit(rng, DIMENSION))
            streams.append(client.identify_stream(gallery_id, probes, probes_per_message=1))
            next(streams[-1])
        parts.close()
        assert [len(list(stream)) for stream in streams] == [0] * 12
    # Twelve connections on one of three workers would be one case in 177,147.
    assert len(set(answered_by(server, gallery_id, 12))) > 1


def test_a_client_of_one_channel_stays_with_one_worker(server: ServerProcess) -> None:
    gallery_id = make_gallery_on(server)
    with Client(server.address, num_channels=1) as client:
        for _ in range(20):
            client.identify(gallery_id, unit(np.random.default_rng(2), DIMENSION))
    assert len(set(answered_by(server, gallery_id, 20))) == 1


def test_a_write_answered_by_one_worker_is_found_by_the_next_search_on_any(
    server: ServerProcess, workers: dict[str, Stubs]
) -> None:
    gallery_id = make_gallery_on(server)
    connections = list(workers.values())
    missed: list[tuple[str, int, str]] = []

    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for number in range(NUM_WRITES // NUM_WRITERS):
            vector, identity_id = unit(rng, DIMENSION), f"{seed}-{number}"
            writer = connections[number % NUM_WORKERS]
            answer = writer.enrollment.Enroll(enrollment(gallery_id, identity_id, [vector]))
            asked_ = question(gallery_id, vector)
            calls = [stubs.identification.Identify.future(asked_) for stubs in connections]
            for position, call in enumerate(calls):
                found = call.result(ANSWER_S)
                is_seen = found.faces[0].searched_sequence >= answer.receipt.sequence
                if best_of(found) != identity_id or not is_seen:
                    missed.append((identity_id, position, best_of(found)))

    with busy(server, gallery_id, DIMENSION), futures.ThreadPoolExecutor(NUM_WRITERS) as pool:
        list(pool.map(write, range(NUM_WRITERS)))
    assert missed == []


def test_what_one_worker_removed_no_other_finds(server: ServerProcess, workers: dict[str, Stubs]) -> None:
    gallery_id = make_gallery_on(server)
    rng = np.random.default_rng(4)
    connections = list(workers.values())
    for number in range(30):
        vector = unit(rng, DIMENSION)
        connections[number % NUM_WORKERS].enrollment.Enroll(enrollment(gallery_id, "somebody", [vector]))
        request = enrollment_pb2.RemoveIdentityRequest(gallery_id=gallery_id, identity_id="somebody")
        connections[(number + 1) % NUM_WORKERS].enrollment.RemoveIdentity(request)
        for stubs in connections:
            assert best_of(stubs.identification.Identify(question(gallery_id, vector))) == ""


def test_an_erased_vector_is_in_no_file_while_all_workers_are_busy(
    server: ServerProcess, workers: dict[str, Stubs]
) -> None:
    gallery_id = make_gallery_on(server)
    rng = np.random.default_rng(5)
    vectors = [unit(rng, DIMENSION) for _ in range(60)]
    first = next(iter(workers.values()))
    for number, vector in enumerate(vectors):
        first.enrollment.Enroll(enrollment(gallery_id, f"id-{number}", [vector]))
    for stubs in workers.values():
        # All have it open, index and all.
        assert best_of(stubs.identification.Identify(question(gallery_id, vectors[7]))) == "id-7"
    with busy(server, gallery_id, DIMENSION):
        for number, stubs in enumerate(workers.values()):
            request = enrollment_pb2.RemoveIdentityRequest(
                gallery_id=gallery_id, identity_id=f"id-{number}", erase=True
            )
            answer = stubs.enrollment.RemoveIdentity(request, timeout=ANSWER_S)
            assert files_with(server.data, vectors[number].tobytes()) == []
            assert answer.removal.num_templates == 1
    assert len(files_with(server.data, vectors[40].tobytes())) > 0
    for stubs in workers.values():
        for number in range(len(workers)):
            answer = stubs.identification.Identify(question(gallery_id, vectors[number]))
            assert best_of(answer) not in {"", f"id-{number}"}
        assert best_of(stubs.identification.Identify(question(gallery_id, vectors[40]))) == "id-40"


def test_a_gallery_deleted_and_made_anew_is_the_new_one_for_all(workers: dict[str, Stubs]) -> None:
    rng = np.random.default_rng(6)
    connections = list(workers.values())
    for number in range(5):
        maker = connections[number % NUM_WORKERS]
        vector = unit(rng, DIMENSION)
        make_gallery(maker, DIMENSION, gallery_id="again")
        for stubs in connections:
            assert best_of(stubs.identification.Identify(question("again", vector))) == ""
        maker.enrollment.Enroll(enrollment("again", f"id-{number}", [vector]))
        for stubs in connections:
            assert best_of(stubs.identification.Identify(question("again", vector))) == f"id-{number}"
        asked_ = question("again", vector)
        remover = connections[(number + 1) % NUM_WORKERS]
        remover.galleries.DeleteGallery(gallery_pb2.DeleteGalleryRequest(gallery_id="again"))
        for stubs in connections:
            code, reason, _ = refusal(functools.partial(stubs.identification.Identify, asked_))
            assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "GALLERY_NOT_FOUND")


def test_an_index_built_by_one_worker_is_used_by_all(workers: dict[str, Stubs]) -> None:
    rng = np.random.default_rng(7)
    connections = list(workers.values())
    gallery_id = make_gallery(connections[0], DIMENSION)
    vectors = [unit(rng, DIMENSION) for _ in range(50)]
    for number, vector in enumerate(vectors):
        connections[number % NUM_WORKERS].enrollment.Enroll(enrollment(gallery_id, f"id-{number}", [vector]))
    built = list(connections[0].admin.BuildIndex(admin_pb2.BuildIndexRequest(gallery_id=gallery_id)))[-1]
    assert built.is_done
    assert status_of(connections[0], gallery_id).search_device == "cpu"
    for stubs in connections:
        for number, vector in enumerate(vectors):
            assert best_of(stubs.identification.Identify(question(gallery_id, vector))) == f"id-{number}"
        # The others open it when they next look, and find everybody meanwhile.
        while generation_of(stubs, gallery_id) < built.generation:
            assert best_of(stubs.identification.Identify(question(gallery_id, vectors[0]))) == "id-0"


def test_metrics_are_summed_over_workers_and_galleries_counted_once(
    server: ServerProcess, workers: dict[str, Stubs]
) -> None:
    address = metrics_of(server)
    gallery_id = make_gallery_on(server)
    before = count_of(address, "EnrollmentService/Enroll")
    rng = np.random.default_rng(8)
    for number, stubs in enumerate(workers.values()):
        for _ in range(number + 1):
            stubs.enrollment.Enroll(enrollment(gallery_id, "one", [unit(rng, DIMENSION)]))
    shown = read(address)
    assert count_of(address, "EnrollmentService/Enroll") - before == 6
    assert f'identiface_gallery_identities{{gallery="{gallery_id}"}} 1.0' in shown
    assert f'identiface_gallery_templates{{gallery="{gallery_id}"}} 6.0' in shown
    for name in workers:
        assert f'identiface_requests_in_flight{{worker="{name}"}} 0.0' in shown
        assert f'identiface_worker_up{{worker="{name}"}} 1.0' in shown
        assert f'identiface_worker_restarts_total{{worker="{name}"}} 0.0' in shown
    assert shown.count("identiface_device_info{") == 1
    assert len(re.findall(r"^# TYPE identiface_requests_total", shown, re.MULTILINE)) == 1


def make_gallery_on(server: ServerProcess) -> str:
    with server.stubs() as stubs:
        return make_gallery(stubs, DIMENSION)


def status_of(stubs: Stubs, gallery_id: str) -> admin_pb2.GalleryStatus:
    status: admin_pb2.StatusResponse = stubs.admin.Status(admin_pb2.StatusRequest())
    (gallery,) = [each for each in status.galleries if each.gallery_id == gallery_id]
    return gallery


def generation_of(stubs: Stubs, gallery_id: str) -> int:
    return status_of(stubs, gallery_id).generation


def answered_by(server: ServerProcess, gallery_id: str, num_requests: int) -> list[str]:
    """Workers of the next requests to identify somebody in a gallery, as the log has them."""
    names: list[str] = []
    while len(names) < num_requests:
        line = server.wait_for("rpc")
        if line.get("gallery") == gallery_id and line["rpc"].startswith("Identification"):
            names.append(line["worker"])
    return names


def iter_until(parts: contextlib.ExitStack, vector: np.ndarray) -> Iterator[np.ndarray]:
    """One probe, then silence until `parts` is closed."""
    ended = threading.Event()
    parts.callback(ended.set)

    def probes() -> Iterator[np.ndarray]:
        yield vector
        ended.wait(ANSWER_S)

    return probes()


def files_with(folder: Path, data: bytes) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        # A file of an index may go while we look.
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and data in path.read_bytes():
                found.append(path)
    return found


def metrics_of(server: ServerProcess) -> str:
    (line,) = [line for line in server.lines if '"event":"metrics"' in line]
    return line.split('"listen":"')[1].split('"')[0]


def read(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=ANSWER_S) as answer:
        return str(answer.read().decode())


def count_of(address: str, rpc: str) -> float:
    line = rf'^identiface_requests_total{{code="OK",rpc="{rpc}"}} (\S+)$'
    found = re.search(line, read(address), re.MULTILINE)
    return float(found[1]) if found else 0.0
