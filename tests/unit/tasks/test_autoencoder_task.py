"""The reconstruction loss, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.rng import Purpose, StepKeys
from ldm_jax.models import VQAutoencoder
from ldm_jax.models.posterior import DiagonalGaussian
from ldm_jax.models.vq_autoencoder import Code
from ldm_jax.tasks.autoencoder import AutoencoderTask

BATCH = {"image": np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), dtype=np.uint8)}
KEYS = StepKeys(step=jnp.int32(2), indices=jnp.arange(4), seed=5)


class Blur:
    """Stands for an autoencoder: the reconstruction is `scale` times the image, plus noise."""

    def latent_shape(self, height, width):
        return height // 2, width // 2, 1

    def init(self, key, images, eps):
        assert images.shape == (1, 6, 6, 3)
        assert eps.shape == (1, 3, 3, 1)
        return {"params": {"scale": jnp.float32(0.5)}}

    def apply(self, variables, x, eps=None, *, deterministic=True, rngs=None, method=None):
        scale = variables["params"]["scale"]
        mean = scale * x[:, ::2, ::2, :1]
        posterior = DiagonalGaussian(mean, jnp.full_like(mean, -1.0))
        if method == "encode":
            return posterior
        if method == "decode":
            return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2) * jnp.ones((1, 1, 1, 3))
        assert not deterministic
        assert set(rngs) == {"dropout"}
        return scale * x + 0.01 * jnp.mean(eps), posterior


@pytest.fixture(scope="module")
def task():
    return AutoencoderTask(Blur(), 6, l1_weight=2.0, l2_weight=0.5, kl_weight=0.1)


def test_init_and_groups(task):
    params, mutable = task.init(jax.random.key(0), BATCH)
    assert params == {"autoencoder": {"scale": 0.5}}
    assert mutable == {}
    assert task.groups == {"autoencoder": ("autoencoder",)}


def test_loss(task):
    params, _ = task.init(jax.random.key(0), BATCH)

    @jax.jit
    def run(params, batch):
        return task.loss("autoencoder", params, {}, {}, batch, KEYS)

    output = run(params, BATCH)
    x = BATCH["image"] / 127.5 - 1.0
    eps = [
        jax.random.normal(
            jax.random.fold_in(
                jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 2), Purpose.POSTERIOR), k
            ),
            (3, 3, 1),
        )
        for k in range(4)
    ]
    error = 0.5 * x + 0.01 * np.mean(eps) - x
    mean = 0.5 * x[:, ::2, ::2, :1]
    kl = 0.5 * np.sum(mean**2 + np.exp(-1.0) - 1.0 + 1.0, axis=(1, 2, 3)).mean() / (6 * 6 * 3)
    l1, l2 = np.abs(error).mean(), (error**2).mean()
    metrics = {"l1": l1, "l2": l2, "kl": kl, "psnr": 10 * np.log10(4 / l2)}
    assert set(output.metrics) == set(metrics)
    for name, value in metrics.items():
        np.testing.assert_allclose(output.metrics[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_allclose(output.loss, 2.0 * l1 + 0.5 * l2 + 0.1 * kl, rtol=1e-4)
    assert output.mutable == {}


def test_reconstruct_uses_the_mode(task):
    params, _ = task.init(jax.random.key(0), BATCH)
    got = jax.jit(task.reconstruct)(params, BATCH)
    mode = 0.5 * (BATCH["image"][:, ::2, ::2, :1] / 127.5 - 1.0)
    np.testing.assert_allclose(got, mode.repeat(2, 1).repeat(2, 2).repeat(3, 3), atol=1e-6)


class Rounding:
    """Stands for a quantising autoencoder: codes are latents, rounded to tenths."""

    def latent_shape(self, height, width):
        return height // 2, width // 2, 1

    def apply(self, variables, x, eps=None, *, deterministic=True, rngs=None, method=None):
        scale = variables["params"]["scale"]
        if method == "decode":
            return jnp.repeat(jnp.repeat(jnp.round(x, 1), 2, 1), 2, 2) * jnp.ones((1, 1, 1, 3))
        latent = scale * x[:, ::2, ::2, :1]
        if method == "encode":
            return Code(latent)
        return scale * x, Code(latent, jnp.round(latent, 1))


def test_loss_of_a_quantised_latent():
    task = AutoencoderTask(
        Rounding(), 6, l1_weight=2.0, l2_weight=0.5, codebook_weight=3.0, codebook_beta=0.75
    )
    params = {"autoencoder": {"scale": jnp.float32(0.5)}}
    output = jax.jit(lambda p, b: task.loss("autoencoder", p, {}, {}, b, KEYS))(params, BATCH)
    x = BATCH["image"] / 127.5 - 1.0
    latent = 0.5 * x[:, ::2, ::2, :1]
    codebook = (1 + 0.75) * ((np.round(latent, 1) - latent) ** 2).mean()
    l1, l2 = np.abs(0.5 * x).mean(), ((0.5 * x) ** 2).mean()
    metrics = {"l1": l1, "l2": l2, "codebook": codebook, "psnr": 10 * np.log10(4 / l2)}
    assert set(output.metrics) == set(metrics)
    for name, value in metrics.items():
        np.testing.assert_allclose(output.metrics[name], value, rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(output.loss, 2.0 * l1 + 0.5 * l2 + 3.0 * codebook, rtol=1e-4)


def test_reconstruction_from_codes():
    task = AutoencoderTask(Rounding(), 6)
    got = jax.jit(task.reconstruct)({"autoencoder": {"scale": jnp.float32(0.5)}}, BATCH)
    codes = np.round(0.5 * (BATCH["image"][:, ::2, ::2, :1] / 127.5 - 1.0), 1)
    np.testing.assert_allclose(got, codes.repeat(2, 1).repeat(2, 2).repeat(3, 3), atol=1e-6)


def test_gradients_of_a_real_quantising_model_reach_everything():
    model = VQAutoencoder(
        channels=2, channel_mult=(1, 1), num_res_blocks=0, num_groups=1, num_codes=4, embed_dim=2
    )
    task = AutoencoderTask(model, 6)
    shapes, _ = jax.eval_shape(lambda: task.init(jax.random.key(0), BATCH))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), shapes)
    loss = jax.jit(jax.grad(lambda p: task.loss("autoencoder", p, {}, {}, BATCH, KEYS).loss))
    gradient = loss(params)["autoencoder"]
    assert set(gradient) == {"encoder", "decoder", "quant_conv", "post_quant_conv", "codebook"}
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf))
    assert np.any(gradient["codebook"])
    assert np.any(gradient["encoder"]["conv_in"]["kernel"])
