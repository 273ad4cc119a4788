"""What the forward process makes of an image."""

import jax.numpy as jnp
import numpy as np

from ldm_jax.core.rng import Purpose, example_keys, normal, step_key
from ldm_jax.core.types import Array
from ldm_jax.diffusion.process import q_sample
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.inspection.latents import channel_rows
from ldm_jax.inspection.sheet import Cell, sheet
from ldm_jax.inspection.view import Subject, View


def noised_latents(schedule: Schedule, z0: Array, timesteps: Array, seed: int) -> Array:
    """Returns z_t ~ q(z_t | z_0) at every timestep, [k, h, w, c], all of the same noise.

    The noise is that of example 0 at step 0 of a training run with this seed.

    Args:
      schedule: of the model.
      z0: [h, w, c], clean.
      timesteps: [k] int32.
      seed: of the noise.
    """
    key = step_key(jnp.uint32(seed), 0, Purpose.NOISE)
    eps = normal(example_keys(key, jnp.zeros(1, jnp.int32)), z0.shape)
    whole = (len(timesteps), *z0.shape)
    z0, eps = jnp.broadcast_to(z0[None], whole), jnp.broadcast_to(eps, whole)
    return q_sample(schedule, z0, jnp.asarray(timesteps), eps)


def spread(total: int, count: int) -> list[int]:
    """Returns `count` whole numbers from 0 to total - 1, evenly spread, fewer if there are fewer.

    The first and the last are among them, unless a single one is asked for: that is the last.
    """
    first = 0 if count > 1 else total - 1
    return sorted({round(float(x)) for x in np.linspace(first, total - 1, count)})


def noising_view(subject: Subject) -> View:
    """Returns z_t at evenly spread t, decoded, and the channels of latents below."""
    pipeline = subject.pipeline
    schedule = pipeline.task.schedule
    image, origin = subject.shown
    z0 = pipeline.encode(image)
    timesteps = np.asarray(spread(schedule.num_timesteps, subject.frames), np.int32)
    z_t = noised_latents(schedule, jnp.asarray(z0[0]), jnp.asarray(timesteps), subject.seed)
    z = np.concatenate([z0, np.asarray(z_t)])
    labels = ("clean", *(f"t = {t}" for t in timesteps))
    images = pipeline.decode(z)
    rows = [[Cell(x, label) for x, label in zip(images, labels, strict=True)]]
    said = f"x_t of q(x_t | x_0), {origin}, noise of seed {subject.seed}"
    if subject.has_latents:
        maps, (low, high) = channel_rows(z, labels)
        rows, said = [*rows, *maps], f"{said}; latent: black {low:.2f}, white {high:.2f}"
    return View(sheet([said], rows), (said,))
