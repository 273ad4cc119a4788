"""What predicted clean latents are held to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.parameterization import from_eps
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.samplers import SAMPLERS
from ldm_jax.samplers.base import advance, image_keys, initial_noise, initial_state, padded, sample
from ldm_jax.samplers.constraints import dynamic_threshold, keep_known, on_x0

RNG = np.random.default_rng(0)
SCHEDULE = make_schedule(num_timesteps=100)
SHAPE = (2, 4, 4, 3)
KNOWN = RNG.normal(size=SHAPE).astype(np.float32)
MASK = (RNG.uniform(size=(2, 4, 4, 1)) < 0.5).astype(np.float32)
INDICES = jnp.arange(2)


def _predict(z, t):
    """A network that is wrong everywhere, and not linear."""
    return from_eps(jnp.sin(z), z, alpha_bar_at(SCHEDULE, t))


def test_eps_follows_the_changed_x0():
    z, t = RNG.normal(size=SHAPE).astype(np.float32), jnp.array([3.0, 90.0])
    found = jax.jit(on_x0(_predict, SCHEDULE, lambda x0: jnp.clip(x0, -0.5, 0.5)))(z, t)
    alpha_bar = np.asarray(SCHEDULE.alpha_bar, np.float64)[[3, 90]].reshape(2, 1, 1, 1)
    signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    x0 = np.clip((z - noise * np.sin(z)) / signal, -0.5, 0.5)
    np.testing.assert_allclose(found.x0, x0, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(signal * found.x0 + noise * found.eps, z, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def filled_in():
    """Draws with any table, through one compiled program."""
    predict = on_x0(_predict, SCHEDULE, keep_known(KNOWN, MASK))

    @jax.jit
    def draw(rows, stop):
        state = initial_state(initial_noise(3, INDICES, SHAPE[1:]))
        return advance(predict, state, rows, image_keys(3, INDICES), 0, stop).z

    return lambda rows: draw(jax.tree.map(np.float32, padded(rows, 64)), len(rows))


# Their last steps mix several predictions, all of which are `known`; lcm keeps 1e-6 of z.
ROUNDING = {"plms": 1e-6, "lms": 1e-6, "lcm": 1e-4}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_known_part_ends_at_what_is_known(filled_in, name):
    z = np.asarray(filled_in(SAMPLERS[name](make_levels(SCHEDULE, 6))))
    mask = np.broadcast_to(MASK, SHAPE) == 1
    np.testing.assert_allclose(z[mask], KNOWN[mask], rtol=0, atol=ROUNDING.get(name, 0))
    assert np.abs(z[~mask] - KNOWN[~mask]).min() > 0
    assert np.isfinite(z).all()


def test_half_a_mask_is_a_mixture():
    x0 = RNG.normal(size=SHAPE).astype(np.float32)
    found = keep_known(KNOWN, np.full((2, 4, 4, 1), 0.25, np.float32))(x0)
    np.testing.assert_allclose(found, 0.25 * KNOWN + 0.75 * x0, rtol=1e-6)


def test_the_known_part_is_noised_as_in_training():
    # DDIM: z = signal x0 + noise eps with the eps of the start, at every level.
    levels = make_levels(SCHEDULE, 5)
    z_T = initial_noise(3, INDICES, SHAPE[1:])
    predict = on_x0(_predict, SCHEDULE, keep_known(KNOWN, np.ones((2, 4, 4, 1), np.float32)))
    rows = SAMPLERS["ddim"](levels)
    eps = (np.asarray(z_T) - levels.signal[0] * KNOWN) / levels.noise[0]
    for k in range(1, 5):
        first = jax.tree.map(lambda x, k=k: x[:k], rows)
        z = sample(predict, z_T, first, image_keys(3, INDICES))
        np.testing.assert_allclose(
            z, levels.signal[k] * KNOWN + levels.noise[k] * eps, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("limit", [1.0, np.array([0.5, 2.0], np.float32)])
@pytest.mark.parametrize("percentile", [90.0, np.array([50.0, 99.5], np.float32)])
def test_dynamic_threshold_is_per_image(percentile, limit):
    x0 = RNG.normal(size=SHAPE).astype(np.float32) * np.array([3.0, 1.0]).reshape(2, 1, 1, 1)
    x0 = x0.astype(np.float32)
    expected = []
    shares, limits = np.broadcast_to(percentile, 2), np.broadcast_to(limit, 2)
    for image, share, bound in zip(x0, shares, limits, strict=True):
        s = max(np.percentile(np.abs(image), share), bound)
        expected.append(np.clip(image, -s, s) * bound / s)
    found = jax.jit(dynamic_threshold(percentile, limit))(x0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_threshold_that_nothing_reaches_changes_nothing():
    x0 = np.clip(KNOWN, -0.9, 0.9)
    np.testing.assert_array_equal(dynamic_threshold(99.5)(x0), x0)
