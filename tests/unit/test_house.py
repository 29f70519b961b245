"""House rules as tests: lint, format, types, import contracts, protos, sizes of files and functions."""

from __future__ import annotations

import ast
import filecmp
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.house

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
BLOB_BYTES_MAX = 300_000
WEIGHTS_BYTES_MAX = 4 << 20
"""Of each file of a network that ships as a difference."""


def run(repository: Path, *command: str, cwd: str = ".") -> None:
    """Run one of the environment's tools; its output is the failure message."""
    program = Path(sys.executable).parent / command[0]
    done = subprocess.run(
        [str(program), *command[1:]], cwd=repository / cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def tracked(repository: Path, pattern: str) -> list[Path]:
    """Files of the project below the folders that hold its code."""
    folders = ("engine", "indexer", "benchmarks", "tests", "protos")
    return [path for folder in folders for path in sorted((repository / folder).rglob(pattern))]


def sources(repository: Path) -> list[Path]:
    """Python files that people wrote."""
    return [path for path in tracked(repository, "*.py") if "engine/pb/" not in path.as_posix()]


def test_lint_finds_nothing(repository: Path) -> None:
    run(repository, "ruff", "check", ".")


def test_the_formatter_would_change_nothing(repository: Path) -> None:
    run(repository, "ruff", "format", "--check", ".")


@pytest.mark.timeout(600)
def test_strict_types_hold(repository: Path) -> None:
    run(repository, "mypy")


def test_import_contracts_hold(repository: Path) -> None:
    run(repository, "lint-imports", "--no-cache")


def test_buf_finds_nothing_in_the_protos(repository: Path) -> None:
    run(repository, "buf", "lint", cwd="protos")
    run(repository, "buf", "format", "--diff", "--exit-code", cwd="protos")


def test_generated_code_is_what_the_protos_generate(repository: Path, tmp_path: Path) -> None:
    run(repository, "python", "protos/generate.py", str(tmp_path))
    checked_in = repository / "engine" / "pb"
    generated = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.py*")}
    there = {path.relative_to(checked_in) for path in (checked_in / "identiface").rglob("*.py*")}
    there = {path for path in there if "__pycache__" not in path.parts}
    assert generated == there
    stale = [path for path in generated if not filecmp.cmp(tmp_path / path, checked_in / path, shallow=False)]
    assert not stale, f"run `make proto`: {stale}"


def test_files_are_short_and_say_what_they_hold(repository: Path) -> None:
    for path in sources(repository):
        text = path.read_text()
        assert text.count("\n") <= FILE_LINES_MAX, f"{path} has more than {FILE_LINES_MAX} lines: split it"
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{path} has no module docstring"


def test_functions_fit_on_a_screen(repository: Path) -> None:
    for path in sources(repository):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                length = node.end_lineno - node.lineno + 1
                assert length <= FUNCTION_LINES_MAX, f"{path}:{node.lineno} {node.name} has {length} lines"


def test_no_large_file_is_in_the_project(repository: Path) -> None:
    for path in tracked(repository, "*"):
        if path.is_file() and "__pycache__" not in path.parts:
            is_weights = path.suffix == ".safetensors" and "contracts" in path.parts
            limit = WEIGHTS_BYTES_MAX if is_weights else BLOB_BYTES_MAX
            assert path.stat().st_size <= limit, f"{path} has {path.stat().st_size} bytes"
