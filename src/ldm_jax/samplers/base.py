"""The contract of samplers, and the one loop that runs them all.

A sampler is a pair of pure functions, as an optax transformation is. It sees the network only
through `predict(z, t) -> Prediction`, so guidance, clipping or masks are wrappers of `predict`
and know nothing of samplers. Its randomness comes from one key per image and step: image k of a
run depends on (seed, k), not on the batch that it is drawn in.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ldm_jax.core import rng
from ldm_jax.core.types import Array
from ldm_jax.diffusion.parameterization import Prediction
from ldm_jax.diffusion.spacing import Steps

Predict = Callable[[Array, Array], Prediction]
Carry = tuple[Array, Any]


class Sampler(NamedTuple):
    """How to get from one noise level to the next.

    Attributes:
      init: z_T -> state, the history of multistep methods; () otherwise.
      update: (state, z, prediction, step, keys) -> (z, state). `step` is one row of Steps, all
        scalars; `keys` are [b] typed keys of this step.
    """

    init: Callable[[Array], Any]
    update: Callable[[Any, Array, Prediction, Steps, Array], tuple[Array, Any]]


def sample_chunk(
    sampler: Sampler, predict: Predict, carry: Carry, steps: Steps, keys: Array
) -> Carry:
    """Returns the carry (z, state) after all rows of `steps`, by one `lax.scan`.

    Running the rows in pieces gives the same result, to show progress or to bound the time of
    one device call. Start with `(z_T, sampler.init(z_T))`.

    Args:
      sampler: one of SAMPLERS, built.
      predict: (z [b, ...], t [b] float32) -> Prediction.
      carry: (z, state) after the rows before.
      steps: rows of `make_steps`, or a slice of them with its own `index`.
      keys: [b] typed keys of the whole run; see `image_keys`.
    """

    def body(carry: Carry, step: Steps) -> tuple[Carry, None]:
        z, state = carry
        prediction = predict(z, jnp.full(z.shape[:1], step.t, jnp.float32))
        step_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, step.index)
        return sampler.update(state, z, prediction, step, step_keys), None

    return jax.lax.scan(body, carry, steps)[0]


def sample(sampler: Sampler, predict: Predict, z_T: Array, steps: Steps, keys: Array) -> Array:
    """Returns z_0, shaped like `z_T`, after one model evaluation per row of `steps`.

    Args:
      sampler: one of SAMPLERS, built.
      predict: (z [b, ...], t [b] float32) -> Prediction.
      z_T: [b, ...] float32 noise; see `initial_noise`.
      steps: the rows of `make_steps`.
      keys: [b] typed keys; see `image_keys`.
    """
    z, _ = sample_chunk(sampler, predict, (z_T, sampler.init(z_T)), steps, keys)
    return z


def initial_noise(seed: int | Array, indices: Array, shape: Sequence[int]) -> Array:
    """Returns standard normal z_T, [b, *shape] float32; row k depends on (seed, indices[k]) alone.

    Args:
      seed: the run's seed.
      indices: [b] int32, the global numbers of the images.
      shape: of one latent, such as (h, w, c).
    """
    key = rng.step_key(seed, 0, rng.Purpose.SAMPLE_INIT)
    return rng.normal(rng.example_keys(key, indices), shape)


def image_keys(seed: int | Array, indices: Array) -> Array:
    """Returns the keys of the noise that samplers add, [b] typed, from global image numbers [b]."""
    return rng.example_keys(rng.step_key(seed, 0, rng.Purpose.SAMPLE_STEP), indices)
