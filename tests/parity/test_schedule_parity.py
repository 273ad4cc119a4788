"""Noise schedules, step tables and DDIM steps against diffusers' schedulers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from compare import assert_close

from ldm_jax.diffusion.parameterization import to_prediction
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.interop.diffusers_settings import schedule_settings
from ldm_jax.samplers.base import image_keys, initial_state, step
from ldm_jax.samplers.ddim import ddim

SCHEDULES = {
    "celeba": {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195},
    "churches": {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0155},
    "inpainting": {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0205},
    "stable": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "rdm": {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.015},
    "ho": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}
TABLES = {
    "offset_leading": {"steps_offset": 1, "set_alpha_to_one": False},
    "leading": {"steps_offset": 0, "set_alpha_to_one": True},
    "trailing": {"timestep_spacing": "trailing"},
}
KINDS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}


def ours(config):
    """Returns our schedule for a scheduler's configuration, and what else it says."""
    settings, parameterization, spacing = schedule_settings(config)
    return make_schedule(**settings), parameterization, spacing


@pytest.mark.parametrize("name", SCHEDULES)
def test_alpha_bar(name):
    theirs = diffusers.DDIMScheduler(**SCHEDULES[name])
    schedule, _, _ = ours(dict(theirs.config))
    # diffusers multiplies a thousand numbers in float32; ours are exact to the last bit.
    expected = np.asarray(theirs.alphas_cumprod, np.float64)
    np.testing.assert_allclose(schedule.alpha_bar, expected, rtol=1e-4)
    assert_close(schedule.alpha_bar, expected, name)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", KINDS)
def test_ddim_steps(table, kind):
    theirs = diffusers.DDIMScheduler(
        **SCHEDULES["stable"], **TABLES[table], prediction_type=kind, clip_sample=False
    )
    theirs.set_timesteps(20)
    schedule, parameterization, spacing = ours(dict(theirs.config))
    assert (parameterization, spacing) == (KINDS[kind], table)
    levels = make_levels(schedule, 20, spacing)
    np.testing.assert_array_equal(levels.t, theirs.timesteps)
    rng = np.random.default_rng(5)
    rows, keys = ddim(levels, eta=0.0), image_keys(0, jnp.arange(1))
    for i, t in enumerate(theirs.timesteps):
        z, output = rng.normal(size=(2, 1, 4, 4, 3)).astype(np.float32)
        z_t, out = jnp.asarray(z), jnp.asarray(output)
        alpha_bar = jnp.float32(levels.alpha_bar[i])
        prediction = to_prediction(parameterization, out, z_t, alpha_bar)
        row = jax.tree.map(lambda x: jnp.float32(x[i]), rows)  # noqa: B023
        got = step(initial_state(z_t), prediction, row, keys).z
        expected = theirs.step(torch.from_numpy(output), t, torch.from_numpy(z)).prev_sample
        assert_close(got, expected, f"{table}, {kind}, step {i}")
