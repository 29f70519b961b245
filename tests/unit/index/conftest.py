"""Both ways to scan codes: the kernel in C, and FAISS where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.index import kernel


@pytest.fixture(scope="module", params=["kernel", "faiss"])
def scan(request: pytest.FixtureRequest) -> Iterator[str]:
    """Who scans, for all tests of a module that asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "faiss":
            patch.setattr(kernel, "_level", 0)
        elif not kernel.is_available():
            pytest.skip("no kernel was compiled for this processor")
        yield request.param
