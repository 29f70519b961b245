"""A server whose disk is full answers so, keeps what it answered, and goes on when there is room again."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from engine.client import Client
from engine.errors import StorageFullError
from engine.types import EmbeddingContract, Vectors
from tests.e2e.conftest import ServerProcess

FILE_BYTES_MAX = 3 << 20
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.mark.fault
@pytest.mark.e2e
def test_a_server_on_a_full_disk_refuses_writes_and_loses_nothing(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    """The system's limit on the size of a file stands for a full disk: writes beyond it fail alike."""
    server = ServerProcess(tmp_path, "--model", "none").ready()
    contract = EmbeddingContract("seeded", "", "", mirror=False, dimension=128, threshold=0.5)
    vectors = rng.standard_normal((20_000, 128)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with Client(server.address) as client:
        client.create_gallery("people", contract)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, resource.RLIM_INFINITY))
        answered: list[int] = []
        refused: list[int] = []
        for number in range(400):
            # Free pages of earlier commits may still let a write through after one was refused.
            try:
                client.enroll("people", f"id-{number}", list(vectors[16 * number : 16 * number + 16]))
                answered.append(number)
            except StorageFullError:
                refused.append(number)
        assert len(answered) > 50
        assert len(refused) > 50
        assert_holds(client, answered, vectors)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, UNLIMITED)
        client.enroll("people", f"id-{refused[0]}", list(vectors[16 * refused[0] : 16 * refused[0] + 16]))
        answered.append(refused[0])
    server.kill()
    server.port_file.unlink(missing_ok=True)
    server = ServerProcess(tmp_path, "--model", "none").ready()
    with Client(server.address) as client:
        assert_holds(client, answered, vectors)
    server.stop()


def assert_holds(client: Client, numbers: list[int], vectors: Vectors) -> None:
    """The gallery holds exactly these identities, each found by its last vector."""
    assert client.status().galleries[0].num_identities == len(numbers)
    assert client.status().galleries[0].num_templates == 16 * len(numbers)
    for number in numbers:
        (face,) = client.identify("people", vectors[16 * number + 15])
        assert face.candidates[0].identity_id == f"id-{number}"
        assert face.candidates[0].similarity == pytest.approx(1.0, abs=1e-5)
