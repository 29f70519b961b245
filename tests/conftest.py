"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Folder of real test data; the test is skipped where it is missing, unless CI forbids it."""
    folder = Path(os.environ.get("IDENTIFACE_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        if os.environ.get("IDENTIFACE_DATA_REQUIRED") == "1":
            pytest.fail(f"IDENTIFACE_DATA_REQUIRED=1 but no test data at {folder}")
        pytest.skip(f"no test data at {folder}: set IDENTIFACE_DATA")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded source of random numbers."""
    return np.random.default_rng(20261121)
