"""The card of a trained network: what it is, what it learnt from, how well it does, and what it is not for.

After Mitchell et al. 2019, "Model Cards for Model Reporting". Knows nothing of training.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import msgspec

from engine.outputs import whole_file
from engine.trainer.run_folder import RunFolder
from engine.trainer.settings import TrainSettings
from engine.trainer.validate import fpirs_untold

_LIMITS = """\
- It is as good as the figures above on people like those; on others it may be worse, and differently so for
  different groups. Measure it on your own people: `identiface evaluate open-set`, with `--groups` where you
  know attributes.
- Thresholds do not travel from one network or gallery size to another: measure them anew.
- Templates of this network can be compared with no other network's.
- Ask those whose faces you train on and enroll."""


def write_card(run: RunFolder, settings: TrainSettings, data: Mapping[str, Any], num_unseen: int) -> None:
    """Write RUN/model-card.md from what the run's folder holds. Raises StorageFullError."""
    with whole_file(run.card) as file:
        file.write(card(run, settings, data, num_unseen).encode())


def card(run: RunFolder, settings: TrainSettings, data: Mapping[str, Any], num_unseen: int) -> str:
    """Give the card as Markdown; `num_unseen` people have one picture, and no batch takes such."""
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
        f"- Learnt from {data['num_pictures'] - num_unseen:,} pictures of"
        f" {data['num_identities'] - num_unseen:,} people (digest {data['training'][:16]})"
        + (f"; {num_unseen:,} more with one picture were never drawn" if num_unseen else ""),
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
    rows = ["| " + " | ".join(f"{note[name]:.4g}" for name in names) + " |" for note in notes]
    return [*head, *rows, *_untold(notes[-1])]


def _untold(figures: Mapping[str, Any]) -> list[str]:
    """Name the FPIRs that too few strangers were there for, as `evaluate open-set` does."""
    lines = []
    for fpir in fpirs_untold(figures):
        judged_by = (
            f"too few strangers: judged by {figures['num_strangers']:.0f} pictures of them, as of FPIR 0"
        )
        lines += ["", f"FNIR at FPIR {fpir:g}: {judged_by}; fewer than {math.ceil(1 / fpir)} cannot tell it."]
    return lines
