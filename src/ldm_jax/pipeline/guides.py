"""Guides: what else a run of sampling heads for, beside its prompts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, PyTree
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.pipeline.checks import is_whole
from ldm_jax.samplers.base import Predict
from ldm_jax.samplers.guidance import classifier_guided, loss_guided
from ldm_jax.tasks.latent_classifier import LatentClassifierTask


@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierGuide:
    """Steers towards classes by a classifier of noisy latents; `Pipeline.load_classifier` makes it.

        classifier = pipeline.load_classifier("runs/classifier")
        images = pipeline(num_images=2, **classifier.towards([3, 7], scale=2.0))

    Attributes:
      task: of the classifier.
      params: its parameters.
    """

    task: LatentClassifierTask
    params: PyTree

    def towards(self, classes: Any, scale: Any) -> dict[str, Any]:
        """Returns the arguments of a call that draws these classes, one per image.

        Args:
          classes: one per image.
          scale: strength, one per image or for all; 1 samples from p(z) p(class | z).
        """
        labels, limit = np.asarray(classes), self.task.model.num_classes
        for label in labels.reshape(-1):
            if not is_whole(label, 0, limit - 1):
                raise UserError(f"class {label}: legal is 0 to {limit - 1}.")
        labels = labels.astype(np.int32)
        strength = np.broadcast_to(np.asarray(scale, np.float32), labels.shape)
        inputs = {"class": labels, "scale": strength}
        return {"guide": self, "guide_inputs": inputs, "guide_params": self.params}

    def __call__(
        self,
        predict: Predict,
        decode: Callable[[Array], Array],
        inputs: PyTree,
        params: PyTree,
    ) -> Predict:
        """See `tasks.guided.Guide`."""
        del decode

        def log_prob(z: Array, t: Array) -> Array:
            return self.task.log_prob(params, z, t, inputs["class"])

        return classifier_guided(predict, log_prob, self.task.schedule, inputs["scale"])


@dataclasses.dataclass(frozen=True, eq=False)
class ImageGuide:
    """Steers towards images that make a loss small (Rombach et al. 2022, appendix C).

        upsample = ImageGuide(pipeline.task.schedule, lambda images, inputs: ...)  # [b]
        images = pipeline(..., guide=upsample, guide_inputs={"scale": [...], "low_res": ...})

    Keep the object: another one is compiled anew.

    Attributes:
      schedule: of the model.
      loss: (images [b, H, W, C] about [-1, 1], inputs) -> [b], the negative logarithm of how well
        the inputs fit the images.
    """

    schedule: Schedule
    loss: Callable[[Array, PyTree], Array]

    def __call__(
        self,
        predict: Predict,
        decode: Callable[[Array], Array],
        inputs: PyTree,
        params: PyTree,
    ) -> Predict:
        """See `tasks.guided.Guide`; `inputs['scale']` is the strength, [b]."""
        del params
        return loss_guided(
            predict, lambda x0: self.loss(decode(x0), inputs), self.schedule, inputs["scale"]
        )
