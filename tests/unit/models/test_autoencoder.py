import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.models import Autoencoder
from ldm_jax.models.encoder_decoder import Encoder

FIELDS = {
    "channels": 4,
    "channel_mult": (1, 2, 2),
    "num_res_blocks": 1,
    "attention_factors": (2,),
    "z_channels": 3,
    "embed_dim": 2,
    "num_groups": 2,
}
MODEL = Autoencoder(**FIELDS)
X = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, size=(2, 8, 12, 3)), jnp.float32)
EPS = jnp.asarray(np.random.default_rng(1).normal(size=(2, 2, 3, 2)), jnp.float32)


@functools.cache
def variables():
    # A generator that compiles quickly; nothing here depends on the draws.
    return jax.jit(MODEL.init)(jax.random.key(0, impl="unsafe_rbg"), X, EPS)


def test_shapes_and_properties():
    assert MODEL.downsampling_factor == 4
    assert MODEL.latent_channels == 2
    assert MODEL.latent_shape(8, 12) == (2, 3, 2)


def test_call_decodes_the_sampled_latent():
    reconstruction, posterior = jax.jit(MODEL.apply)(variables(), X, EPS)
    assert reconstruction.shape == X.shape
    assert posterior.mean.shape == EPS.shape
    encoded = jax.jit(functools.partial(MODEL.apply, method="encode"))(variables(), X)
    np.testing.assert_allclose(encoded.mean, posterior.mean, atol=1e-5)
    z = np.asarray(posterior.mean) + np.exp(np.asarray(posterior.logvar) / 2) * np.asarray(EPS)
    decoded = jax.jit(functools.partial(MODEL.apply, method="decode"))(variables(), z)
    np.testing.assert_allclose(decoded, reconstruction, atol=1e-5)


def test_attention_sits_where_the_factors_say():
    params = variables()["params"]
    names = {part: {n for n in params[part] if "attn" in n} for part in ("encoder", "decoder")}
    assert names["encoder"] == {"down_1_attn_0", "mid_attn"}
    assert names["decoder"] == {"up_1_attn_0", "up_1_attn_1", "mid_attn"}


def test_mid_attention_can_be_removed():
    model = Autoencoder(**{**FIELDS, "mid_attention": False, "attention_factors": ()})
    params = jax.eval_shape(model.init, jax.random.key(0), X, EPS)["params"]
    assert not [n for part in ("encoder", "decoder") for n in params[part] if "attn" in n]


def test_nothing_starts_at_zero_but_the_biases_of_norms():
    zeros = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree.leaves_with_path(variables()["params"])
        if not np.any(leaf)
    }
    assert zeros
    assert all("norm" in path and path.endswith("bias") for path in zeros)


def test_downsampling_pads_right_and_bottom_only():
    # Pixel (0, 0) lies under the first tap of the first window only when nothing is padded
    # before it; with a kernel that has nothing but this tap, the result is x[::2, ::2].
    encoder = Encoder(1, channels=2, channel_mult=(1, 1), num_res_blocks=0, num_groups=1)
    shapes = jax.eval_shape(encoder.init, jax.random.key(0), X)["params"]
    params = jax.tree.map(lambda x: jnp.ones(x.shape), shapes)
    first_tap = jnp.zeros((3, 3, 2, 2)).at[0, 0].set(jnp.eye(2))
    params["down_0_downsample"]["conv"] = {"kernel": first_tap, "bias": jnp.zeros(2)}
    _, state = encoder.apply({"params": params}, X, capture_intermediates=True)
    seen = state["intermediates"]
    before, after = seen["conv_in"]["__call__"][0], seen["down_0_downsample"]["__call__"][0]
    np.testing.assert_allclose(after, before[:, ::2, ::2], atol=1e-6)


def test_bfloat16_compute_keeps_float32_at_the_borders():
    model = Autoencoder(**FIELDS, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), X, EPS)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    reconstruction, posterior = jax.eval_shape(model.apply, variables(), X, EPS)
    assert reconstruction.dtype == posterior.mean.dtype == posterior.logvar.dtype == jnp.float32


def test_gradients_are_finite():
    def loss(params):
        reconstruction, posterior = MODEL.apply(params, X, EPS)
        return jnp.mean(jnp.square(reconstruction - X)) + 1e-6 * jnp.mean(posterior.kl())

    gradient = jax.jit(jax.grad(loss))(variables())
    assert all(np.all(np.isfinite(leaf)) and np.any(leaf) for leaf in jax.tree.leaves(gradient))


def test_size_error_names_the_nearest_legal_size():
    with pytest.raises(UserError, match=r"image size: got 9x12, expected multiples of 4.* 8x12"):
        MODEL.apply(variables(), jnp.zeros((1, 9, 12, 3)), method="encode")


def test_channel_errors_name_the_expected_shape():
    with pytest.raises(UserError, match=r"images: got shape \(1, 8, 8, 1\)"):
        MODEL.apply(variables(), jnp.zeros((1, 8, 8, 1)), method="encode")
    with pytest.raises(UserError, match=r"latents: got shape \(1, 2, 2, 5\)"):
        MODEL.apply(variables(), jnp.zeros((1, 2, 2, 5)), method="decode")


def test_construction_errors():
    with pytest.raises(UserError, match="num_groups=3 must divide the width of level 0=4"):
        Autoencoder(**{**FIELDS, "num_groups": 3})
    with pytest.raises(UserError, match="got a head width of 512"):
        Autoencoder(attention_impl="cudnn", dtype=jnp.bfloat16)
