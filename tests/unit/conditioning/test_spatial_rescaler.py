import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import SpatialRescaler
from ldm_jax.core.checks import UserError

LABELS = np.random.default_rng(0).integers(0, 5, size=(2, 8, 12)).astype(np.int32)
KERNEL = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)


def halve(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


@pytest.mark.parametrize("num_stages", [1, 2])
def test_one_hot_maps_are_halved_and_embedded(num_stages):
    module = SpatialRescaler(5, 8, num_stages=num_stages)
    x = np.eye(5)[LABELS]
    for _ in range(num_stages):
        x = halve(x)
    found = jax.jit(module.apply)({"params": {"kernel": KERNEL}}, {"segmentation": LABELS})
    np.testing.assert_allclose(found.concat, x @ KERNEL, rtol=1e-5, atol=1e-6)
    assert found.context is None
    assert found.embedding is None


def test_null_is_zero_at_the_size_of_training():
    module = SpatialRescaler(5, 16, out_channels=2)
    null = module.apply({}, 3, method="null")
    np.testing.assert_array_equal(null.concat, np.zeros((3, 4, 4, 2)))


def test_fields_name_the_entry_and_its_shape():
    module = SpatialRescaler(5, 8, key="parts")
    assert module.inputs == ("parts",)
    assert module.input_shapes(24)["parts"] == jax.ShapeDtypeStruct((24, 24), jnp.int32)
    found = jax.jit(module.apply)({"params": {"kernel": KERNEL}}, {"parts": LABELS})
    assert found.concat.shape == (2, 2, 3, 3)


def test_parameters_of_the_published_model():
    module = SpatialRescaler(182, 256)
    batch = {"segmentation": jnp.zeros((1, 256, 256), jnp.int32)}
    shapes = jax.eval_shape(module.init, jax.random.key(0), batch)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 546


def test_kernel_starts_as_that_of_a_convolution():
    # torch's default for a layer of n inputs: U(-1 / sqrt(n), 1 / sqrt(n)).
    module = SpatialRescaler(100, 8, out_channels=50)
    kernel = module.init(jax.random.key(0), {"segmentation": LABELS})["params"]["kernel"]
    assert 0.095 < np.abs(kernel).max() <= 0.1
    np.testing.assert_allclose(np.std(kernel), 0.1 / np.sqrt(3), rtol=0.05)


def test_errors():
    with pytest.raises(UserError, match=r"2\^num_stages=4 must divide image_size=6"):
        SpatialRescaler(5, 6)
    with pytest.raises(UserError, match=r"spatial_rescaler.num_classes: got 0"):
        SpatialRescaler(0, 8)
    module, variables = SpatialRescaler(5, 8), {"params": {"kernel": KERNEL}}
    with pytest.raises(UserError, match=r"2\^num_stages=4 must divide a side of segmentation=6"):
        module.apply(variables, {"segmentation": LABELS[:, :6]})
    with pytest.raises(UserError, match=r"batch\['segmentation'\]: got shape \(2, 8, 12, 1\)"):
        module.apply(variables, {"segmentation": LABELS[..., None]})
