"""The strip of the forward process is q(z_t | z_0) with the noise that its key gives."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.inspection.noising import noised_latents, noising_view, spread
from ldm_jax.inspection.view import Subject
from ldm_jax.models.identity import IdentityFirstStage
from ldm_jax.tasks.first_stage import FirstStage

SCHEDULE = make_schedule("linear")
SEED = 2**32 - 1


def expected(z0, timesteps, seed):
    """Returns z_t in float64, from a key that is made by hand: seed, step 0, noise (3), image 0."""
    key = jax.random.key(np.uint32(seed))
    for number in (0, 3, 0):
        key = jax.random.fold_in(key, number)
    eps = np.asarray(jax.random.normal(key, z0.shape), np.float64)
    alpha_bar = np.asarray(SCHEDULE.alpha_bar, np.float64)[timesteps][:, None, None, None]
    return np.sqrt(alpha_bar) * z0 + np.sqrt(1 - alpha_bar) * eps


def test_all_frames_share_the_noise_of_the_key():
    z0 = np.random.default_rng(0).standard_normal((4, 6, 2)).astype(np.float32)
    timesteps = np.array([0, 17, 999])
    for seed in (0, SEED):
        found = noised_latents(SCHEDULE, jnp.asarray(z0), jnp.asarray(timesteps), seed)
        np.testing.assert_allclose(found, expected(z0, timesteps, seed), atol=2e-6, rtol=0)


def test_levels_are_spread_from_the_first_to_the_last():
    assert spread(1000, 4) == [0, 333, 666, 999]
    assert spread(3, 8) == [0, 1, 2]
    assert spread(1000, 1) == [999]


def test_a_pixel_model_shows_x_t_itself_without_channels():
    image = np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    stage = FirstStage(IdentityFirstStage())
    pipeline = SimpleNamespace(
        task=SimpleNamespace(schedule=SCHEDULE, first_stage=stage),
        encode=lambda image: image[None].astype(np.float32) / 127.5 - 1,
        decode=lambda z: np.round((np.clip(z, -1, 1) + 1) * 127.5).astype(np.uint8),
    )
    picture, (line,) = noising_view(Subject(pipeline, seed=SEED, image=image, frames=3))
    assert line == f"x_t of q(x_t | x_0), given image, noise of seed {SEED}"
    z_t = expected(image / 127.5 - 1, np.array([0, 500, 999]), SEED)
    strip = [image, *np.round((np.clip(z_t, -1, 1) + 1) * 127.5)]
    for k, frame in enumerate(strip):
        shown = picture[-99:-3, 3 + 99 * k : 99 + 99 * k].astype(int)
        assert np.abs(shown - frame).max() <= 1
