"""Servers of several workers: which of them answered, and a connection to each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from engine.pb.identiface.v1 import admin_pb2, enrollment_pb2, identification_pb2, types_pb2
from engine.server.interceptor import WORKER_METADATA
from engine.types import Vector
from tests.e2e.conftest import ServerProcess, Stubs, as_message

CONNECTIONS_MAX = 500
"""Connections after which a worker that none of them reached cannot be reached."""
ANSWER_S = 60.0


def worker_of(call: Any) -> str:
    """Name of the worker that answered a call, or failed it."""
    metadata = dict(call.trailing_metadata() or ())
    return str(metadata.get(WORKER_METADATA, ""))


def asked(stubs: Stubs) -> str:
    """Name of the worker that a connection leads to."""
    _, call = stubs.admin.Status.with_call(admin_pb2.StatusRequest(), timeout=ANSWER_S, wait_for_ready=True)
    return worker_of(call)


@contextlib.contextmanager
def each_worker(server: ServerProcess, num_workers: int) -> Iterator[dict[str, Stubs]]:
    """A connection to every worker, by its name: connects until each was reached."""
    with contextlib.ExitStack() as parts:
        reached: dict[str, Stubs] = {}
        for _ in range(CONNECTIONS_MAX):
            stubs = Stubs(server.address)
            name = asked(stubs)
            if name in reached:
                stubs.channel.close()
                continue
            reached[name] = parts.enter_context(stubs)
            if len(reached) == num_workers:
                break
        assert sorted(reached) == [str(number) for number in range(num_workers)]
        yield reached


def enrollment(gallery_id: str, identity_id: str, vectors: Sequence[Vector]) -> enrollment_pb2.EnrollRequest:
    """A request to enroll vectors."""
    samples = [enrollment_pb2.Sample(vector=as_message(vector)) for vector in vectors]
    draft = enrollment_pb2.Enrollment(identity_id=identity_id, samples=samples)
    return enrollment_pb2.EnrollRequest(gallery_id=gallery_id, enrollment=draft)


def question(gallery_id: str, vector: Vector, k: int = 1) -> identification_pb2.IdentifyRequest:
    """A request to identify a vector."""
    return identification_pb2.IdentifyRequest(
        gallery_id=gallery_id,
        probe=identification_pb2.Probe(vector=types_pb2.Vector(data=vector.astype(np.float32).tobytes())),
        options=identification_pb2.SearchOptions(k=k),
    )


def best_of(answer: Any) -> str:
    """Identity of the best candidate; empty: there is none."""
    candidates = answer.faces[0].candidates
    return str(candidates[0].identity_id) if candidates else ""
