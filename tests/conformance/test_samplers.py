"""Every sampler with every spacing; a new registry line is tested without touching this file."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.parameterization import from_eps
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import SPACINGS, make_steps
from ldm_jax.samplers import SAMPLERS
from ldm_jax.samplers.base import image_keys, initial_noise, sample, sample_chunk

SCHEDULE = make_schedule(num_timesteps=100, start=0.015, end=0.195)
SHAPE = (4, 4, 2)
NUM_STEPS = 10
VARIANTS = [*[(name, ()) for name in SAMPLERS], ("ddim", (("eta", 1.0),))]
IDS = ["-".join([name, *[f"{k}={v}" for k, v in kwargs]]) for name, kwargs in VARIANTS]


def _predict(z, t):
    """A network without weights: nonlinear, mixes pixels of one image, depends on t."""
    mixed = z + 0.3 * jnp.roll(z, 1, axis=1) + 0.001 * t[:, None, None, None]
    return from_eps(jnp.tanh(mixed), z, alpha_bar_at(SCHEDULE, t))


@functools.cache
def _compiled(name, kwargs):
    """Returns (jitted run, list that grows by one per trace)."""
    sampler, traces = SAMPLERS[name](**dict(kwargs)), []

    @jax.jit
    def run(z_T, steps, keys):
        traces.append(z_T.shape)
        return sample(sampler, _predict, z_T, steps, keys)

    return run, traces


def _inputs(seed, indices):
    return _draw(seed, jnp.asarray(indices, jnp.int32))


@jax.jit
def _draw(seed, indices):
    return initial_noise(seed, indices, SHAPE), image_keys(seed, indices)


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_shape_dtype_finite_and_deterministic_without_retrace(variant, spacing):
    run, traces = _compiled(*variant)
    steps = make_steps(SCHEDULE, NUM_STEPS, spacing)
    z_T, keys = _inputs(0, range(4))
    z_0 = run(z_T, steps, keys)
    assert z_0.shape == z_T.shape
    assert z_0.dtype == jnp.float32
    assert np.all(np.isfinite(z_0))
    np.testing.assert_array_equal(run(z_T, steps, keys), z_0)
    other = _inputs(1, range(4, 8))
    assert not np.array_equal(run(other[0], steps, other[1]), z_0)
    # All spacings have NUM_STEPS rows here, so that one program serves them all.
    assert traces.count(z_T.shape) == 1


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_an_image_is_the_same_in_every_batch(variant):
    run, _ = _compiled(*variant)
    steps = make_steps(SCHEDULE, NUM_STEPS)
    z_T, keys = _inputs(3, range(4))
    whole = run(z_T, steps, keys)
    for k in range(4):
        z_T, keys = _inputs(3, [k])
        alone = run(z_T, steps, keys)
        # The network's sums may be taken in another order in another program.
        np.testing.assert_allclose(alone[0], whole[k], rtol=1e-5, atol=1e-6)


def test_the_noise_of_an_image_is_bit_equal_in_every_batch():
    @jax.jit
    def noise(keys, index):
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
        return jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys)

    z_8, keys_8 = _inputs(3, range(8))
    for indices in ([0, 1, 2, 3], [4, 5, 6, 7], [5]):
        z, keys = _inputs(3, indices)
        rows = jnp.asarray(indices)
        np.testing.assert_array_equal(z, z_8[rows])
        np.testing.assert_array_equal(jax.random.key_data(keys), jax.random.key_data(keys_8)[rows])
        np.testing.assert_array_equal(noise(keys, 6), noise(keys_8, 6)[rows])


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_chunks_equal_the_whole_bit_for_bit(variant):
    name, kwargs = variant
    sampler = SAMPLERS[name](**dict(kwargs))
    steps = make_steps(SCHEDULE, NUM_STEPS)
    z_T, keys = _inputs(5, range(4))
    whole = _compiled(*variant)[0](z_T, steps, keys)
    chunk = jax.jit(lambda carry, rows: sample_chunk(sampler, _predict, carry, rows, keys))
    carry = (z_T, sampler.init(z_T))
    for start, stop in ((0, 4), (4, 8), (8, 9), (9, 10)):
        carry = chunk(carry, jax.tree.map(lambda x: x[start:stop], steps))  # noqa: B023
    np.testing.assert_array_equal(carry[0], whole)
