"""What is looked at, and what looking at it gives."""

import dataclasses
import functools
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.models.identity import IdentityFirstStage
from ldm_jax.pipeline import Generation, Pipeline


class View(NamedTuple):
    """A picture, and what there is to say beside it.

    Attributes:
      picture: uint8 [H, W, 3].
      lines: of text.
    """

    picture: np.ndarray
    lines: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and one of its images, or several.

    Attributes:
      pipeline: the model.
      prompts: texts, if the model reads text; image k is of text k, the first one is looked at.
      classes: class numbers, likewise.
      num_images: samples whose neighbours are searched, of a single prompt or class.
      seed: of the samples, and of the noise of the forward process.
      image: uint8 [H, W, C] to look at; None for a sample.
      frames: noise levels in a strip.
      features: a .npz file that neighbours are searched in; None for pixels.
    """

    pipeline: Pipeline
    prompts: list[str] | None = None
    classes: list[int] | None = None
    num_images: int | None = None
    seed: int = 0
    image: np.ndarray | None = None
    frames: int = 8
    features: str | None = None

    @property
    def has_latents(self) -> bool:
        """Whether the model diffuses latents, and not pixels."""
        return not isinstance(self.pipeline.task.first_stage.model, IdentityFirstStage)

    def start(self) -> Generation:
        """Returns the run that makes image 0, not begun."""
        first: dict[str, Any] = {"seed": self.seed}
        if self.classes:
            first["classes"] = self.classes[:1]
        return self.pipeline.start(self.prompts[:1] if self.prompts else None, **first)

    def samples(self) -> np.ndarray:
        """Returns all samples that are asked for, uint8 [n, H, W, C]."""
        more: dict[str, Any] = {"seed": self.seed, "num_images": self.num_images}
        return self.pipeline(self.prompts, classes=self.classes, **more)

    @functools.cached_property
    def shown(self) -> tuple[np.ndarray, str]:
        """The image that is looked at, uint8 [H, W, C], and what it is."""
        if self.image is not None:
            return self.image, "given image"
        return self.start().images()[0], f"sample of seed {self.seed}"
