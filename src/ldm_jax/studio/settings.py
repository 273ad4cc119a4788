"""All that a person can set, and the arguments of a run that it stands for."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError, check_in, check_range
from ldm_jax.pipeline import Pipeline
from ldm_jax.pipeline.painted import MAX_PROMPT, PaintedRegion, check_region
from ldm_jax.samplers import SAMPLERS
from ldm_jax.studio.reading import (
    ARRAY,
    CLASS,
    IMAGE,
    LAYOUT,
    MAP,
    MASKED,
    TEXT,
    Reading,
    image_condition,
    painted_condition,
)
from ldm_jax.train.assemble import size_multiple

MAX_STEPS = 250
MAX_GUIDANCE = 30.0
# What may change between two rows of a run.
STEERED = ("prompt", "negative", "label", "guidance", "regions", "mask", "read")


@dataclasses.dataclass(frozen=True, eq=False)
class Settings:
    """What a run is made of.

    Attributes:
      prompt: text, for models that read text.
      negative: text to steer away from; empty for none.
      label: class number, for models that read a class.
      sampler: name.
      steps: of the sampler.
      guidance: scale; 1 turns it off.
      seed: of the noise.
      size: (H, W) in pixels.
      num_images: drawn at once.
      regions: painted parts, with prompts of their own.
      image: uint8 [H, W, C] to start from, or None.
      mask: uint8 [H, W], 255 where the image is painted over, or None.
      strength: how much of the image is drawn anew, in (0, 1].
      read: an image or array that the conditioner reads, or None.
    """

    prompt: str = ""
    negative: str = ""
    label: int = 0
    sampler: str = "ddim"
    steps: int = 50
    guidance: float = 1.0
    seed: int = 0
    size: tuple[int, int] = (256, 256)
    num_images: int = 1
    regions: tuple[PaintedRegion, ...] = ()
    image: np.ndarray | None = None
    mask: np.ndarray | None = None
    strength: float = 0.75
    read: np.ndarray | None = None

    def changed(self, other: "Settings", names: tuple[str, ...] = STEERED) -> tuple[str, ...]:
        """Returns the names of what differs from other settings."""
        return tuple(x for x in names if _identity(self, x) != _identity(other, x))


def first_settings(pipeline: Pipeline) -> Settings:
    """Returns what a model's own configuration says, for a page that is opened."""
    sample = pipeline.config.sample
    edge = pipeline.task.image_size
    return Settings(
        sampler=sample.sampler.name,
        steps=min(sample.steps, MAX_STEPS),
        guidance=float(sample.guidance_scale),
        size=(edge, edge),
    )


def legal_sizes(pipeline: Pipeline) -> list[int]:
    """Returns edges in pixels that the model can draw, from half to twice the training size."""
    edge, unit = pipeline.task.image_size, size_multiple(pipeline.task)
    stride = unit * max(1, edge // (8 * unit))
    return sorted({edge, *range(max(unit, edge // 2 // unit * unit), 2 * edge + 1, stride)})


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much one run may ask for.

    Attributes:
      images: drawn at once.
      side: of the image, in pixels.
    """

    images: int = 4
    side: int = 1024

    def check(self, settings: Settings) -> None:
        """Raises UserError for settings that ask for more."""
        check_range("images", settings.num_images, 1, self.images)
        for edge in settings.size:
            if not 1 <= edge <= self.side:
                raise UserError(f"size: got {edge} pixels. Legal: up to {self.side}.")


def check_settings(settings: Settings, reading: Reading) -> Settings:
    """Returns the settings.

    Raises:
      UserError: one that is not legal; what the pipeline checks itself is left to it.
    """
    for name in ("prompt", "negative"):
        if len(getattr(settings, name)) > MAX_PROMPT:
            raise UserError(f"{name}: legal are up to {MAX_PROMPT:,} characters.")
    if reading.kind == TEXT and not settings.prompt.strip():
        raise UserError("prompt: is empty. Legal: a few words on what to draw.")
    if reading.kind == CLASS:
        check_range("class", settings.label, 0, reading.classes - 1)
    check_in("sampler", settings.sampler, SAMPLERS)
    check_range("steps", settings.steps, 1, MAX_STEPS)
    check_range("guidance", settings.guidance, -MAX_GUIDANCE, MAX_GUIDANCE)
    check_range("seed", settings.seed, 0, 2**32 - 1)
    if len(settings.regions) > reading.most:
        raise UserError(f"regions: got {len(settings.regions)}. Legal: up to {reading.most}.")
    for number, region in enumerate(settings.regions):
        check_region(f"region {number + 1}", region)
        if reading.kind == TEXT and not isinstance(region.prompt, str):
            raise UserError(f"region {number + 1}: this model reads text.")
        if reading.kind == CLASS and isinstance(region.prompt, str):
            raise UserError(f"region {number + 1}: legal is a class, 0 to {reading.classes - 1}.")
    if settings.mask is not None and settings.image is None:
        raise UserError("mask: has no effect without an image.")
    return settings


def arguments(settings: Settings, pipeline: Pipeline, reading: Reading) -> dict[str, Any]:
    """Returns the arguments of `Pipeline.start`, prompts among them."""
    found: dict[str, Any] = {
        **steering(settings, pipeline, reading),
        "sampler": settings.sampler,
        "steps": settings.steps,
        "seed": settings.seed,
        "image_shape": settings.size,
        "num_images": settings.num_images,
    }
    if settings.image is not None:
        found["image"] = settings.image
        if reading.kind != MASKED:
            found["strength"] = settings.strength
    return found


def steering(settings: Settings, pipeline: Pipeline, reading: Reading) -> dict[str, Any]:
    """Returns the arguments among them that a run takes at any row, see `Generation.change`."""
    found: dict[str, Any] = {"guidance_scale": settings.guidance}
    if reading.kind == TEXT:
        found["prompts"] = settings.prompt
        # Without guidance there is nothing to steer away from.
        found["negative"] = (settings.negative.strip() or None) if settings.guidance != 1 else None
    if reading.kind == CLASS:
        found["classes"] = settings.label
    if reading.paints_regions:
        found["regions"] = tuple(region.region() for region in settings.regions)
    if reading.kind in (MAP, LAYOUT):
        found["conditions"] = painted_condition(reading, pipeline, settings.regions, settings.size)
    if reading.kind in (IMAGE, ARRAY):
        found["conditions"] = _read(settings, reading)
    if reading.kind == MASKED and settings.mask is None:
        raise UserError("mask: this model paints what is hidden. Legal: an image, and brush on it.")
    if settings.mask is not None:
        found["mask"] = settings.mask.astype(np.float32) / 255
    return found


def _read(settings: Settings, reading: Reading) -> Mapping[str, np.ndarray]:
    if settings.read is None:
        raise UserError(f"{reading.name}: this model reads it. Legal: a file of it.")
    if reading.kind == IMAGE:
        return image_condition(reading, settings.read)
    return {reading.name: settings.read}


def _identity(settings: Settings, name: str) -> Any:
    value = getattr(settings, name)
    if isinstance(value, np.ndarray):
        return _digest(value)
    if name == "regions":
        return [(r.prompt, r.weight, r.feather, _digest(r.mask)) for r in value]
    return value


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
