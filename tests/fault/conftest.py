"""Fixtures of end-to-end tests that fault tests use, too."""

from __future__ import annotations

from tests.e2e.conftest import launch

__all__ = ["launch"]
