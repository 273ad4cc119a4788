"""Scalars on their way from the device to the log."""

import math
from collections.abc import Mapping

import jax
import numpy as np

from ldm_jax.core.checks import UserError

# The parameters too: an update can overflow them while its own loss was still a number.
_MUST_BE_FINITE = ("loss", "grad_norm", "param_norm")


class NonFiniteError(UserError):
    """Training met a loss or gradient that is not a number."""


class MetricWindow:
    """Collects the metrics of several steps on the device and fetches them at once.

    Fetching waits for the device, so it is done once per window, not once per step.
    """

    def __init__(self):
        self._steps: list[tuple[int, Mapping[str, jax.Array]]] = []

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """Keeps one step's metrics, still on the device."""
        self._steps.append((step, metrics))

    def flush(self) -> dict[str, float]:
        """Returns the mean of every metric over the window and empties it.

        Raises:
          NonFiniteError: naming the first step whose loss, gradient or parameters are not finite.
        """
        steps, self._steps = jax.device_get(self._steps), []
        for step, metrics in steps:
            for name, value in metrics.items():
                if not math.isfinite(value) and name.endswith(_MUST_BE_FINITE):
                    raise NonFiniteError(
                        f"step {step}: {name} is {float(value)}; expected a finite number. "
                        "Try a lower train.learning_rate, a train.clip_norm such as 1.0, or longer "
                        "train.warmup_steps."
                    )
        names = steps[0][1] if steps else ()
        return {name: float(np.mean([m[name] for _, m in steps])) for name in names}
