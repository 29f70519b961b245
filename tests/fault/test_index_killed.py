"""`identiface index run`, killed at any moment and run again, ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from indexer.plan import ROWS_PER_SHARD
from indexer.record import JobFolder
from tests.contract.naive import unit_vectors
from tests.e2e.conftest import PROGRAM

pytestmark = pytest.mark.fault
NUM_ROWS = 3 * ROWS_PER_SHARD + 1000
DIMENSION = 8
NUM_KILLS = 20
NUM_PEOPLE, NUM_PICTURE_KILLS = 250, 5
LONGEST_S = 120.0


def command(tmp_path: Path, data: str) -> list[str]:
    source = ["index", "run", str(tmp_path / "v.npy"), "--ids", str(tmp_path / "ids.txt")]
    target = ["--gallery", "people", "--data", str(tmp_path / data)]
    return [str(PROGRAM), *source, *target, "--contract", "vectors", "--threshold", "0.5"]


def exported(tmp_path: Path, data: str) -> bytes:
    file = tmp_path / f"{data}.parquet"
    run([str(PROGRAM), "export", "people", str(file), "--data", str(tmp_path / data), "--overwrite"])
    return sorted_rows(file)


def sorted_rows(file: Path) -> bytes:
    """Everything but times, by source key."""
    import pyarrow.parquet as pq

    table = pq.read_table(file).drop_columns(["create_time", "identity_create_time"])
    return repr(table.sort_by("source").to_pydict()).encode()


def small_files(limit_bytes: int) -> Callable[[], None]:
    """Let a process write no file beyond this: it meets a full disk in the middle of whatever it does."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))


def run(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, check=True, capture_output=True, text=True, timeout=LONGEST_S)


def test_a_job_killed_again_and_again_ends_as_if_it_was_not(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", unit_vectors(np.random.default_rng(1), NUM_ROWS, DIMENSION))
    (tmp_path / "ids.txt").write_text("".join(f"person {row // 2}\n" for row in range(NUM_ROWS)))
    run(command(tmp_path, "whole"))
    rng, num_killed = random.Random(5), 0
    while num_killed < NUM_KILLS:
        process = subprocess.Popen(
            command(tmp_path, "data"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            process.wait(rng.uniform(0.4, 2.5))
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate(timeout=LONGEST_S)
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, "it was quicker than all kills"
            break
        num_killed += 1
    assert num_killed >= NUM_KILLS // 2
    run(command(tmp_path, "data"))
    (job,) = (tmp_path / "data" / "jobs").iterdir()
    folder = JobFolder(job.parent, job.name)
    planned = folder.read_plan()
    assert planned is not None
    # A shard that was loaded twice says how many of its templates were there: one for each kill at most.
    num_torn = sum(folder.loaded(number).num_ignored > 0 for number in range(planned.num_shards))
    assert num_torn <= num_killed
    assert exported(tmp_path, "data") == exported(tmp_path, "whole")


def test_a_job_on_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    num_rows = 30_000
    np.save(tmp_path / "v.npy", unit_vectors(np.random.default_rng(2), num_rows, DIMENSION))
    (tmp_path / "ids.txt").write_text("".join(f"person {row}\n" for row in range(num_rows)))
    run(command(tmp_path, "whole"))
    size_bytes = max(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    full = subprocess.run(
        command(tmp_path, "data"),
        check=False,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        preexec_fn=small_files(size_bytes // 2),
    )
    assert full.returncode == 1
    (told,) = [line for line in full.stderr.splitlines() if line.startswith("identiface: ")]
    assert "space" in told or "full" in told, told
    run(command(tmp_path, "data"))
    assert exported(tmp_path, "data") == exported(tmp_path, "whole")


@pytest.mark.data
@pytest.mark.model
def test_a_job_of_pictures_killed_again_and_again_ends_as_if_it_was_not(
    tmp_path: Path, data_folder: Path
) -> None:
    root = tmp_path / "root"
    for number, person in enumerate(sorted((data_folder / "lfw" / "images").iterdir())[:NUM_PEOPLE]):
        shutil.copytree(person, root / f"{number:03d}")
    line = ["index", "run", str(root), "--gallery", "people", "--workers", "2", "--data"]
    run([str(PROGRAM), *line, str(tmp_path / "whole")])
    rng = random.Random(6)
    for _ in range(NUM_PICTURE_KILLS):
        process = subprocess.Popen(
            [str(PROGRAM), *line, str(tmp_path / "data")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(1.0, 7.0))
        process.kill()
        # Its workers hold the pipe, too: this ends when the last of them has.
        process.communicate(timeout=LONGEST_S)
    run([str(PROGRAM), *line, str(tmp_path / "data")])
    assert exported(tmp_path, "data") == exported(tmp_path, "whole")
