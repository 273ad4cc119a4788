"""Images of a trained model, as studies draw them."""

import time
from typing import Any

import numpy as np

from ldm_jax.parallel.mesh import batch_shards
from ldm_jax.pipeline import Pipeline

_SEED = 10_000  # which has nothing to do with the training's
_DDIM = {"name": "ddim", "eta": 0.0}


def draw(pipeline: Pipeline, count: int, **arguments: Any) -> np.ndarray:
    """Returns `count` images, by DDIM with eta 0; of models with classes, those of `classes_of`.

    Args:
      pipeline: the model.
      count: of images.
      **arguments: see `pipeline.arguments.Arguments`.
    """
    classes = classes_of(pipeline, count)
    chosen = {"num_images": count} if classes is None else {"classes": classes.tolist()}
    return pipeline(**{**chosen, "seed": _SEED, "sampler": _DDIM, **arguments})


def classes_of(pipeline: Pipeline, count: int) -> np.ndarray | None:
    """Returns as many images of each class as can be, [count]; None for models without classes."""
    conditioner = pipeline.config.task.conditioner
    if "num_classes" not in conditioner or "class" not in pipeline.task.inputs:
        return None
    return np.arange(count) % conditioner.num_classes


def draw_timed(pipeline: Pipeline, count: int, **arguments: Any) -> tuple[np.ndarray, float]:
    """Returns what `draw` does, and how many seconds it took, compilation not counted."""
    most = pipeline.config.sample.per_device_batch * batch_shards(pipeline.mesh)
    draw(pipeline, min(most, count), **arguments)  # compiles
    began = time.monotonic()
    images = draw(pipeline, count, **arguments)
    return images, time.monotonic() - began
