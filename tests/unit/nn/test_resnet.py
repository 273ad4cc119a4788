import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn.resnet import ResBlock

# A generator that compiles quickly; these tests do not depend on the draws.
KEY = jax.random.key(0, impl="unsafe_rbg")


def random_variables(module, *args):
    """Returns variables that are all noise, those that start at zero too."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: 0.3 * rng.normal(size=x.shape).astype(x.dtype), shapes)


def silu(x):
    return x / (1 + np.exp(-x))


def norm(x, p, groups=2, eps=1e-5):
    b, h, w, c = x.shape
    y = x.reshape(b, h * w, groups, c // groups)
    y = (y - y.mean((1, 3), keepdims=True)) / np.sqrt(y.var((1, 3), keepdims=True) + eps)
    return y.reshape(x.shape) * p["scale"] + p["bias"]


def conv(x, p):
    pad = p["kernel"].shape[0] // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    size = p["kernel"].shape[0]
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.einsum("bhwiyx,yxio->bhwo", windows, p["kernel"]) + p["bias"]


def resample(x, mode):
    if mode == "up":
        return x.repeat(2, axis=1).repeat(2, axis=2)
    if mode == "down":
        return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    return x


def numpy_res_block(p, x, emb, scale_shift, mode):
    h = conv(resample(silu(norm(x, p["norm_in"])), mode), p["conv_in"])
    if emb is not None:
        e = silu(emb) @ p["emb_proj"]["kernel"] + p["emb_proj"]["bias"]
        e = e[:, None, None, :]
        if scale_shift:
            half = e.shape[-1] // 2
            h = norm(h, p["norm_out"]) * (1 + e[..., :half]) + e[..., half:]
        else:
            h = norm(h + e, p["norm_out"])
    else:
        h = norm(h, p["norm_out"])
    x = resample(x, mode)
    return (conv(x, p["skip"]) if "skip" in p else x) + conv(silu(h), p["conv_out"])


@pytest.mark.parametrize(
    ("width", "with_emb", "scale_shift", "mode"),
    [
        (6, True, False, "none"),
        (4, True, True, "down"),
        (4, True, True, "up"),
        (4, False, False, "none"),
    ],
)
def test_res_block_equals_numpy(width, with_emb, scale_shift, mode):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 4, 4, 4)).astype(np.float32)
    emb = rng.normal(size=(2, 5)).astype(np.float32) if with_emb else None
    block = ResBlock(width, eps=1e-5, num_groups=2, resample=mode, scale_shift_norm=scale_shift)
    variables = random_variables(block, x, emb)
    expected = numpy_res_block(variables["params"], x, emb, scale_shift, mode)
    y = jax.jit(block.apply)(variables, x, emb)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_res_block_is_the_identity_at_first_unless_told_otherwise():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 4)), jnp.float32)
    for zero_init in (True, False):
        block = ResBlock(4, eps=1e-6, num_groups=2, zero_init=zero_init)
        y = jax.jit(lambda key, x, block=block: block.apply(block.init(key, x), x))(KEY, x)
        assert bool(jnp.array_equal(x, y)) is zero_init


def test_dropout_needs_its_stream_and_changes_the_result():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 4)), jnp.float32)
    block = ResBlock(4, eps=1e-6, num_groups=2, zero_init=False, dropout=0.5)
    variables = random_variables(block, x)
    dropped = block.apply(variables, x, None, False, rngs={"dropout": KEY})
    assert not jnp.allclose(dropped, block.apply(variables, x))
    with pytest.raises(flax.errors.InvalidRngError):
        block.apply(variables, x, None, False)
