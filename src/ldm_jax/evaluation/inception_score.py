"""How sure a classifier is of each image and how much the images differ, batch by batch.

NumPy in float64; what is kept does not grow with the number of images, but for a byte or two each.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax, xlogy

from ldm_jax.core.checks import UserError, check_shape

SPLITS, SEED = 10, 2020  # torch-fidelity's


class Score(NamedTuple):
    """Mean and standard deviation over the splits (divided by their number)."""

    mean: float
    std: float


class InceptionScore:
    """Gathers exp(E_x KL(p(y|x) || p(y))) of images that come in any order and batches.

    Salimans et al. 2016, https://arxiv.org/abs/1606.03498, section 4. The images are shuffled and
    split as torch-fidelity does it, each split has its own p(y), and the score is the mean of
    theirs. An image's split follows from its number, so neither the batches nor the hosts that they
    come from make a difference. The logits are Inception's, without their bias.

    Args:
      count: how many images there will be.
      classes: of the classifier.
      splits: how many.
      seed: of the shuffling.

    Raises:
      UserError: there are fewer images than splits.
    """

    def __init__(self, count: int, classes: int, splits: int = SPLITS, seed: int = SEED):
        if not 1 <= splits <= count:
            raise UserError(
                f"inception score: got {splits} splits of {count} images. Legal: 1 to {count}."
            )
        ends = [k * count // splits for k in range(splits + 1)]
        self._sizes = np.diff(ends)
        self._split = np.empty(count, np.min_scalar_type(splits))
        # The legacy generator is frozen: its draws stay the same in every version of NumPy.
        order = np.random.RandomState(seed).permutation(count)
        self._split[order] = np.repeat(np.arange(splits), self._sizes)
        self._seen = np.zeros(count, bool)
        self._certainty = np.zeros(splits)  # sum of sum_y p(y|x) log p(y|x)
        self._total = np.zeros((splits, classes))  # sum of p(y|x)

    def update(self, indices: np.ndarray, logits: np.ndarray) -> None:
        """Adds images by their numbers.

        Args:
          indices: [n] in 0 .. count - 1; n may be 0.
          logits: [n, classes] of any real type.

        Raises:
          UserError: for another shape, values that are not finite, or an image for a second time.
        """
        indices, logits = np.asarray(indices, np.int64), np.asarray(logits, np.float64)
        check_shape("inception score: logits", logits.shape, (len(indices), self._total.shape[1]))
        if not np.isfinite(logits).all():
            raise UserError(
                "inception score: logits have values that are not finite. Legal: finite numbers."
            )
        self._mark(indices)
        log_p = log_softmax(logits, axis=1)
        p, split = np.exp(log_p), self._split[indices]
        np.add.at(self._certainty, split, np.sum(p * log_p, axis=1))
        np.add.at(self._total, split, p)

    def merge(self, other: "InceptionScore") -> None:
        """Adds the images that another has gathered, as on another host.

        Raises:
          UserError: it shuffles or splits otherwise, or has images that are here already.
        """
        same = self._total.shape == other._total.shape
        if not (same and np.array_equal(self._split, other._split)):
            raise UserError(
                "inception score: the other one has other images, classes, splits or another seed."
            )
        self._mark(np.flatnonzero(other._seen))
        self._certainty += other._certainty
        self._total += other._total

    def score(self) -> Score:
        """Returns the score, from 1 to the number of classes.

        Raises:
          UserError: images are missing.
        """
        if not self._seen.all():
            raise UserError(
                f"inception score: {int((~self._seen).sum())} of {len(self._seen)} images are "
                f"missing, the first of them number {int(np.argmin(self._seen))}."
            )
        marginal = self._total / self._sizes[:, None]
        # E_x KL = E_x sum_y p(y|x) log p(y|x) - sum_y p(y) log p(y)
        divergence = self._certainty / self._sizes - np.sum(xlogy(marginal, marginal), axis=1)
        scores = np.exp(divergence)
        return Score(float(scores.mean()), float(scores.std()))

    def _mark(self, indices: np.ndarray) -> None:
        count = len(self._seen)
        if len(indices) and not 0 <= indices.min() <= indices.max() < count:
            raise UserError(
                f"inception score: images {indices.min()} to {indices.max()}. Legal: 0 to "
                f"{count - 1}."
            )
        twice = indices[self._seen[indices]]
        if len(twice) or len(np.unique(indices)) < len(indices):
            raise UserError("inception score: an image came twice. Legal: each of them once.")
        self._seen[indices] = True
