"""The distribution of latents: mean, standard deviation and kurtosis, each with an interval.

The sampling unit is the image, not the pixel, since the pixels of an image are correlated: sums
are kept per image, and intervals come from drawing images again (the bootstrap; Efron &
Tibshirani 1993, chapter 13, percentile intervals).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.core.checks import UserError

_RESAMPLES = 1000
_COVERAGE = 0.95
_SHOWN = 8  # channels in a line of the log


class Estimate(NamedTuple):
    """A measured number, or one per channel [c], and its 95 % confidence interval."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclasses.dataclass(frozen=True)
class LatentStatistics:
    """Statistics of unscaled latents.

    Attributes:
      num_images: that were measured.
      mean: [c].
      std: [c].
      kurtosis: [c], excess: 0 for a normal distribution.
      std_all: of all elements together, about their common mean; a scalar.
    """

    num_images: int
    mean: Estimate
    std: Estimate
    kurtosis: Estimate
    std_all: Estimate

    def to_json(self) -> dict[str, Any]:
        """Returns plain numbers and lists."""
        estimates = {
            name: {part: array.tolist() for part, array in estimate._asdict().items()}
            for name, estimate in self._estimates().items()
        }
        return {"num_images": self.num_images, "coverage": _COVERAGE, **estimates}

    def __str__(self) -> str:
        parts = [
            f"{name.replace('_', ' of ')} {_shown(x)}" for name, x in self._estimates().items()
        ]
        return f"{self.num_images:,} images (± half a {_COVERAGE:.0%} interval): {', '.join(parts)}"

    def _estimates(self) -> Mapping[str, Estimate]:
        names = ("mean", "std", "kurtosis", "std_all")
        return {name: getattr(self, name) for name in names}


def _shown(estimate: Estimate) -> str:
    values, halves = np.atleast_1d(estimate.value, (estimate.high - estimate.low) / 2)
    pairs = [f"{value:.3g}±{half:.1g}" for value, half in zip(values, halves, strict=True)]
    return " ".join(pairs[:_SHOWN]) + (" …" if len(pairs) > _SHOWN else "")


class LatentSums:
    """Adds up powers of latents, image by image, in float64 on the host.

    Deviations are taken from a pilot mean, that of the first batch, so that nothing cancels.
    """

    def __init__(self):
        self._pilot: np.ndarray | None = None
        self._sums: list[np.ndarray] = []  # [b, 4, c]: of the powers of (z - pilot), per image
        self._cells = 0

    def add(self, latents: np.ndarray) -> None:
        """Adds the latents of some images, [b, h, w, c]."""
        values = np.asarray(latents, np.float64).reshape(len(latents), -1, latents.shape[-1])
        if self._pilot is None:
            self._pilot, self._cells = values.mean((0, 1)), values.shape[1]
        first = values - self._pilot[None, None, :]
        second = first * first  # products: a power takes twenty times as long
        powers = (first, second, second * first, second * second)
        self._sums.append(np.stack([np.sum(power, axis=1) for power in powers], axis=1))

    def statistics(self, seed: int) -> LatentStatistics:
        """Returns the statistics of all images so far; `seed` is that of the bootstrap.

        Raises:
          UserError: a channel does not vary, as with an untrained or collapsed first stage.
        """
        assert self._pilot is not None
        sums = np.concatenate(self._sums)
        count = len(sums)
        values = _moments(sums.sum(0)[None], count * self._cells, self._pilot)
        variance = np.square(values["std"][0])
        if not np.all(variance > 1e-12):
            raise UserError(
                f"first stage: latent variance per channel is {variance.tolist()}; expected "
                "positive. The first stage looks untrained or collapsed."
            )
        rng = np.random.default_rng(seed)
        totals = np.empty((_RESAMPLES, *sums.shape[1:]))
        for k in range(_RESAMPLES):
            times_drawn = np.bincount(rng.integers(count, size=count), minlength=count)
            totals[k] = np.tensordot(times_drawn, sums, 1)
        resampled = _moments(totals, count * self._cells, self._pilot)
        tail = (1 - _COVERAGE) / 2
        estimates = {
            name: Estimate(values[name][0], *np.quantile(resampled[name], (tail, 1 - tail), axis=0))
            for name in values
        }
        return LatentStatistics(count, **estimates)


def _moments(totals: np.ndarray, count: int, pilot: np.ndarray) -> dict[str, np.ndarray]:
    """Returns mean, std and excess kurtosis [n, c], and std_all [n].

    Args:
      totals: [n, 4, c], sums of the powers of deviations from the pilot mean.
      count: of the values in each sum.
      pilot: [c].
    """
    first, second, third, fourth = np.moveaxis(totals / count, 1, 0)
    variance = second - first**2
    mean = pilot[None, :] + first
    central_fourth = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    with np.errstate(divide="ignore", invalid="ignore"):  # a channel that does not vary
        kurtosis = central_fourth / variance**2 - 3
    std_all = np.sqrt(np.mean(variance, axis=1) + np.var(mean, axis=1))
    return {"mean": mean, "std": np.sqrt(variance), "kurtosis": kurtosis, "std_all": std_all}
