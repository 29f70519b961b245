"""Accuracy of the default network on LFW pairs, as a dated report: ``python -m benchmarks.lfw ROOT PAIRS``.

Runs ``identiface evaluate pairs`` and writes what it prints, with the machine, to ``benchmarks/reports``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import write_report


def evaluate(root: Path, pairs: Path, model: str) -> dict[str, Any]:
    """The JSON of ``identiface evaluate pairs``. Raises CalledProcessError where it fails."""
    verb = ["evaluate", "pairs", "--root", str(root), "--pairs", str(pairs), "--model", model, "--json"]
    done = subprocess.run([sys.executable, "-m", "engine.cli", *verb], check=True, stdout=subprocess.PIPE)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def main() -> None:
    """Evaluate, print, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder of person folders")
    parser.add_argument("pairs", type=Path, help="pairs.txt of LFW's View 2")
    parser.add_argument("--model", default="dlib-resnet", help="network, as in identiface serve --model")
    arguments = parser.parse_args()
    report = evaluate(arguments.root, arguments.pairs, arguments.model)
    rows = "\n".join(f"| {key} | {json.dumps(value)} |" for key, value in report.items() if key != "versions")
    body = (
        "Threshold of each fold from the other folds, deviation with ddof 1; a picture without a face would "
        f"make its pairs wrong.\n\n| | |\n|---|---|\n{rows}"
    )
    print(body)
    command = f"identiface evaluate pairs --root lfw/images --pairs lfw/pairs.txt --model {arguments.model}"
    print(write_report(f"lfw-{Path(arguments.model).stem}", "LFW pairs", body, command))


if __name__ == "__main__":
    main()
