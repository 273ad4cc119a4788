"""The picture a run shows of itself, always of the same examples and seeds."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.types import Array, PyTree
from ldm_jax.evaluation.reconstruction import difference
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.sharding import replicated
from ldm_jax.tasks.autoencoder import FirstStageTask
from ldm_jax.tasks.base import Task, to_uint8_images
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.cache_key import cached_routes
from ldm_jax.train.sampling import make_sample_fn
from ldm_jax.train.state import TrainState

_TRIPLES_PER_ROW = 3  # of input, reconstruction and difference


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
    """Returns what to draw for this task, or None if `config.sample.grid_images` is 0.

    Args:
      config: of the run.
      task: of the run.
      source: whose first examples are drawn; held-out ones show more.
      tokenizer: of the captions, if any.
      mesh: of the run.
    """
    count = min(config.sample.grid_images, len(source))
    if count < 1:
        return None
    entries: tuple[str, ...] = ()
    if isinstance(task, LatentDiffusionTask):
        entries = cached_routes(config) or task.condition_entries
    seen = "moments" if "moments" in source[0] else "image"
    keys = tuple(dict.fromkeys((seen, *entries)))
    limits = task.input_limits() if isinstance(task, LatentDiffusionTask) else None
    examples = assemble_data.build_examples(
        config, source, tokenizer, np.arange(count), keys, limits
    )
    if isinstance(task, LatentDiffusionTask):
        inputs = {name: examples[name] for name in entries}
        return _samples(config, task, inputs, count, mesh)
    return _reconstructions(task, examples, mesh) if isinstance(task, FirstStageTask) else None


def _samples(
    config: ConfigDict, task: LatentDiffusionTask, inputs: dict, count: int, mesh: Mesh
) -> Grid:
    draw = make_sample_fn(
        task,
        assemble.build_sample_settings(config, task),
        mesh,
        per_device_batch=config.sample.per_device_batch,
        finite=False,  # a picture is no reason to stop a run; its loss would be
    )
    indices = np.arange(count)
    return Grid(
        "samples",
        None,
        lambda state, frozen: draw(state.ema_params, frozen, inputs, config.seed, indices),
    )


def _reconstructions(task: FirstStageTask, examples: dict, mesh: Mesh) -> Grid:
    images = examples["image"]

    @functools.partial(
        jax.jit, out_shardings=replicated(mesh), compiler_options=compiler_options(mesh)
    )
    def triples(params: PyTree, images: Array) -> Array:
        found = to_uint8_images(task.reconstruct(params, {"image": images}))
        return jnp.stack([images, found, difference(images, found)], axis=1)

    def draw(state: TrainState, frozen: PyTree) -> np.ndarray:
        del frozen
        return np.asarray(triples(state.ema_params, images)).reshape(-1, *images.shape[1:])

    return Grid("reconstructions", 3 * _TRIPLES_PER_ROW, draw)
