"""Generate the Python code of the wire contract into ``engine/pb``: ``python protos/generate.py [FOLDER]``.

Generated modules import each other as ``identiface.v1``; they are moved under ``engine.pb`` so that the
distribution owns only the import names ``engine`` and ``indexer``.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
PACKAGE = "identiface/v1"
TARGET = PROTOS.parent / "engine" / "pb"


def generate(target: Path) -> list[Path]:
    """Write the generated modules below `target`; returns their paths.

    Raises RuntimeError where protoc refuses a proto.
    """
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / PACKAGE).glob("*.proto"))
    well_known = str(files(grpc_tools) / "_proto")
    with tempfile.TemporaryDirectory() as folder:
        outputs = [f"--{kind}={folder}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
        code = protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *outputs, *sources])
        if code != 0:
            raise RuntimeError(f"protoc failed with exit code {code}")
        written = [_move(path, Path(folder), target) for path in sorted(Path(folder).rglob("*.py*"))]
    for package in (PACKAGE, str(Path(PACKAGE).parent)):
        init = target / package / "__init__.py"
        init.touch()
        written.append(init)
    return written


def _move(path: Path, source: Path, target: Path) -> Path:
    moved = target / path.relative_to(source)
    moved.parent.mkdir(parents=True, exist_ok=True)
    moved.write_text(
        path.read_text().replace("from identiface.v1 import", "from engine.pb.identiface.v1 import")
    )
    return moved


if __name__ == "__main__":
    for module in generate(Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET):
        sys.stdout.write(f"{module}\n")
