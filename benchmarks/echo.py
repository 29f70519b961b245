"""A gRPC server that gives answers made beforehand, a process of its own: what gRPC alone costs here."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

from benchmarks.enrolled import identity_id
from engine.pb.identiface.v1 import identification_pb2 as pb
from engine.pb.identiface.v1 import types_pb2

NUM_CANDIDATES = 10
NUM_THREADS = 2


@contextlib.contextmanager
def echoing() -> Iterator[str]:
    """The address of one, for the time of a with block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.echo"],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def _answers() -> dict[str, bytes]:
    """By rpc, as long as those of a search."""
    names = map(identity_id, range(NUM_CANDIDATES))
    candidates = [types_pb2.Candidate(identity_id=name, similarity=0.5) for name in names]
    one = pb.IdentifyResponse(faces=[pb.FaceIdentification(candidates=candidates)])
    batch = pb.BatchIdentifyResponse(outcomes=[pb.IdentifyOutcome(identified=one)] * 64)
    return {"Identify": one.SerializeToString(), "BatchIdentify": batch.SerializeToString()}


class _Echo(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self) -> None:
        self._answers = _answers()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        answer = self._answers[handler_call_details.method.rsplit("/", 1)[-1]]
        return grpc.unary_unary_rpc_method_handler(lambda _request, _context: answer)


def main() -> None:
    """Serve until killed; the port is the first line of output."""
    server = grpc.server(futures.ThreadPoolExecutor(NUM_THREADS))
    server.add_generic_rpc_handlers((_Echo(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
