"""A server's life: start, health, reflection, refusals to start, and the end by signal."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from engine.pb.identiface.v1 import admin_pb2, enrollment_pb2, identification_pb2
from engine.server.serve import SERVICES
from engine.store.records import pack
from tests.e2e.conftest import (
    Launch,
    ServerProcess,
    Stubs,
    as_message,
    make_gallery,
    refusal,
    unit,
)

pytestmark = pytest.mark.e2e
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
ANSWER_S = 60.0


def assert_refuses_to_start(server: ServerProcess, *words: str) -> None:
    assert server.join() == 1, server.output
    lines = [line for line in server.lines if not line.startswith("{")]
    assert len(lines) == 1, server.output
    assert lines[0].startswith("identiface: ")
    for word in words:
        assert word in lines[0]
    assert not server.port_file.exists()


@pytest.mark.model
def test_health_says_not_serving_until_the_network_is_warm(launch: Launch) -> None:
    server = launch("--device", "cpu")
    address = server.wait_for("starting")["listen"]
    with Stubs(address) as stubs:
        watch = stubs.health.Watch(health_pb2.HealthCheckRequest(service=SERVICES[0]), timeout=ANSWER_S)
        assert next(watch).status == NOT_SERVING
        assert not server.port_file.exists()
        status = refusal(lambda: stubs.admin.Status(admin_pb2.StatusRequest()))
        assert status[:2] == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
        assert next(watch).status == SERVING
        server.wait_for("serving")
        assert stubs.admin.Status(admin_pb2.StatusRequest()).contract.name == "dlib-resnet"
        assert server.port_file.read_text() == address.rsplit(":")[-1] + "\n"
    server.stop()


def test_health_is_known_for_every_service_and_ends_with_not_serving(launch: Launch) -> None:
    # A watch that held up the end would hold it up for longer than this test waits.
    server = launch("--model", "none", settings="grace_s = 600.0").ready()
    with server.stubs() as stubs:
        for name in ("", *SERVICES):
            assert stubs.health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stubs.health.Check(health_pb2.HealthCheckRequest(service="another"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        watch = stubs.health.Watch(health_pb2.HealthCheckRequest(), timeout=ANSWER_S)
        assert next(watch).status == SERVING
        server.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        with pytest.raises(grpc.RpcError):
            next(watch)
    server.stop()


def test_reflection_lists_all_services(stubs: Stubs) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(stubs.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(reflection.ServerReflectionInfo(iter([request]), timeout=ANSWER_S))
    names = {service.name for service in answer.list_services_response.service}
    assert names == {*SERVICES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


def test_an_idle_server_stops_on_sigint_too(launch: Launch) -> None:
    launch("--model", "none").ready().stop(signal.SIGINT)


def test_a_signal_while_starting_stops_it(launch: Launch) -> None:
    server = launch("--model", "none")
    server.wait_for("starting")
    server.stop()


def test_streams_in_flight_are_told_unavailable_and_leave_no_stack_trace(launch: Launch) -> None:
    """Busy and idle streams, unary calls and watchers are all under way when the signal comes."""
    server = launch("--model", "none", settings="grace_s = 20.0").ready()
    vector = as_message(unit(np.random.default_rng(5)))
    ended = threading.Event()
    outcomes: list[grpc.RpcError] = []
    answered: list[int] = []

    def enrollments(client: int) -> Iterator[enrollment_pb2.EnrollStreamRequest]:
        number = 0
        while not ended.is_set():
            number += 1
            enrollment = enrollment_pb2.Enrollment(
                identity_id=f"{client}-{number}", samples=[enrollment_pb2.Sample(vector=vector)]
            )
            yield enrollment_pb2.EnrollStreamRequest(gallery_id="busy", enrollments=[enrollment])

    def silence() -> Iterator[identification_pb2.IdentifyStreamRequest]:
        yield identification_pb2.IdentifyStreamRequest(
            gallery_id="busy", probes=[identification_pb2.Probe(vector=vector)]
        )
        ended.wait(ANSWER_S)

    def run_stream(client: int) -> None:
        with server.stubs() as stubs:
            try:
                if client % 2:
                    for answer in stubs.enrollment.EnrollStream(enrollments(client), timeout=ANSWER_S):
                        answered.append(len(answer.outcomes))
                        started.release()
                else:
                    for _ in stubs.identification.IdentifyStream(silence(), timeout=ANSWER_S):
                        started.release()
            except grpc.RpcError as error:
                outcomes.append(error)

    started = threading.Semaphore(0)
    with server.stubs() as stubs:
        make_gallery(stubs, gallery_id="busy")
        clients = [threading.Thread(target=run_stream, args=(client,)) for client in range(8)]
        for client in clients:
            client.start()
        for _ in range(40):
            assert started.acquire(timeout=ANSWER_S)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(ANSWER_S)
        ended.set()
    server.stop()
    assert len(outcomes) == len(clients)
    assert {error.code() for error in outcomes} == {grpc.StatusCode.UNAVAILABLE}
    assert {error.details() for error in outcomes} == {"the server is stopping"}
    assert sum(answered) > 0
    assert {line["code"] for line in server.requests if "Stream" in line["rpc"]} == {"UNAVAILABLE"}


def test_a_stream_that_does_not_read_its_answers_is_cut_at_the_end_of_the_grace_period(
    launch: Launch,
) -> None:
    server = launch("--model", "none", settings="grace_s = 0.2").ready()
    rng = np.random.default_rng(6)
    probes = [identification_pb2.Probe(vector=as_message(unit(rng))) for _ in range(256)]
    with server.stubs() as stubs:
        gallery_id = make_gallery(stubs)
        drafts = [
            enrollment_pb2.Enrollment(
                identity_id=f"{number:0200d}",
                samples=[enrollment_pb2.Sample(vector=as_message(unit(rng)))],
            )
            for number in range(100)
        ]
        next(
            stubs.enrollment.EnrollStream(
                iter([enrollment_pb2.EnrollStreamRequest(gallery_id=gallery_id, enrollments=drafts)])
            )
        )
        request = identification_pb2.IdentifyStreamRequest(
            gallery_id=gallery_id, probes=probes, options=identification_pb2.SearchOptions(k=100)
        )
        unread = stubs.identification.IdentifyStream(iter([request] * 4), timeout=ANSWER_S)
        next(unread)
        server.stop()
        unread.cancel()


def test_it_refuses_a_data_folder_that_is_no_folder(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    assert_refuses_to_start(launch("--model", "none", folder=tmp_path), str(tmp_path / "data"))


@pytest.mark.parametrize("folder", ["/proc/identiface", "/proc/self/identiface"])
def test_it_refuses_a_data_folder_that_nobody_may_write(launch: Launch, folder: str) -> None:
    assert_refuses_to_start(launch("--model", "none", "--data", folder), folder)


def test_it_refuses_a_port_file_that_cannot_be_before_anything_starts(launch: Launch, tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / "nowhere" / "port"):
        server = launch("--model", "none", "--port-file", str(wrong))
        assert_refuses_to_start(server, "port_file", str(wrong.parent if wrong != tmp_path else wrong))
        assert not server.data.exists()
        assert len(server.lines) == 1


def test_it_refuses_to_show_metrics_beyond_this_machine_unless_told(launch: Launch) -> None:
    metrics = ("--metrics-listen", "0.0.0.0:0")
    assert_refuses_to_start(launch("--model", "none", *metrics), "metrics_listen", "--insecure")
    launch("--model", "none", *metrics, "--insecure").ready().stop()


def test_it_refuses_a_data_folder_that_another_server_uses(launch: Launch, tmp_path: Path) -> None:
    first = launch("--model", "none", folder=tmp_path).ready()
    second = ServerProcess(tmp_path, "--model", "none", "--port-file", str(tmp_path / "other"))
    assert second.join() == 1
    assert second.output.count("\n") == 1
    assert "in use" in second.output
    first.stop()


def test_it_refuses_a_data_folder_of_a_newer_format(launch: Launch, tmp_path: Path) -> None:
    launch("--model", "none", folder=tmp_path).ready().stop()
    write_newer_format(tmp_path / "data")
    assert_refuses_to_start(launch("--model", "none", folder=tmp_path), "format 999")


def write_newer_format(data: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    environment = lmdb.Environment(str(data / "catalog"), max_dbs=10)
    with environment.begin(write=True) as transaction:
        transaction.put(b"format", pack("999"), db=environment.open_db(b"meta", transaction))
    environment.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("stream_max = 4", ("stream_max", "did you mean `streams_max`")),
        ('threads = "many"', ("threads", "int")),
        ("threads = 0", ("threads", ">= 1")),
        ('[embedding]\ndevice = "tpu"', ("embedding.device",)),
        ("[galleries.store]\nmap_size = 1", ("map_size", "map_size_bytes_max")),
        ("[galleries", ("TOML",)),
    ],
)
def test_it_refuses_wrong_settings_by_name(launch: Launch, settings: str, words: tuple[str, ...]) -> None:
    assert_refuses_to_start(launch("--model", "none", settings=settings), *words)


def test_it_refuses_to_listen_beyond_this_machine_unless_told(launch: Launch) -> None:
    assert_refuses_to_start(launch("--model", "none", "--listen", "0.0.0.0:0"), "--insecure")
    server = launch("--model", "none", "--listen", "0.0.0.0:0", "--insecure").ready()
    server.stop()


def test_it_refuses_a_port_that_is_taken(launch: Launch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_refuses_to_start(launch("--model", "none", "--listen", address), address, "in use")


@pytest.mark.model
def test_it_refuses_weights_that_are_none(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "net.dat").write_bytes(b"no weights")
    assert_refuses_to_start(launch("--model", str(tmp_path / "net.dat"), folder=tmp_path), "net.dat")
