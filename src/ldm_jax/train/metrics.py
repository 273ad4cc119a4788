"""Scalars on their way from the device to the log."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ldm_jax.core.checks import UserError

# The parameters too: an update can overflow them while its own loss was still a number.
_MUST_BE_FINITE = ("loss", "grad_norm", "param_norm")


class NonFiniteError(UserError):
    """Training met a loss or gradient that is not a number.

    Attributes:
      step: the first such.
      name: of the metric.
      value: of it.
      window: (step, metrics) since metrics were last looked at.
    """

    def __init__(
        self,
        step: int,
        name: str,
        value: float,
        window: Sequence[tuple[int, Mapping[str, Any]]],
        more: str = "",
    ):
        self.step, self.name, self.value, self.window = step, name, value, window
        self.short = f"step {step}: {name} is {value}"
        super().__init__(
            f"{self.short}; expected a finite number. Try a lower train.learning_rate, a "
            f"train.clip_norm such as 1.0, or longer train.warmup_steps.{more and ' '}{more}"
        )

    def with_more(self, more: str) -> "NonFiniteError":
        """Returns the same error with a sentence at its end."""
        return NonFiniteError(self.step, self.name, self.value, self.window, more)


def name_not_finite(metrics: Mapping[str, Any]) -> str | None:
    """Returns the first of the metrics that should be finite and is not."""
    for name, value in metrics.items():
        if name.endswith(_MUST_BE_FINITE) and not math.isfinite(value):
            return name
    return None


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
            name = name_not_finite(metrics)
            if name is not None:
                raise NonFiniteError(step, name, float(metrics[name]), steps)
        names = steps[0][1] if steps else ()
        return {name: float(np.mean([m[name] for _, m in steps])) for name in names}
