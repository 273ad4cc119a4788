"""Expected numbers are OpenCV 4's, cv2.resize with interpolation=1, 2 and 3."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.data.resampling import FILTERS, antialiased, area, cubic, linear, resample

ROW = np.array([3, 1, 4, 1, 5, 9, 2, 6], np.float32)[None, :, None]


@pytest.mark.parametrize(
    ("weights", "smaller", "larger"),
    [
        (linear, [1.33333, 3.0, 2.66667], [3.0, 2.0, 1.5, 3.5, 2.5, 1.66667]),
        (
            cubic,
            [1.02662, 2.34375, 1.96643],
            [3.17361, 1.71875, 1.30903, 3.79514, 2.40625, 1.24421],
        ),
        (area, [2.5, 3.875, 5.25], [3.0, 2.0, 1.0, 4.0, 2.5, 1.0]),
    ],
)
def test_filters_are_opencvs(weights, smaller, larger):
    np.testing.assert_allclose(resample(ROW, (1, 3), weights)[0, :, 0], smaller, atol=1e-5)
    np.testing.assert_allclose(resample(ROW, (1, 12), weights)[0, :6, 0], larger, atol=1e-5)


def test_the_antialiased_is_pillows_inside():
    image = np.random.default_rng(0).random((30, 40)).astype(np.float32)
    found = resample(image[:, :, None], (15, 20), antialiased)[2:-2, 2:-2, 0]
    expected = Image.fromarray(image).resize((20, 15), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(found, np.asarray(expected)[2:-2, 2:-2], atol=1e-6)


@pytest.mark.parametrize("weights", [*FILTERS, antialiased])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 5), (5, 1), (7, 7), (9, 4), (4, 9)])
def test_weights_are_means_about_the_same_middle(weights, before, after):
    matrix = weights(before, after)
    assert matrix.shape == (after, before)
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)
    if before == after:
        np.testing.assert_allclose(matrix, np.eye(before), atol=1e-12)


def test_rows_and_columns_are_not_mixed_up():
    image = np.random.default_rng(0).random((6, 4, 3))
    found = resample(image, (3, 2), area)
    np.testing.assert_allclose(found, image.reshape(3, 2, 2, 2, 3).mean((1, 3)))
