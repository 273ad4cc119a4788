"""What looks at a run from time to time: scores, grids, cut captions, bad files, divergence."""

import dataclasses
from typing import NamedTuple

from ml_collections import ConfigDict

from ldm_jax.core.types import PyTree
from ldm_jax.parallel.host_memory import on_device
from ldm_jax.train.diverged import Diagnosis
from ldm_jax.train.evaluation import Evaluation
from ldm_jax.train.goodput import Goodput
from ldm_jax.train.grids import Grid
from ldm_jax.train.hooks import CutCaptions, QuarantineLog, RunLog
from ldm_jax.train.state import TrainState


class Watch(NamedTuple):
    """What looks at a run from time to time, and always at the last step.

    Attributes:
      evaluation: of held-out images; None where there are none.
      grid: what to draw; None for nothing.
      captions: that were too long.
      quarantine: files that could not be read.
      diagnosis: of a loss that is not finite.
      goodput: the clock.
    """

    evaluation: Evaluation | None
    grid: Grid | None
    captions: CutCaptions
    quarantine: QuarantineLog
    diagnosis: Diagnosis
    goodput: Goodput

    def look(self) -> None:
        """Tells what is new about captions and files."""
        self.captions.look()
        self.quarantine.look()

    def close(self) -> None:
        """Tells the rest."""
        self.captions.close()
        self.quarantine.close()

    def due(self, config: ConfigDict, step: int) -> bool:
        """Returns whether there may be anything to evaluate or draw."""
        often = config.train.sample_every, max(1, config.evaluation.every)
        return step == config.train.steps or any(step % every == 0 for every in often)

    def score(self, config: ConfigDict, step: int, state: TrainState, log: RunLog) -> None:
        """Evaluates where it is due."""
        due = step == config.train.steps or step % max(1, config.evaluation.every) == 0
        if self.evaluation is not None and due:
            log.scores(step, self.evaluation.run(_reachable(state)))

    def draw(
        self, config: ConfigDict, step: int, state: TrainState, frozen: PyTree, log: RunLog
    ) -> None:
        """Draws where it is due."""
        due = step == config.train.steps or step % config.train.sample_every == 0
        if self.grid is not None and due:
            images = self.grid.draw(_reachable(state), frozen)
            log.images(step, self.grid.name, images, self.grid.columns)


def _reachable(state: TrainState) -> TrainState:
    """Returns a state whose averages are in device memory, where all but the step want them."""
    return dataclasses.replace(state, ema_params=on_device(state.ema_params))
