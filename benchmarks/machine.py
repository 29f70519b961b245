"""What a measurement was made on, for its report."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib.metadata
import os
import platform
from pathlib import Path

PACKAGES = ("identiface", "faiss-cpu", "grpcio", "lmdb", "numpy", "protobuf", "torch")
PACKAGES_OPTIONAL = ("scann", "hnswlib", "usearch")
"""Compared with where they are installed."""
REPORTS = Path(__file__).resolve().parent / "reports"


def describe() -> dict[str, str]:
    """Processor, cores, memory, how busy it was, operating system, versions."""
    cpu_info = Path("/proc/cpuinfo")
    models = (
        [line for line in cpu_info.read_text().splitlines() if line.startswith("model name")]
        if cpu_info.is_file()
        else []
    )
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    for name in PACKAGES_OPTIONAL:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "processor": models[0].split(":")[1].strip() if models else platform.processor(),
        "cores": str(os.cpu_count()),
        "memory_gib": f"{memory_bytes / 2**30:.0f}",
        "load_average": f"{os.getloadavg()[1]:.1f} over the last 5 minutes, of this measurement and others",
        "system": platform.platform(),
        "python": platform.python_version(),
        **versions,
    }


def report_path(name: str, suffix: str) -> Path:
    """Where a report of today lies, or with suffix ``png`` its plot."""
    return REPORTS / f"{_today()}-{name}.{suffix}"


def write_report(name: str, title: str, body: str, command: str) -> Path:
    """Write a dated report beside the others; returns its path."""
    machine = "\n".join(f"| {key} | {value} |" for key, value in describe().items())
    path = report_path(name, "md")
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"# {title}\n\n{_today()}: `{command}`\n\n{body}\n\n| machine | |\n|---|---|\n{machine}\n"
    )
    return path


def _today() -> str:
    return dt.datetime.now(tz=dt.UTC).date().isoformat()
