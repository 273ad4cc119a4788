import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.parameterization import from_eps
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.samplers.base import image_keys, sample
from ldm_jax.samplers.ddim import ddim
from ldm_jax.samplers.ddim_inversion import ddim_inversion

SCHEDULE = make_schedule(start=0.00085, end=0.012)
LEVELS = make_levels(SCHEDULE, 20)
KEYS = image_keys(0, jnp.arange(2))


def _predict(z, t):
    """A network without weights: nonlinear, mixes pixels of one image, depends on t."""
    mixed = 0.4 * z + 0.2 * jnp.roll(z, 1, axis=1) + 0.001 * t[:, None, None, None]
    return from_eps(jnp.tanh(mixed), z, alpha_bar_at(SCHEDULE, t))


_run = jax.jit(functools.partial(sample, _predict))


def test_two_steps_by_hand():
    """From sigma 0 to 1 to 2, x moves by +1 times eps at the timestep of the noisier end."""
    s_2, s_1 = signal([2, 1])
    assert_rows(
        ddim_inversion(levels_of(2, 1, 0)),
        t=[0, 1],
        from_z=1,
        base=[s_1, s_2 / s_1],
        eps=[s_1, s_2],
    )


def test_refinements_start_from_the_same_z():
    s_2, s_1 = signal([2, 1])
    assert_rows(
        ddim_inversion(levels_of(2, 1, 0), refinements=2),
        t=[0, 0, 0, 1, 1, 1],
        from_z=[1, 0, 0, 1, 0, 0],
        from_base=[0, 1, 1, 0, 1, 1],
        base=[s_1] * 3 + [s_2 / s_1] * 3,
        eps=[s_1] * 3 + [s_2] * 3,
    )


def test_with_many_refinements_it_is_the_inverse_of_ddim():
    z_0 = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 1)), jnp.float32)
    forth = ddim(LEVELS)
    errors = {}
    for refinements in (0, 2, 30):
        z_T = _run(z_0, ddim_inversion(LEVELS, refinements), KEYS)
        assert np.abs(z_T - z_0).max() > 0.3
        errors[refinements] = np.abs(_run(z_T, forth, KEYS) - z_0).max()
    assert errors[30] <= 1e-5
    assert errors[0] > 10 * errors[2] > 100 * errors[30]


def test_the_other_way_round():
    z_T = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 1)), jnp.float32)
    z_0 = _run(z_T, ddim(LEVELS), KEYS)
    np.testing.assert_allclose(_run(z_0, ddim_inversion(LEVELS, 30), KEYS), z_T, atol=1e-5)


def test_illegal_refinements():
    with pytest.raises(UserError, match=r"inversion refinements=-1: legal is 0 or more\."):
        ddim_inversion(LEVELS, -1)
