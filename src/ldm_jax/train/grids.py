"""The picture a run shows of itself, always of the same examples and seeds."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.types import PyTree
from ldm_jax.parallel.sharding import replicated
from ldm_jax.tasks.autoencoder import AutoencoderTask
from ldm_jax.tasks.base import Task, to_uint8_images
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train import assemble
from ldm_jax.train.sampling import make_sample_fn
from ldm_jax.train.state import TrainState


class Grid(NamedTuple):
    """A named drawing of the present state.

    Attributes:
      name: 'samples' or 'reconstructions'.
      columns: images per row; None makes the grid square.
      draw: (state, frozen) -> uint8 [n, H, W, C].
    """

    name: str
    columns: int | None
    draw: Callable[[TrainState, PyTree], np.ndarray]


def make_grid(
    config: ConfigDict, task: Task, source: Any, tokenizer: Any, mesh: Mesh
) -> Grid | None:
    """Returns what to draw for this task, or None if `config.sample.grid_images` is 0."""
    count = min(config.sample.grid_images, len(source))
    if count < 1:
        return None
    examples = assemble.build_examples(config, source, tokenizer, np.arange(count))
    if isinstance(task, LatentDiffusionTask):
        return _samples(config, task, examples, mesh)
    return _reconstructions(task, examples, mesh) if isinstance(task, AutoencoderTask) else None


def _samples(config: ConfigDict, task: LatentDiffusionTask, examples: dict, mesh: Mesh) -> Grid:
    draw = make_sample_fn(
        task,
        assemble.build_sample_settings(config, task),
        mesh,
        per_device_batch=config.sample.per_device_batch,
        check_finite=False,  # a picture is no reason to stop a run; its loss would be
    )
    inputs = {name: examples[name] for name in task.conditioner.inputs}
    indices = np.arange(len(examples["image"]))
    return Grid(
        "samples",
        None,
        lambda state, frozen: draw(state.ema_params, frozen, inputs, config.seed, indices),
    )


def _reconstructions(task: AutoencoderTask, examples: dict, mesh: Mesh) -> Grid:
    reconstruct = jax.jit(
        lambda params, images: to_uint8_images(task.reconstruct(params, {"image": images})),
        out_shardings=replicated(mesh),
    )
    images = examples["image"]

    def draw(state: TrainState, frozen: PyTree) -> np.ndarray:
        del frozen
        pairs = np.stack([images, np.asarray(reconstruct(state.ema_params, images))], axis=1)
        return pairs.reshape(-1, *images.shape[1:])

    return Grid("reconstructions", 8, draw)
