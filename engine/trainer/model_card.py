"""The card of a trained network: what it is, what it learnt from, how well it does, and what it is not for.

After Mitchell et al. 2019, "Model Cards for Model Reporting". Knows nothing of training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from engine.outputs import whole_file
from engine.trainer.run_folder import RunFolder
from engine.trainer.settings import TrainSettings

_LIMITS = """\
- It is as good as the figures above on people like those; on others it may be worse, and differently so for
  different groups. Measure it on your own people: `identiface evaluate open-set`, with `--groups` where you
  know attributes.
- Thresholds do not travel from one network or gallery size to another: measure them anew.
- Templates of this network can be compared with no other network's.
- Ask those whose faces you train on and enroll."""


def write_card(run: RunFolder, settings: TrainSettings, data: Mapping[str, Any]) -> None:
    """Write RUN/model-card.md from what the run's folder holds. Raises StorageFullError."""
    with whole_file(run.card) as file:
        file.write(card(run, settings, data).encode())


def card(run: RunFolder, settings: TrainSettings, data: Mapping[str, Any]) -> str:
    """Give the card as Markdown."""
    network, environment = settings.network, json.loads((run.path / "environment.json").read_text("utf-8"))
    learning = (
        f"its last {network.num_trainable_stages} stages" if network.num_trainable_stages else "all of it"
    )
    start = (
        network.checkpoint
        or (f"seed {settings.seed}" if network.is_from_scratch else "")
        or "its packaged weights where it has any, else the seed"
    )
    held = data["num_validation_identities"]
    judged = f"{data['num_validation_pictures']:,} pictures of {held:,} other people" if held else "nobody"
    lines = [
        f"# {run.path.name}",
        "",
        f"- Network: {network.name}, {learning} trained, from {start}",
        f"- Loss: {settings.objective.loss}; {settings.num_steps:,} steps of"
        f" {settings.batch.num_identities} people with {settings.batch.num_pictures} pictures",
        f"- Learnt from {data['num_pictures']:,} pictures of {data['num_identities']:,} people"
        f" (digest {data['training'][:16]})",
        f"- Judged by {judged}" + (f" (digest {data['validation'][:16]})" if held else ""),
        f"- Made on {environment['processor'] or environment['machine']}, {environment['cuda'] or 'no GPU'},"
        f" torch {environment['versions'].get('torch', '?')}",
        "",
        "## Figures on the people held out",
        "",
        *_table(run.notes("validation")),
        "",
        "## Limits",
        "",
        _LIMITS,
        "",
        "## Settings",
        "",
        "```json",
        json.dumps(msgspec.to_builtins(settings), indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)


def _table(notes: list[dict[str, Any]]) -> list[str]:
    """Validations as rows of a Markdown table."""
    if not notes:
        return ["Nobody was held out: nothing is known of how well it does."]
    names = [name for name in notes[0] if name != "kind"]
    head = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return [*head, *("| " + " | ".join(f"{note[name]:.4g}" for name in names) + " |" for note in notes)]
