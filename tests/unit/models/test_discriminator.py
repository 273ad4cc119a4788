"""The patch discriminator against the facts sheet, sections 2.5 and 4.2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.models import PatchDiscriminator


def shapes(module, size=256):
    """Returns the shapes of the parameters and of the logits."""
    x = jnp.zeros((1, size, size, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    return variables, jax.eval_shape(module.apply, variables, x)


@pytest.mark.parametrize(("layers", "count", "edge"), [(3, 2_765_633, 30), (2, 663_361, 62)])
def test_published_sizes(layers, count, edge):
    variables, logits = shapes(PatchDiscriminator(num_layers=layers))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count
    assert logits.shape == (1, edge, edge, 1)
    assert set(variables) == {"params", "batch_stats"}


def test_initialisation():
    module = PatchDiscriminator(channels=32)
    params = module.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    for name in ("conv_1", "conv_2", "conv_3"):
        kernel = np.asarray(params[name]["kernel"])
        assert abs(kernel.mean()) < 1e-3
        np.testing.assert_allclose(kernel.std(), 0.02, rtol=0.05)
        assert "bias" not in params[name]
    scale = np.asarray(params["norm_3"]["scale"])
    np.testing.assert_allclose(scale.mean(), 1.0, atol=0.01)
    np.testing.assert_allclose(scale.std(), 0.02, rtol=0.3)
    assert np.all(np.asarray(params["norm_3"]["bias"]) == 0)
    assert np.abs(params["conv_0"]["bias"]).max() <= (16 * 3) ** -0.5


def test_running_statistics_keep_nine_tenths_of_the_past():
    module = PatchDiscriminator(channels=8, num_layers=1)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = module.init(jax.random.key(0), x)
    _, after = module.apply(variables, x, train=True, mutable=["batch_stats"])
    before = variables["batch_stats"]["norm_1"]
    conv = jax.lax.conv_general_dilated(
        jax.nn.leaky_relu(
            jax.lax.conv_general_dilated(
                x,
                variables["params"]["conv_0"]["kernel"],
                (2, 2),
                ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            + variables["params"]["conv_0"]["bias"][None, None, None, :],
            0.2,
        ),
        variables["params"]["conv_1"]["kernel"],
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    mean = np.asarray(conv).mean((0, 1, 2))
    expected = 0.9 * np.asarray(before["mean"]) + 0.1 * mean
    np.testing.assert_allclose(after["batch_stats"]["norm_1"]["mean"], expected, atol=1e-6)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_norms_without_statistics(norm):
    module = PatchDiscriminator(channels=32, norm=norm)
    variables, _ = shapes(module, 32)
    assert set(variables) == {"params"}
    assert ("norm_1" in variables["params"]) == (norm == "group")


def test_spectral_norm_bounds_every_layer():
    module = PatchDiscriminator(channels=8, num_layers=1, norm="none", spectral=True)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = module.init(jax.random.key(0), x)
    grown = jax.tree.map(lambda p: p * 100, variables["params"])
    variables = {**variables, "params": grown}
    step = jax.jit(lambda v: module.apply(v, x, train=True, mutable=["batch_stats"])[1])
    for _ in range(30):
        variables = {**variables, **step(variables)}
    for name in ("conv_0", "conv_1", "conv_out"):
        kernel = np.asarray(grown[name]["kernel"])
        largest = np.linalg.norm(kernel.reshape(-1, kernel.shape[-1]), 2)
        stats = variables["batch_stats"][f"spectral_{name}"]
        sigma = next(v for k, v in jax.tree_util.tree_leaves_with_path(stats) if "sigma" in str(k))
        np.testing.assert_allclose(sigma, largest, rtol=1e-2)


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"norm: got 'layer'.* Legal: batch, group, none\.$"):
        PatchDiscriminator(norm="layer")
    with pytest.raises(UserError, match=r"num_layers: got 0\. Legal: 1 or more\.$"):
        PatchDiscriminator(num_layers=0)
    module = PatchDiscriminator(channels=8, num_layers=3)
    with pytest.raises(UserError, match=r"16x16 are too small\. Legal: fewer layers, or images o"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
