"""The arguments of a run of sampling."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from ldm_jax.core.types import PyTree
from ldm_jax.pipeline.regions import Region
from ldm_jax.tasks.guided import Guide

PerImage = float | Sequence[float] | np.ndarray


class Arguments(TypedDict, total=False):
    """What `Pipeline(...)`, `start` and `stream` take beside prompts, all of it optional.

    What is drawn:
      classes: a class number, or one per image, for models that read a class.
      conditions: for models that read something else, such as low-resolution images or, under
        'image', those to be varied: the conditioner's inputs by name, a row per image, or one for
        all. Models that inpaint take `image` and `mask` here too, and mean the same.
      num_images: for unconditional models; otherwise repeats a single prompt, class or condition.
      negative: text or class to steer away from, one or one per image, instead of the absent
        condition.
      regions: further prompts for parts of the image.
      toward: text or class at the other end of an interpolation, one or one per image.
      toward_weight: how far to go there on a great circle, in [0, 1].
      image_shape: (H, W) in pixels, by default the image's or the training size.

    Noise:
      seed: a number, or one per image.
      first_index: number of the first image; image k draws from (seed, first_index + k).
      variation_seed: other noise to go towards, a number or one per image.
      variation_weight: how far, on a great circle, in [0, 1].
      latents: [n, h, w, c] standard normal noise to start from, instead of the seed's.

    Sampler; what is not given is that of `config.sample`:
      sampler: name, or a mapping with `name` and its options.
      steps: of the sampler.
      spacing: of the steps, one of `diffusion.spacing.SPACINGS`.
      guidance_scale: 1 for all images turns guidance off.
      guidance_interval: (first, last) timestep with guidance, from clean to noisy.
      guidance_rescale: phi in [0, 1], see `samplers.guidance.restore_deviation`.
      threshold: (percentile, limit), see `samplers.constraints.dynamic_threshold`.
      quantize: the predicted x0 goes through the first stage's codebook at every row; VQ only.
      guide: further guidance, see `tasks.guided.Options`.
      guide_inputs: of the guide, a row per image.
      guide_params: of the guide, such as a classifier's parameters.

    Editing:
      image: uint8 [H, W, C] or several, to start from.
      strength: how much of the image is drawn anew, in (0, 1]; by default 0.75, with a mask 1.
      mask: [H, W] or several, 1 where the image is painted over; bool, uint8 of 0 to 255 or of 0
        and 1, or floats in [0, 1]. Where it is 0 pixels come out as they are.
      resample: RePaint's, for masks: how often each piece of the run is taken.
      jump: steps of such a piece.

    Large images:
      window: (H, W) in pixels of overlapping windows that are denoised one by one.
      overlap: of neighbouring windows in pixels, by default a quarter of the smaller edge.
      tile: edge in pixels of windows that are encoded and decoded one by one.

    Result:
      output: 'uint8', or 'float32' for values about [-1, 1] that are not clipped.
    """

    classes: int | Sequence[int] | None
    conditions: Mapping[str, np.ndarray] | None
    num_images: int | None
    negative: str | int | Sequence[str] | Sequence[int] | None
    regions: Sequence[Region]
    toward: str | int | Sequence[str] | Sequence[int] | None
    toward_weight: PerImage
    image_shape: tuple[int, int] | None
    seed: int | Sequence[int]
    first_index: int
    variation_seed: int | Sequence[int] | None
    variation_weight: PerImage
    latents: np.ndarray | None
    sampler: str | Mapping[str, Any] | None
    steps: int | None
    spacing: str | None
    guidance_scale: PerImage | None
    guidance_interval: tuple[float, float] | None
    guidance_rescale: PerImage | None
    threshold: tuple[float, float] | None
    quantize: bool
    guide: Guide | None
    guide_inputs: PyTree
    guide_params: PyTree
    image: np.ndarray | None
    strength: float | None
    mask: np.ndarray | None
    resample: int
    jump: int
    window: tuple[int, int] | None
    overlap: int | None
    tile: int | None
    output: str


# What may change between two rows of a run.
STEERING = (
    *("classes", "conditions", "negative", "regions", "toward", "toward_weight", "image", "mask"),
    *("guidance_scale", "guidance_interval", "guidance_rescale", "threshold", "guide_inputs"),
)
