"""Boxes as tokens, for layout-to-image models."""

from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.data.transforms import Crop


class LayoutTokens:
    """Turns `boxes` into a sequence of tokens, int32 [3 num_objects + 2].

    The scheme of taming-transformers that the paper's layout models are trained on (section 4.3.1;
    92 tokens of 8192): three tokens an object, which are its class, the top left and the bottom
    right corner of its box in the whole image; the objects in random order; empty places filled
    with the last token; and at the end the corners of the crop that the image shows. Objects
    outside the crop are left out; boxes that it cuts stay whole. A corner (x, y) in [0, 1] is
    round(y (s - 1)) s + round(x (s - 1)) with s = floor(sqrt(vocab_size)).

    Args:
      num_objects: places for objects; if there are more, a random choice of them.
      vocab_size: number of tokens; classes must be below the last one, which fills.
    """

    reads = ("boxes",)

    def __init__(self, num_objects: int = 30, vocab_size: int = 8192):
        if num_objects < 1 or vocab_size < 5:
            raise UserError(
                f"layout: got num_objects={num_objects}, vocab_size={vocab_size}. "
                "Legal: num_objects >= 1, vocab_size >= 5."
            )
        self.num_objects, self.vocab_size = num_objects, vocab_size
        self._sections = int(np.sqrt(vocab_size))

    def shape(self, image_size: int) -> tuple[tuple[int, ...], Any]:
        """Returns shape and type of the tokens."""
        del image_size
        return (3 * self.num_objects + 2,), np.int32

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        """Returns the tokens of an example that `transform_example` has cropped."""
        seen = np.flatnonzero(example["boxes"][:, 4] >= 0)
        chosen = rng.permutation(seen)[: self.num_objects]
        whole = example["boxes_of_image"][chosen]
        labels = whole[:, 4].astype(np.int32)
        if labels.size and labels.max() >= self.vocab_size - 1:
            raise UserError(
                f"layout: class {labels.max()} with vocab_size={self.vocab_size}. Legal: classes "
                f"up to {self.vocab_size - 2}."
            )
        tokens = np.full((self.num_objects, 3), self.vocab_size - 1, np.int32)
        tokens[: len(chosen), 0] = labels
        tokens[: len(chosen), 1] = self._corner(whole[:, :2])
        tokens[: len(chosen), 2] = self._corner(whole[:, 2:4])
        frame = _frame(*example["crop"])
        ends = [self._corner(frame[:, :2]), self._corner(frame[:, 2:])]
        return np.concatenate([tokens.reshape(-1), *ends]).astype(np.int32)

    def _corner(self, points: np.ndarray) -> np.ndarray:
        x, y = np.round(np.clip(points, 0, 1) * (self._sections - 1)).astype(np.int32).T
        return y * self._sections + x


def _frame(crop: Crop, height: int, width: int) -> np.ndarray:
    """Returns the crop as a box [1, 4] of the whole image, mirrored as it is."""
    left = width - crop.left - crop.width if crop.flip else crop.left
    corners = np.array([[left, crop.top, left + crop.width, crop.top + crop.height]])
    return corners / np.array([width, height, width, height])
