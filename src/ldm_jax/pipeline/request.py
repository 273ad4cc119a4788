"""What a caller asks for, checked and with a row for every image."""

import dataclasses
from typing import Any

import jax
import numpy as np

from ldm_jax.core.checks import UserError, check_range
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows

Inputs = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Request:
    """A run of sampling on the host; every array has a row per image.

    Attributes:
      inputs: of the conditioner, for the image's own prompt.
      regions: of the conditioner, for each further prompt.
      weights: [n, 1 + regions, h, w], or None without regions.
      negative: of the conditioner, to steer away from; None for the absent condition.
      toward: of the conditioner, the other end of an interpolation, and how far to go [n].
      scale: [n] of the guidance; None turns it off.
      interval: [n, 2] timesteps.
      rescale: [n].
      threshold: [n, 2].
      seeds: [n] uint32.
      indices: [n] int32, numbers of the images.
      variation: [n] uint32 other seeds, and how far to go [n].
      latents: [n, h, w, c] noise instead of that of the seeds.
      image: uint8 [n, H, W, C] to start from.
      mask: [n, H, W], 1 where the image is painted over.
      guide: inputs of `Options.guide`.
      keeps: whether the mask holds the latents; not with models that were trained to inpaint, which
        see what is known as their condition.
    """

    inputs: Inputs
    seeds: np.ndarray
    indices: np.ndarray
    regions: tuple[Inputs, ...] = ()
    weights: np.ndarray | None = None
    negative: Inputs | None = None
    toward: tuple[Inputs, np.ndarray] | None = None
    scale: np.ndarray | None = None
    interval: np.ndarray | None = None
    rescale: np.ndarray | None = None
    threshold: np.ndarray | None = None
    variation: tuple[np.ndarray, np.ndarray] | None = None
    latents: np.ndarray | None = None
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    guide: Any = None
    keeps: bool = True

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: np.ndarray) -> "Request":
        """Returns the request of some of the images."""
        fields = {x.name: getattr(self, x.name) for x in dataclasses.fields(self)}
        keeps = fields.pop("keeps")
        return Request(**jax.tree.map(lambda x: x[rows], fields), keeps=keeps)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a request is carried out.

    Attributes:
      levels: noise levels that are visited.
      rows: the sampler's table over them.
      image_shape: (H, W) in pixels.
      noisy: whether a given image is noised to the first level; inversion starts from it as it is.
      whole: whether all levels are visited, so that nothing of a masked part is kept.
    """

    levels: Levels
    rows: Rows
    image_shape: tuple[int, int]
    noisy: bool = True
    whole: bool = True


def numbers(what: str, value: Any, count: int, low: float, high: float) -> np.ndarray:
    """Returns float32 [count] of one number for all images, or of one for each.

    Raises:
      UserError: another count, or a number outside of [low, high].
    """
    found = np.asarray(value, np.float32)
    if found.ndim > 1 or found.size not in (1, count):
        raise UserError(f"{what}: got shape {found.shape} for {count} images. Legal: 1 or {count}.")
    for number in found.reshape(-1):
        if not np.isfinite(number):
            raise UserError(f"{what}={number}: legal is a finite number.")
        check_range(what, float(number), low, high)
    return np.broadcast_to(found.reshape(-1), (count,)).copy()
