"""Models that learn the variance of the reverse process, and schedules that end in noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.core.checks import UserError
from ldm_jax.core.rng import StepKeys
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.pipeline import Pipeline
from ldm_jax.samplers import SAMPLERS
from ldm_jax.samplers.base import image_keys, initial_noise, sample
from ldm_jax.train import assemble
from ldm_jax.train.loop import train

RED = "a large red circle at the top left"


def configured(runs, *overrides):
    config = load_config(f"{__file__.removesuffix('test_learned_variance.py')}tiny.py:text")
    common = [
        f"--config.task.first_stage.workdir={runs.autoencoder}",
        "--config.train.steps=2",
        "--config.train.checkpoint_every=2",
        "--config.sample.grid_images=0",
    ]
    apply_overrides(config, [*common, *[f"--config.{override}" for override in overrides]])
    return config


@pytest.fixture(scope="module")
def learned(runs, tmp_path_factory):
    """A run of two steps with twice the channels, and its pipeline."""
    workdir = tmp_path_factory.mktemp("learned") / "run"
    config = configured(runs, "task.learn_variance=true", "task.model.out_channels=4")
    assert int(train(config, workdir).step) == 2
    return Pipeline.from_checkpoint(workdir)


def test_the_bound_teaches_the_variance_alone(learned):
    task, params = learned.task, jax.device_get(learned._params)
    frozen = jax.device_get(learned._frozen)
    batch = {
        "image": np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8),
        "tokens": np.ones((4, 12), np.int32),
    }
    keys = StepKeys(jnp.int32(0), jnp.arange(4), 0)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(params):
        _, metrics, _ = task.loss("diffusion", params, {}, frozen, batch, keys)
        return metrics["loss_vlb"], metrics

    found, metrics = gradient(params)
    assert np.isfinite(metrics["loss_vlb"])
    assert np.isfinite(metrics["loss_simple"])
    bias, kernel = (np.asarray(found["unet"]["conv_out"][name]) for name in ("bias", "kernel"))
    assert bias.shape == (4,)
    np.testing.assert_array_equal(bias[:2], 0)  # the mean's half
    np.testing.assert_array_equal(kernel[..., :2], 0)
    assert (np.abs(bias[2:]) > 0).all()


def test_sampling_uses_the_variance(learned):
    ancestral = {"name": "ddpm", "variance": "learned"}
    settings = {"steps": 4, "seed": 1, "output": "float32", "guidance_scale": 2.0}
    found = learned([RED, RED], sampler=ancestral, **settings)
    assert found.shape == (2, 16, 16, 3)
    fixed = learned([RED, RED], sampler={"name": "ddpm", "variance": "posterior"}, **settings)
    assert (np.abs(found - fixed).max(axis=(1, 2, 3)) > 1e-4).all()
    # Other samplers, also with guidance and its rescaling, leave it alone.
    assert np.isfinite(learned(RED, sampler="dpmpp_2m", guidance_rescale=0.5)).all()


def test_the_noise_lies_between_both_variances():
    """One step with a network that says half: the geometric mean, by a closed form."""
    schedule = assemble.make_noise_schedule(num_timesteps=20)
    levels = make_levels(schedule, 4)
    rows = SAMPLERS["ddpm"](levels, variance="learned")
    first = jax.tree.map(lambda x: x[:1], rows)
    keys, z = image_keys(0, jnp.arange(2)), initial_noise(0, jnp.arange(2), (64, 64, 1))

    def predict(fraction):
        from ldm_jax.diffusion.parameterization import Prediction

        return lambda z, t: Prediction(0 * z, 0 * z, fraction + 0 * z)

    def noise(fraction):
        return np.asarray(sample(predict(fraction), z, first, keys) - first.base[0] * z)

    a, b = levels.alpha_bar[:2]
    upper = np.sqrt(1 - a / b)
    lower = upper * np.sqrt((1 - b) / (1 - a))
    unit = noise(0.0) / lower
    assert unit.std() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(noise(1.0), upper * unit, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(noise(0.5), np.sqrt(lower * upper) * unit, rtol=1e-3, atol=1e-4)


def test_channels_must_be_doubled(runs):
    with pytest.raises(UserError) as error:
        assemble.build_task(configured(runs, "task.learn_variance=true"))
    assert str(error.value) == (
        "config.task.model.out_channels=2, but the first stage's latents have 2 channels and "
        "learn_variance doubles them. Legal: 4."
    )


def test_noise_alone_at_the_end_needs_another_parameterization(runs):
    zero = "task.schedule.zero_terminal_snr=true"
    with pytest.raises(UserError) as error:
        assemble.build_task(configured(runs, zero))
    assert str(error.value) == (
        "config.task.schedule.zero_terminal_snr with parameterization='eps': at the last timestep "
        "eps says nothing about the image. Legal: v, x0."
    )
    task = assemble.build_task(configured(runs, zero, "task.parameterization=v"))
    assert float(task.schedule.alpha_bar[-1]) < 1e-6
