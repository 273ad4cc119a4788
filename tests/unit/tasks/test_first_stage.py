"""Scaled latents."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.models import Autoencoder, IdentityFirstStage, VQAutoencoder
from ldm_jax.tasks.first_stage import (
    FirstStage,
    Frozen,
    LatentScale,
    fixed_scale,
)

MODEL = Autoencoder(
    channels=4, channel_mult=(1, 2), num_res_blocks=0, num_groups=2, embed_dim=2, z_channels=2
)
VQ = VQAutoencoder(
    channels=4, channel_mult=(1, 2), num_res_blocks=0, num_groups=2, embed_dim=2, num_codes=5
)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(
        lambda: MODEL.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), jnp.zeros((1, 2, 2, 2)))
    )
    draw = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: (0.3 * draw.standard_normal(x.shape)).astype(np.float32), shapes["params"]
    )


IMAGES = np.random.default_rng(1).uniform(-1, 1, (2, 4, 4, 3)).astype(np.float32)


def test_a_fixed_factor_has_no_shift():
    scale = fixed_scale(4, 0.18215)
    np.testing.assert_array_equal(scale.shift, np.zeros(4))
    np.testing.assert_array_equal(scale.scale, np.full(4, np.float32(0.18215)))


def test_encode_scales_a_sample_of_the_posterior(params):
    scale = LatentScale(jnp.array([0.5, -1.0]), jnp.array([2.0, 0.25]))
    keys = jax.random.split(jax.random.key(3), 2)
    z = jax.jit(FirstStage(MODEL).encode)(Frozen(params, scale), IMAGES, keys)
    posterior = MODEL.apply({"params": params}, IMAGES, method="encode")
    eps = np.stack([jax.random.normal(key, (2, 2, 2)) for key in keys])
    latent = np.asarray(posterior.mean) + np.exp(0.5 * np.asarray(posterior.logvar)) * eps
    np.testing.assert_allclose(z, (latent - [0.5, -1.0]) * [2.0, 0.25], rtol=1e-4, atol=1e-5)


def test_decode_undoes_the_scale(params):
    first_stage = FirstStage(MODEL)
    latent = np.random.default_rng(2).standard_normal((2, 2, 2, 2)).astype(np.float32)
    plain = Frozen(params, fixed_scale(2, 1.0))
    scaled = Frozen(params, LatentScale(jnp.array([0.5, -1.0]), jnp.array([2.0, 0.25])))
    z = (latent - np.float32([0.5, -1.0])) * np.float32([2.0, 0.25])
    expected = MODEL.apply({"params": params}, latent, method="decode")
    decode = jax.jit(first_stage.decode)
    np.testing.assert_allclose(decode(plain, latent), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(decode(scaled, z), expected, rtol=1e-4, atol=1e-5)


def test_latent_shape():
    assert FirstStage(MODEL).latent_shape(8, 12) == (4, 6, 2)


@pytest.mark.parametrize("model", [MODEL, VQ, IdentityFirstStage()], ids=["kl", "vq", "identity"])
def test_moments_are_all_that_latents_follow_from(model):
    first_stage = FirstStage(model)
    shapes = jax.eval_shape(lambda: first_stage.init(jax.random.key(0), 4))
    draw = np.random.default_rng(5)
    params = jax.tree.map(lambda x: (0.3 * draw.normal(size=x.shape)).astype(np.float32), shapes)
    keys = jax.random.split(jax.random.key(3), 2)
    moments = first_stage.moments(params, IMAGES)
    assert moments.shape[1:] == first_stage.moments_shape(4, 4)
    assert moments.dtype == jnp.float32
    latents = first_stage.sample_unscaled(moments, keys)
    assert latents.shape[1:] == first_stage.latent_shape(4, 4)
    expected = model.apply({"params": params}, IMAGES, method="encode")
    eps = np.stack([jax.random.normal(key, latents.shape[1:]) for key in keys])
    np.testing.assert_allclose(latents, expected.sample(eps), rtol=1e-6, atol=1e-6)


SCALE = LatentScale(jnp.array([0.5, -1.0]), jnp.array([2.0, 0.25]))


def test_latents_of_a_quantising_model_are_scaled_before_quantisation():
    model = VQ
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, None))["params"]
    draw = np.random.default_rng(4)
    params = jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), shapes)
    first_stage, frozen = FirstStage(model), Frozen(params, SCALE)
    variables = {"params": params}

    latent = np.asarray(model.apply(variables, IMAGES, method="encode").latent)
    encode = jax.jit(first_stage.encode)
    z = encode(frozen, IMAGES, jax.random.split(jax.random.key(3), 2))
    np.testing.assert_allclose(z, (latent - [0.5, -1.0]) * [2.0, 0.25], rtol=1e-4, atol=1e-5)
    other_keys = encode(frozen, IMAGES, jax.random.split(jax.random.key(4), 2))
    np.testing.assert_array_equal(other_keys, z)

    distances = ((latent[..., None, :] - params["codebook"]) ** 2).sum(-1)
    codes = params["codebook"][distances.argmin(-1)]
    assert np.abs(codes - latent).max() > 0.1
    expected = model.apply(variables, codes, method="decode", quantized=True)
    np.testing.assert_allclose(
        jax.jit(first_stage.decode)(frozen, z), expected, rtol=1e-3, atol=1e-4
    )


def test_pixels_are_scaled_latents_of_the_identity():
    first_stage = FirstStage(IdentityFirstStage())
    scale = LatentScale(jnp.array([0.5, -1.0, 0.0]), jnp.array([2.0, 0.25, 1.0]))
    frozen = Frozen({}, scale)
    z = jax.jit(first_stage.encode)(frozen, IMAGES, jax.random.split(jax.random.key(3), 2))
    expected = (IMAGES - [0.5, -1.0, 0.0]) * [2.0, 0.25, 1.0]
    np.testing.assert_allclose(z, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jax.jit(first_stage.decode)(frozen, z), IMAGES, atol=1e-6)
    assert first_stage.latent_shape(5, 7) == (5, 7, 3)
