"""Image k is a function of (seed, k): whatever the batch, the bucket and the mesh."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import TextTransformer
from ldm_jax.core import rng
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.models import Autoencoder, UNet
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import batch_sharding, put_batch, shardings
from ldm_jax.samplers.base import image_keys, initial_noise
from ldm_jax.samplers.ddim import ddim
from ldm_jax.tasks.base import to_uint8_images
from ldm_jax.tasks.first_stage import FirstStage, Frozen, fixed_scale
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.assemble import SampleSettings
from ldm_jax.train.sampling import make_sample_fn

pytestmark = pytest.mark.usefixtures("optimized")

COUNT, SEED, RANGE = 8, 3, 2.0
MESHES = [(1, 1, 1), (2, 1, 1), (1, 2, 2), (4, 1, 1), (8, 1, 1), (2, 4, 1)]
AUTOENCODER = Autoencoder(
    channels=8, channel_mult=(1, 2), num_res_blocks=0, num_groups=4, mid_attention=False
)
TASK = LatentDiffusionTask(
    UNet(
        out_channels=4,
        channels=16,
        channel_mult=(1,),
        num_res_blocks=0,
        num_heads=4,
        transformer_depth=1,
        num_groups=4,
    ),
    TextTransformer(vocab_size=16, length=4, dim=16, depth=1, num_heads=4, head_dim=4),
    FirstStage(AUTOENCODER),
    make_schedule(num_timesteps=100),
    jnp.ones((100,)),
    image_size=16,
)
# Noise is added at every step, and guidance doubles the batch.
LEVELS = make_levels(TASK.schedule, 4)
SETTINGS = SampleSettings(LEVELS, ddim(LEVELS, eta=1.0), 2.0)
TOKENS = np.random.default_rng(1).integers(0, 16, (COUNT, 4)).astype(np.int32)


@functools.cache
def weights():
    """Random everywhere, since layers that start at zero would hide those before them."""
    draw = np.random.default_rng(0)

    def fill(tree):
        return jax.tree.map(
            lambda x: (draw.standard_normal(x.shape) / math.sqrt(max(x.shape[-1], 16))).astype(
                np.float32
            ),
            tree,
        )

    spec = {"image": jnp.zeros((1, 16, 16, 3)), "tokens": jnp.zeros((1, 4), jnp.int32)}
    params, _ = jax.eval_shape(lambda: TASK.init(jax.random.key(0), spec))
    frozen = jax.eval_shape(
        lambda: AUTOENCODER.init(
            jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 8, 8, 4))
        )
    )
    return fill(params), Frozen(fill(frozen["params"]), fixed_scale(4, 0.5))


@functools.cache
def _sample(batch_size, devices):
    """Returns all images as floats, `batch_size` at a time, from `task.sample` itself."""
    mesh = make_mesh((devices, 1, 1), jax.devices()[:devices])
    run = jax.jit(
        functools.partial(
            TASK.sample,
            seed=SEED,
            rows=SETTINGS.rows,
            guidance_scale=SETTINGS.guidance_scale,
        ),
        out_shardings=batch_sharding(mesh),
    )
    images = []
    with jax.set_mesh(mesh):
        params, frozen = jax.device_put(weights(), shardings(mesh, weights()))
        for start in range(0, COUNT, batch_size):
            rows = np.arange(start, start + batch_size, dtype=np.int32)
            batch, indices = put_batch(mesh, ({"tokens": TOKENS[rows]}, rows))
            images.append(np.asarray(run(params, frozen, batch, indices)))
    return np.concatenate(images)


@functools.cache
def _draw(shape, per_device_batch=2):
    """Returns all images as floats from the compiled sampler of commands and grids."""
    mesh = make_mesh(shape, jax.devices()[: math.prod(shape)])
    params, frozen = jax.device_put(weights(), shardings(mesh, weights()))
    draw = make_sample_fn(TASK, SETTINGS, mesh, per_device_batch=per_device_batch, as_uint8=False)
    return draw(params, frozen, {"tokens": TOKENS}, SEED, np.arange(COUNT))


def test_images_differ_and_stay_in_a_sane_range():
    images = _sample(8, 1)
    assert images.shape == (COUNT, 16, 16, 3)
    assert np.isfinite(images).all()
    assert np.abs(images).max() < 50
    assert min(np.abs(images[k] - images[j]).max() for k in range(COUNT) for j in range(k)) > 0.1


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (4, 1), (8, 8)])
def test_images_do_not_depend_on_batch_size_or_devices(batch_size, devices):
    # XLA's kernels round differently by batch shape.
    got, expected = _sample(batch_size, devices), _sample(8, 1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * RANGE)


@pytest.mark.parametrize("shape", MESHES[1:])
def test_a_fixed_bucket_gives_the_same_bits_on_any_mesh(shape):
    got, expected = _draw(shape), _draw(MESHES[0])
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(to_uint8_images(got), to_uint8_images(expected))


def test_the_compiled_sampler_agrees_with_the_task():
    np.testing.assert_allclose(_draw(MESHES[0]), _sample(8, 1), rtol=0, atol=1e-5 * RANGE)


def test_noise_is_equal_to_the_bit():
    """Row k of every draw, for batches of 1, 4, 8, in one piece or over 8 devices."""

    def noise(indices, step):
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(image_keys(SEED, indices), step)
        return initial_noise(SEED, indices, (8, 8, 4)), rng.normal(keys, (8, 8, 4))

    def draw(batch_size, devices):
        mesh = make_mesh((devices, 1, 1), jax.devices()[:devices])
        run = jax.jit(noise, out_shardings=batch_sharding(mesh))
        parts = []
        for start in range(0, COUNT, batch_size):
            rows = np.arange(start, start + batch_size, dtype=np.int32)
            parts.append(jax.device_get(run(put_batch(mesh, rows), 2)))
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)

    expected = draw(8, 1)
    assert np.std(expected[0]) == pytest.approx(1, abs=0.05)
    for batch_size, devices in [(1, 1), (4, 1), (8, 8)]:
        jax.tree.map(np.testing.assert_array_equal, draw(batch_size, devices), expected)
