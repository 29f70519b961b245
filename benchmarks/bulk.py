"""Bulk jobs: ``python -m benchmarks.bulk [--size N] [--pictures FOLDER]``.

Vectors: an .npy file, then its export in Parquet, from the command's start to a served, verified, built
gallery; the same command again; peak memory of its processes. Pictures: a job with its processes against as
many that only embed the same pictures, no job around them. Prints tables, writes a dated report to
``benchmarks/reports`` and, with ``--json FILE``, the rows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cache import add_option
from benchmarks.machine import write_report
from benchmarks.memory import anonymous_bytes, family
from benchmarks.probe_sets import SEED, load_set
from engine.assembly import EmbeddingSettings, build_pipeline
from engine.embedding.pipeline import Pipeline
from engine.types import FaceChoice
from indexer.items import Item
from indexer.plan import PICTURES_PER_SHARD
from indexer.sources.folder import FolderSource

PROGRAM = Path(sys.executable).parent / "identiface"
PICTURES_PER_CALL = 16
"""As many as a job's mapper embeds at once."""
POLL_S = 1.0
"""Between two looks at the memory: each stops the process for some milliseconds."""
Row = dict[str, Any]


def run(name: str, *arguments: str) -> Row:
    """Run a command; its seconds and the most private memory that its processes had together."""
    start_s = time.perf_counter()
    most = 0
    process = subprocess.Popen([str(PROGRAM), *arguments, "--json"], stdout=subprocess.PIPE, text=True)
    while process.poll() is None:
        most = max(most, sum(map(anonymous_bytes, family(process.pid))))
        time.sleep(POLL_S)
    seconds = time.perf_counter() - start_s
    answer = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"{name} failed")
    return {"name": name, "seconds": round(seconds, 2), "memory_mb": most >> 20, **_steps(answer)}


def vectors(folder: Path, cache: Path, size: int) -> list[Row]:
    """The rows of a million vectors, say."""
    source, ids = folder / "vectors.npy", folder / "ids.txt"
    np.save(source, load_set(cache, "faces", size).vectors)
    ids.write_text("".join(f"id-{row:08d}\n" for row in range(size)))
    one, other, export = folder / "npy", folder / "parquet", folder / "export.parquet"
    contract = ("--contract", "bench", "--threshold", "0.5")
    command = (
        "index",
        "run",
        str(source),
        "--ids",
        str(ids),
        "--gallery",
        "g",
        "--data",
        str(one),
        *contract,
    )
    rows = [run("npy", *command), run("npy, the same again", *command)]
    rows.append(run("export to Parquet", "export", "g", str(export), "--data", str(one)))
    rows.append(run("Parquet", "index", "run", str(export), "--gallery", "g", "--data", str(other)))
    return rows


def pictures(folder: Path, root: Path, workers: int) -> list[Row]:
    """The job, the same again, and the embedding alone."""
    command = ("index", "run", str(root), "--gallery", "g", "--data", str(folder / "pictures"))
    flags = ("--workers", str(workers), "--gate", "faces=centre")
    job = run("pictures", *command, *flags)
    again = run("pictures, the same again", *command, *flags)
    num, seconds = bare(root, workers)
    alone = {
        "name": "embedding alone",
        "seconds": round(seconds, 2),
        "pictures_per_s": round(num / seconds, 1),
    }
    job["pictures_per_s"] = round(num / job["steps"]["embed"], 1)
    job["share_of_alone"] = round(job["pictures_per_s"] / alone["pictures_per_s"], 3)
    return [job, again, alone]


def bare(root: Path, workers: int) -> tuple[int, float]:
    """Embed the pictures of a folder in so many processes, one thread each; their number, seconds."""
    source = FolderSource(root)
    items = [item for item in source.items() if isinstance(item, Item)]
    parts = [items[first : first + PICTURES_PER_SHARD] for first in range(0, len(items), PICTURES_PER_SHARD)]
    start_s = time.perf_counter()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin, (source,)) as pool:
        num = sum(pool.map(_embed, parts))
    return num, time.perf_counter() - start_s


_source: FolderSource
_pipeline: Pipeline
"""Of a process that only embeds: each has one, made once."""


def _begin(source: FolderSource) -> None:
    global _source, _pipeline
    _source, _pipeline = source, build_pipeline(EmbeddingSettings(num_threads=1, device="cpu"))


def _embed(items: Sequence[Item]) -> int:
    for first in range(0, len(items), PICTURES_PER_CALL):
        data = [_source.read(item) for item in items[first : first + PICTURES_PER_CALL]]
        _pipeline.embed(data, FaceChoice.CENTRE)
    return len(items)


def _steps(answer: str) -> Row:
    told = json.loads(answer)
    return {"steps": told["seconds"]} if "seconds" in told else {}


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    lines = ["| | s | private memory MB | pictures/s | steps |", "|---|---|---|---|---|"]
    for row in rows:
        steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in row.get("steps", {}).items())
        cells = (row["name"], row["seconds"], row.get("memory_mb", ""), row.get("pictures_per_s", ""), steps)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_option(parser)
    parser.add_argument("--size", type=int, default=1_000_000, help="vectors; 0: none (default: 1000000)")
    parser.add_argument("--pictures", type=Path, help="folder with a folder of pictures for each identity")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    scratch = arguments.cache.expanduser() / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        if arguments.size:
            rows += vectors(Path(folder), arguments.cache, arguments.size)
        if arguments.pictures:
            rows += pictures(Path(folder), arguments.pictures, arguments.workers)
    body = table(rows)
    print(body)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))
    pictures_flag = " --pictures lfw/images" if arguments.pictures else ""
    command = (
        f"python -m benchmarks.bulk --size {arguments.size}{pictures_flag} --workers {arguments.workers}"
    )
    print(write_report("bulk", "Bulk jobs", f"Seed {SEED}.\n\n{body}", command))


if __name__ == "__main__":
    main()
