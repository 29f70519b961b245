"""How far a run is, for who waits: a bar on a terminal, and notes in the run's folder.

Knows nothing of how steps are made.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from engine.trainer.learner import Figures
from engine.trainer.run_folder import RunFolder
from engine.trainer.settings import TrainSettings


class Progress:
    """A bar on a terminal, a line now and then elsewhere, and notes in the run's folder."""

    def __init__(
        self,
        run: RunFolder,
        step: int,
        settings: TrainSettings,
        num_pictures: int,
        losses: Sequence[float] = (),
        *,
        is_first: bool,
        is_bar_shown: bool,
    ):
        """`num_pictures` of a step; `losses` of the steps before, where a run goes on.

        `is_first`: of several processes only the first says anything.
        """
        self._run, self._settings, self._is_first = run, settings, is_first
        self._bar: Any = None
        if is_first and is_bar_shown:
            self._bar = tqdm(
                total=settings.num_steps, initial=step, unit="step", desc="training", file=sys.stderr,
                disable=None,
            )  # fmt: skip
        self._num_pictures = num_pictures
        self.losses = list(losses)
        """Of the steps since the last note. Checkpoints keep them: a broken run notes the same."""
        self._num_steps = 0
        self._start = time.monotonic()

    def show(self, step: int, figures: Figures, rate: float) -> None:
        """Count one step."""
        if not self._is_first:
            return
        self.losses.append(figures.loss)
        self._num_steps += 1
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix(loss=f"{figures.loss:.4f}", refresh=False)
        if step % self._settings.log_every_steps and step != self._settings.num_steps:
            return
        seconds = time.monotonic() - self._start
        noted: Mapping[str, float] = {
            "loss": float(np.mean(self.losses)),
            "learning_rate": rate,
            "gradient_norm": figures.gradient_norm,
            "mean_pairwise_distance": figures.spread,
            **{name: value for name, value in figures.others.items() if name != "loss"},
            "pictures_per_s": self._num_steps * self._num_pictures / max(seconds, 1e-9),
        }
        self._run.note(step, noted)
        self.losses, self._num_steps, self._start = [], 0, time.monotonic()

    def close(self) -> None:
        """Leave the bar where it is."""
        if self._bar is not None:
            self._bar.close()
