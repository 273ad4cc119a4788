"""The variational bound of a trained model on real images, as an evaluation keeps it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from ldm_jax.core.types import PyTree
from ldm_jax.models.posterior import DiagonalGaussian
from ldm_jax.parallel.mesh import batch_shards
from ldm_jax.tasks.first_stage import Frozen
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.feature_readers import Reader
from ldm_jax.train.likelihood import Likelihood, make_profiles, summarize, usual_variance
from ldm_jax.train.reference_set import ReferenceSet


class Bound(NamedTuple):
    """What measures the bound of images by their numbers.

    Attributes:
      reader: of the terms of each image.
      draw: numbers [n] -> real images, and what conditions them.
      at_once: the images of one run of the program.
      summarize: terms by name, a row an image -> what they say.
    """

    reader: Reader
    draw: Callable[[np.ndarray], dict[str, np.ndarray]]
    at_once: int
    summarize: Callable[[Mapping[str, np.ndarray]], Likelihood]


def open_bound(
    task: LatentDiffusionTask,
    params: PyTree,
    frozen: Frozen,
    images: ReferenceSet,
    seed: int,
    per_device_batch: int,
    mesh: Mesh,
    about: Mapping[str, Any],
) -> Bound:
    """Returns the measurement of a model on images with their own conditions.

    Args:
      task: of the model.
      params: of the model.
      frozen: likewise.
      images: real ones, preferably held out.
      seed: of the noise, one draw of z_t for every t.
      per_device_batch: images at once on a device.
      mesh: of the devices.
      about: what tells the model from others, as JSON.
    """
    entries, limits = task.condition_entries, task.input_limits()
    profiles = make_profiles(task, mesh, per_device_batch=per_device_batch)
    variance = usual_variance(task)

    def draw(numbers: np.ndarray) -> dict[str, np.ndarray]:
        if not entries:
            return {"image": images.images(numbers)}
        batch = images.conditions(numbers, entries, limits)
        return {name: batch[name] for name in dict.fromkeys(("image", *entries))}

    def read(numbers: np.ndarray, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        def load(chosen: np.ndarray) -> dict[str, np.ndarray]:
            places = np.searchsorted(numbers, chosen)
            return {name: rows[places] for name, rows in batch.items()}

        return profiles(params, frozen, load, numbers, seed)

    steps = (task.schedule.num_timesteps,)
    shapes: dict[str, tuple[int, ...]] = {"prior": ()}
    shapes |= dict.fromkeys(("terms", "x0_mse", "eps_mse"), steps)
    if issubclass(task.first_stage.model.posterior, DiagonalGaussian):
        shapes["entropy"] = ()
    reader = Reader({**about, "seed": seed, "variance": variance}, shapes, read)
    at_once = per_device_batch * batch_shards(mesh)
    return Bound(reader, draw, at_once, lambda found: summarize(task, found, variance))


def write_profile(path: Path, found: Likelihood) -> None:
    """Writes the bound by timestep, and the curve of rate and distortion, as arrays [T] each."""
    arrays: dict[str, Any] = {
        "prior": np.asarray(found.prior),
        "terms": found.terms,
        "x0_mse": found.x0_mse,
        "eps_mse": found.eps_mse,
        "rate": found.curve.rate,
        "distortion": found.curve.distortion,
        "bits": found.bits,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    part.replace(path)
