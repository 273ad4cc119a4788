"""Prompts for parts of an image."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ldm_jax.core.checks import UserError


@dataclasses.dataclass(frozen=True)
class Region:
    """A prompt for a part of the image.

    Attributes:
      prompt: text, or a class number.
      mask: [H, W] in [0, 1], how much it counts at each pixel; where regions overlap they share,
        where none counts the image's own prompt does.
    """

    prompt: str | int
    mask: np.ndarray


def region_weights(
    regions: Sequence[Region], count: int, size: tuple[int, int], latent: tuple[int, int]
) -> np.ndarray:
    """Returns shares [count, 1 + R, h, w] of the image's own prompt and of each region.

    A region's share is the mean of its mask over a latent's cell; where the regions' sum exceeds 1
    they are divided by it, and what they leave is the image's own prompt's.

    Raises:
      UserError: a mask of another size, or out of [0, 1].
    """
    masks = []
    for number, region in enumerate(regions):
        mask = np.asarray(region.mask, np.float32)
        if mask.shape != tuple(size) or not (mask.min() >= 0 and mask.max() <= 1):
            raise UserError(
                f"regions[{number}].mask: got shape {mask.shape}, values {mask.min()} to "
                f"{mask.max()}. Legal: {tuple(size)}, 0 to 1."
            )
        cells = mask.reshape(latent[0], size[0] // latent[0], latent[1], size[1] // latent[1])
        masks.append(cells.mean(axis=(1, 3)))
    shares = np.stack(masks)
    shares = shares / np.maximum(shares.sum(axis=0), 1.0)
    whole = np.concatenate([1 - shares.sum(axis=0, keepdims=True), shares])
    return np.broadcast_to(whole.astype(np.float32), (count, *whole.shape))
