"""Bytes to floats and back."""

import jax
import numpy as np

from ldm_jax.tasks.base import to_float_images, to_uint8_images


def test_every_level_survives_the_round_trip():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    images = jax.jit(to_float_images)(levels)
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, levels / 127.5 - 1.0, atol=1e-6)
    np.testing.assert_array_equal(jax.jit(to_uint8_images)(images), levels)


def test_clips_and_rounds_to_the_nearest_level():
    x = np.array([-5.0, -1.0, 0.4 / 127.5 - 1, 0.6 / 127.5 - 1, 1.0, 7.0], np.float32)
    got = to_uint8_images(jax.numpy.asarray(x))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, [0, 0, 0, 1, 255, 255])
