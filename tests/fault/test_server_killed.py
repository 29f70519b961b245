"""kill -9 of a server at random moments of a stream of enrollments and removals."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from engine.client import Client
from engine.pb.identiface.v1 import enrollment_pb2, types_pb2
from engine.types import EmbeddingContract, Vectors
from tests.e2e.conftest import ServerProcess, Stubs

ROUNDS = 50
DIMENSION = 32
GALLERY = "people"
IN_FLIGHT_MAX = 4
KILL_AFTER_S_MAX = 0.25
State = dict[str, Vectors]
Change = tuple[str, State]
"""("enroll", identities with their vectors) or ("remove", the identity removed)."""


def applied(state: State, change: Change) -> State:
    """The naive store."""
    kind, items = change
    if kind == "enroll":
        return {**state, **items}
    return {identity_id: vectors for identity_id, vectors in state.items() if identity_id not in items}


class Writer:
    """Sends random writes until the server is gone; knows what was answered and what was on its way."""

    def __init__(self, state: State, seed: int, first_number: int):
        self.state = state
        self.on_its_way: list[Change] = []
        self.number = first_number
        self.num_answered = 0
        self._random = random.Random(seed)
        self._rng = np.random.default_rng(seed)
        self._lock = threading.Lock()

    def run(self, stubs: Stubs) -> None:
        """Write until an rpc fails because the server died."""
        with contextlib.suppress(grpc.RpcError):
            while True:
                self._stream(stubs)
                for _ in range(self._random.randrange(3)):
                    self._remove(stubs)

    def _stream(self, stubs: Stubs) -> None:
        room = threading.Semaphore(IN_FLIGHT_MAX)
        messages = self._messages(self._random.randrange(1, 12), room)
        for answer in stubs.enrollment.EnrollStream(messages):
            assert all(outcome.WhichOneof("outcome") == "enrolled" for outcome in answer.outcomes)
            self._note_answer()
            room.release()

    def _messages(self, num: int, room: threading.Semaphore) -> Iterator[Any]:
        for _ in range(num):
            if not room.acquire(timeout=60):
                return
            items = self._new_identities()
            with self._lock:
                self.on_its_way.append(("enroll", items))
            enrollments = [
                enrollment_pb2.Enrollment(
                    identity_id=identity_id,
                    samples=[
                        enrollment_pb2.Sample(vector=types_pb2.Vector(data=vector.tobytes()))
                        for vector in vectors
                    ],
                )
                for identity_id, vectors in items.items()
            ]
            yield enrollment_pb2.EnrollStreamRequest(gallery_id=GALLERY, enrollments=enrollments)

    def _new_identities(self) -> State:
        items: State = {}
        for _ in range(self._random.randrange(1, 40)):
            self.number += 1
            vectors = self._rng.standard_normal((self._random.randrange(1, 4), DIMENSION)).astype(np.float32)
            items[f"id-{self.number}"] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return items

    def _remove(self, stubs: Stubs) -> None:
        if not self.state:
            return
        identity_id = self._random.choice(sorted(self.state))
        self.on_its_way.append(("remove", {identity_id: self.state[identity_id]}))
        request = enrollment_pb2.RemoveIdentityRequest(
            gallery_id=GALLERY, identity_id=identity_id, erase=self._random.random() < 0.1
        )
        stubs.enrollment.RemoveIdentity(request)
        self._note_answer()

    def _note_answer(self) -> None:
        with self._lock:
            self.state = applied(self.state, self.on_its_way.pop(0))
        self.num_answered += 1


def stored(client: Client) -> dict[str, int]:
    """What the server holds: templates of each identity."""
    return {identity.identity_id: len(identity.templates) for identity in client.list_identities(GALLERY)}


def settle(writer: Writer, held: dict[str, int]) -> State:
    """All that was answered, and a part from the front of what was on its way; else the test fails."""
    state = writer.state
    for change in [*writer.on_its_way, None]:
        if {identity_id: len(vectors) for identity_id, vectors in state.items()} == held:
            return state
        if change is not None:
            state = applied(state, change)
    missing = sorted(set(writer.state) - set(held))[:5]
    pytest.fail(f"answered writes are lost, or some are half there; missing: {missing}")


def assert_search_is_right(client: Client, state: State, rng: np.random.Generator) -> None:
    """Search equals a scan of everything in float64."""
    if not state:
        return
    probes = rng.standard_normal((5, DIMENSION)).astype(np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    ids = list(state)
    for probe in probes:
        best = np.array([np.max(state[identity_id].astype(np.float64) @ probe) for identity_id in ids])
        order = np.argsort(-best)[:5]
        (face,) = client.identify(GALLERY, probe, 5)
        assert [candidate.similarity for candidate in face.candidates] == pytest.approx(best[order], abs=1e-5)
        assert face.num_searched == sum(len(vectors) for vectors in state.values())


@pytest.mark.fault
@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_killed_server_has_every_answered_write_and_none_by_halves(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    contract = EmbeddingContract("seeded", "", "", mirror=False, dimension=DIMENSION, threshold=0.5)
    server = ServerProcess(tmp_path, "--model", "none").ready()
    with Client(server.address) as client:
        client.create_gallery(GALLERY, contract)
    state: State = {}
    num_answered = number = 0
    for round_ in range(ROUNDS):
        with server.stubs() as stubs:
            writer = Writer(state, round_, number)
            thread = threading.Thread(target=writer.run, args=(stubs,))
            thread.start()
            # The moment of the kill is what is random here; nothing is waited for.
            threading.Event().wait(float(rng.uniform(0, KILL_AFTER_S_MAX)))
            server.kill()
            thread.join(60)
            assert not thread.is_alive()
        server.port_file.unlink(missing_ok=True)
        server = ServerProcess(tmp_path, "--model", "none").ready()
        with Client(server.address) as client:
            state = settle(writer, stored(client))
            assert_search_is_right(client, state, rng)
        number, num_answered = writer.number, num_answered + writer.num_answered
    server.stop()
    assert num_answered > ROUNDS
