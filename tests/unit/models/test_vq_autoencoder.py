import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.models import VQAutoencoder
from ldm_jax.models.encoder_decoder import Decoder, Encoder

SHARED = {"channels": 4, "channel_mult": (1, 2), "num_res_blocks": 1, "num_groups": 2}
MODEL = VQAutoencoder(**SHARED, z_channels=3, embed_dim=2, num_codes=7)
X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, size=(2, 4, 6, 3)), jnp.float32)
EPS = jnp.zeros((2, 2, 3, 2))


@functools.cache
def params():
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), X, EPS)["params"]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(0.4 * rng.normal(size=x.shape), x.dtype), shapes)


@functools.cache
def jitted(method, **fixed):
    return jax.jit(functools.partial(MODEL.apply, method=method, **fixed))


def conv_1x1(x, layer):
    return x @ np.asarray(layer["kernel"])[0, 0] + np.asarray(layer["bias"])


def latents():
    """Returns quant_conv(encoder(x)); the encoder has tests of its own."""
    features = jax.jit(Encoder(3, **SHARED).apply)({"params": params()["encoder"]}, X)
    return conv_1x1(np.asarray(features), params()["quant_conv"])


def nearest(z):
    codebook = np.asarray(params()["codebook"])
    distances = ((z[..., None, :] - codebook) ** 2).sum(-1)
    return codebook[distances.argmin(-1)], distances.argmin(-1)


def decoder(z):
    features = conv_1x1(z, params()["post_quant_conv"]).astype(np.float32)
    return jax.jit(Decoder(3, **SHARED).apply)({"params": params()["decoder"]}, features)


def test_shapes_and_properties():
    assert MODEL.downsampling_factor == 2
    assert MODEL.latent_channels == 2
    assert MODEL.latent_shape(4, 6) == (2, 3, 2)
    assert params()["codebook"].shape == (7, 2)


def test_encode_returns_latents_before_quantisation():
    code = jitted("encode")({"params": params()}, X)
    np.testing.assert_allclose(code.latent, latents(), rtol=1e-4, atol=1e-5)
    assert np.abs(latents() - nearest(latents())[0]).max() > 0.1
    assert code.quantized is None
    np.testing.assert_array_equal(code.mode(), code.latent)
    np.testing.assert_array_equal(code.sample(jnp.ones_like(EPS)), code.latent)


def test_decode_quantises_first():
    z = latents().astype(np.float32)
    images = jitted("decode")({"params": params()}, z)
    np.testing.assert_allclose(images, decoder(nearest(z)[0]), rtol=1e-4, atol=1e-5)
    plain = jitted("decode", quantized=True)({"params": params()}, z)
    np.testing.assert_allclose(plain, decoder(z), rtol=1e-4, atol=1e-5)
    assert np.abs(plain - images).max() > 1e-2


def test_call_decodes_the_codes():
    images, code = jax.jit(MODEL.apply)({"params": params()}, X, EPS)
    np.testing.assert_allclose(code.latent, latents(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(code.quantized, nearest(latents())[0], rtol=1e-6)
    np.testing.assert_allclose(images, decoder(nearest(latents())[0]), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_codes_goes_straight_to_the_encoder():
    weights = np.random.default_rng(2).normal(size=X.shape).astype(np.float32)

    def through_model(params):
        return jnp.sum(weights * MODEL.apply({"params": params}, X, EPS)[0])

    def from_codes(z_q):
        images = MODEL.apply({"params": params()}, z_q, method="decode", quantized=True)
        return jnp.sum(weights * images)

    gradient = jax.jit(jax.grad(through_model))(params())
    at_codes = np.asarray(jax.jit(jax.grad(from_codes))(nearest(latents())[0]))
    # Of z = features @ kernel + bias, the bias gets the sum of the gradient over all cells.
    np.testing.assert_allclose(
        gradient["quant_conv"]["bias"], at_codes.sum((0, 1, 2)), rtol=1e-3, atol=1e-4
    )
    assert np.abs(gradient["encoder"]["conv_in"]["kernel"]).max() > 1e-3
    np.testing.assert_array_equal(gradient["codebook"], np.zeros((7, 2)))


def test_the_codebook_learns_by_its_loss_alone():
    def loss(params):
        return MODEL.apply({"params": params}, X, EPS)[1].codebook_loss(0.25)

    value, gradient = jax.jit(jax.value_and_grad(loss))(params())
    z = latents()
    z_q, chosen = nearest(z)
    np.testing.assert_allclose(value, 1.25 * ((z - z_q) ** 2).mean(), rtol=1e-4)
    expected = np.zeros((7, 2))
    np.add.at(expected, chosen, 2 * (z_q - z) / z.size)
    assert np.count_nonzero(expected.any(1)) > 1
    np.testing.assert_allclose(gradient["codebook"], expected, rtol=1e-3, atol=1e-5)
    commitment = (0.25 * 2 * (z - z_q) / z.size).sum((0, 1, 2))
    np.testing.assert_allclose(gradient["quant_conv"]["bias"], commitment, rtol=1e-3, atol=1e-5)


def test_codebook_starts_uniform_within_one_over_its_size():
    model = VQAutoencoder(**SHARED, z_channels=3, embed_dim=32, num_codes=64)
    key = jax.random.key(0, impl="unsafe_rbg")  # compiles quickly
    codebook = np.asarray(
        jax.jit(lambda: model.init(key, X, jnp.zeros((2, 2, 3, 32)))["params"]["codebook"])()
    )
    assert codebook.shape == (64, 32)
    assert np.abs(codebook).max() <= 1 / 64
    assert codebook.min() < -0.99 / 64
    assert codebook.max() > 0.99 / 64
    # The standard deviation of U(-a, a) is a / sqrt(3).
    np.testing.assert_allclose(codebook.std(), 1 / 64 / np.sqrt(3), rtol=0.05)


def test_bfloat16_compute_keeps_float32_at_the_borders():
    model = MODEL.clone(dtype=jnp.bfloat16)
    images, code = jax.eval_shape(model.apply, {"params": params()}, X, EPS)
    assert images.dtype == code.latent.dtype == code.quantized.dtype == jnp.float32


def test_errors():
    with pytest.raises(UserError, match=r"num_codes: got 0\. Legal: 1 or more\."):
        VQAutoencoder(num_codes=0)
    with pytest.raises(UserError, match=r"images: got shape \(1, 4, 4, 1\)"):
        MODEL.apply({"params": params()}, jnp.zeros((1, 4, 4, 1)), method="encode")
    with pytest.raises(UserError, match=r"image size: got 5x4, expected multiples of 2.* 4x4"):
        MODEL.apply({"params": params()}, jnp.zeros((1, 5, 4, 3)), method="encode")
    for quantized in (True, False):
        decode = functools.partial(MODEL.apply, method="decode", quantized=quantized)
        with pytest.raises(UserError, match=r"latents: got shape \(1, 2, 2, 5\), expected .* 2\)"):
            decode({"params": params()}, jnp.zeros((1, 2, 2, 5)))
