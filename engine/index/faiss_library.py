"""The door to FAISS: imports it with the settings that cost an order of magnitude when forgotten.

Knows nothing of generations or galleries.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

_CPU_INFO = Path("/proc/cpuinfo")
# FAISS bundles an OpenBLAS that picks slow kernels on CPUs newer than itself; it is read once, when loaded.
if _CPU_INFO.is_file() and "avx512f" in _CPU_INFO.read_text():
    os.environ.setdefault("OPENBLAS_CORETYPE", "SKYLAKEX")

import faiss  # noqa: E402
from threadpoolctl import threadpool_limits  # noqa: E402

# A search of the delta is one small product: numpy's and FAISS's BLAS threads only get into each other's way
# (8 callers at 10,000 templates on 2 cores: 85 searches a second with them, 2,079 with one thread each).
threadpool_limits(limits=1, user_api="blas")

FAISS_VERSION: str = faiss.__version__
# FAISS 1.15 keeps batches of fewer floats (probes x dimension) off GEMM; its 128,000 was tuned for many
# OpenMP threads. With one, GEMM wins from 640 to 1,280 floats on (facebookresearch/faiss pull request 5109).
_BLAS_FROM_FLOATS = 800
_thread = threading.local()


def library() -> Any:
    """FAISS, with one OpenMP thread for the calling thread: a probe gains nothing from more.

    ``omp_set_num_threads`` holds for the thread that calls it, so every thread comes through here.
    """
    if not getattr(_thread, "is_ready", False):
        faiss.omp_set_num_threads(1)
        faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM_FLOATS
        _thread.is_ready = True
    return faiss
