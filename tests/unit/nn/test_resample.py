import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.nn.resample import (
    PAD_AFTER,
    PAD_SYMMETRIC,
    Downsample,
    Upsample,
    downsample_average,
    downsample_nearest,
    upsample_nearest,
)

GRID = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)


def test_upsample_nearest_repeats_each_pixel():
    y = jax.jit(upsample_nearest)(GRID)[0, :, :, 0]
    assert y[0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert y[:, 0].tolist() == [0, 0, 4, 4, 8, 8, 12, 12]


def test_downsample_average_takes_means_of_cells():
    # 2x2 means; the same as bilinear x0.5 in facts 6.2.
    y = jax.jit(downsample_average)(GRID)[0, :, :, 0]
    assert y.tolist() == [[2.5, 4.5], [10.5, 12.5]]


def test_downsample_nearest_takes_the_first_pixel_of_each_cell():
    assert downsample_nearest(GRID, 2)[0, :, :, 0].tolist() == [[0, 2], [8, 10]]  # facts 6.2


@pytest.mark.parametrize(
    ("padding", "sums"),
    # A kernel of ones sums its window: symmetric windows start at -1, asymmetric ones at 0.
    [
        (
            PAD_SYMMETRIC,
            [[10, 24], [4 + 5 + 8 + 9 + 12 + 13, 5 + 6 + 7 + 9 + 10 + 11 + 13 + 14 + 15]],
        ),
        (PAD_AFTER, [[45, 2 + 3 + 6 + 7 + 10 + 11], [8 + 9 + 10 + 12 + 13 + 14, 50]]),
    ],
)
def test_downsample_paddings_differ(padding, sums):
    module = Downsample(padding)
    params = {"conv": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)}}
    y = module.apply({"params": params}, GRID)[0, :, :, 0]
    np.testing.assert_allclose(y, sums)


def test_upsample_convolves_after_doubling():
    params = {"conv": {"kernel": jnp.zeros((3, 3, 1, 1)).at[1, 1].set(2.0), "bias": jnp.ones(1)}}
    y = Upsample().apply({"params": params}, GRID)
    np.testing.assert_allclose(y[0, :2, :, 0], [[1, 1, 3, 3, 5, 5, 7, 7]] * 2)
