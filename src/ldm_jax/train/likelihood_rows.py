"""What the variational bound of a model is on the rows of one device."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from ldm_jax.core.checks import UserError
from ldm_jax.core.rng import Purpose, example_keys, step_key
from ldm_jax.core.types import Array, Batch, PyTree
from ldm_jax.evaluation.likelihood import (
    Profile,
    bound_profile,
    discretized_log_probability,
    log_density,
    mean_square,
    posterior_entropy,
)
from ldm_jax.evaluation.rate_distortion import x0_errors
from ldm_jax.models.identity import IdentityFirstStage
from ldm_jax.models.posterior import DiagonalGaussian
from ldm_jax.samplers.base import Predict
from ldm_jax.samplers.constraints import on_x0
from ldm_jax.samplers.guidance import classifier_free
from ldm_jax.tasks.base import to_float_images
from ldm_jax.tasks.first_stage import Frozen
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask

PROFILE = tuple(Profile.__dataclass_fields__)


def of_pixels(task: LatentDiffusionTask) -> bool:
    """Returns whether the model diffuses images themselves."""
    return isinstance(task.first_stage.model, IdentityFirstStage)


def measure_rows(
    task: LatentDiffusionTask,
    params: PyTree,
    frozen: Frozen,
    batch: Batch,
    seed: Array,
    indices: Array,
    *,
    variance: str,
    clip_pixels: bool,
    decode_at: Sequence[int],
) -> dict[str, Array]:
    """Returns the fields of `Profile`, [b, …] each, and of latents what else there is.

    That is `entropy` [b] of a Gaussian posterior in bits per dimension; and with `decode_at`, in
    squared pixels of [-1, 1], `floor` [b], the error of the first stage, and `decoded` [b, S].

    Raises:
      UserError: `decode_at` without images.
    """
    stage = task.first_stage
    if "moments" in batch:
        moments = batch["moments"]
    else:
        moments = stage.moments(frozen.params, to_float_images(batch["image"]))
    # One sample of the posterior per image, as in training, so that the mean over images is right.
    keys = example_keys(step_key(seed, 0, Purpose.POSTERIOR), indices)
    z0 = stage.scaled(frozen, stage.sample_unscaled(moments, keys))
    conditioning = task.condition(params, frozen, batch)
    predict = classifier_free(task.denoiser(params), conditioning, None, 1.0)
    settings: dict[str, Any] = {"decoder": log_density}
    if of_pixels(task):
        settings = _in_pixels(task, frozen)
        if clip_pixels:
            predict = on_x0(predict, task.schedule, lambda z: _clipped(task, frozen, z))
    profile = bound_profile(
        predict, task.schedule, z0, seed, indices, variance=variance, **settings
    )
    found = {name: getattr(profile, name) for name in PROFILE}
    posterior = stage.model.posterior.from_moments(moments)
    if isinstance(posterior, DiagonalGaussian):
        found["entropy"] = posterior_entropy(posterior.logvar, frozen.latent_scale.scale)
    if decode_at:
        found |= _decoded(task, frozen, batch, predict, z0, seed, indices, decode_at)
    return found


def _in_pixels(task: LatentDiffusionTask, frozen: Frozen) -> dict[str, Any]:
    """Returns what `bound_profile` needs where z is an image, shifted and scaled.

    KL divergences do not change with the scale; only the last term has to know the levels.
    """
    stage, scale = task.first_stage, frozen.latent_scale.scale

    def decoder(z0: Array, mean: Array, log_variance: Array) -> Array:
        x0, mean = stage.decode(frozen, z0), stage.decode(frozen, mean)
        log_scale = jnp.log(scale)[None, None, None, :]
        return discretized_log_probability(x0, mean, log_variance - 2 * log_scale)

    def x0_error(z0: Array, z0_hat: Array) -> Array:
        return mean_square(stage.decode(frozen, z0), stage.decode(frozen, z0_hat))

    return {"decoder": decoder, "x0_error": x0_error}


def _clipped(task: LatentDiffusionTask, frozen: Frozen, z: Array) -> Array:
    x = task.first_stage.decode(frozen, z)
    return task.first_stage.scaled(frozen, jnp.clip(x, -1.0, 1.0))


def _decoded(
    task: LatentDiffusionTask,
    frozen: Frozen,
    batch: Batch,
    predict: Predict,
    z0: Array,
    seed: Array,
    indices: Array,
    decode_at: Sequence[int],
) -> dict[str, Array]:
    if "image" not in batch:
        raise UserError(
            "likelihood decode_at: the data are moments of latents, without the images to hold "
            "decoded ones against. Legal: none, or data without config.data.latent_cache."
        )
    images = to_float_images(batch["image"])

    def error(z: Array) -> Array:
        return mean_square(images, jnp.clip(task.first_stage.decode(frozen, z), -1.0, 1.0))

    decoded = x0_errors(predict, task.schedule, z0, seed, indices, decode_at, error)
    return {"floor": error(z0), "decoded": decoded}
