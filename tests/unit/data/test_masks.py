import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.masks import RandomMask

EXAMPLE = {"image": np.zeros((64, 64, 3), np.uint8)}


def masks(count=200, **options):
    make = RandomMask(**options)
    return np.stack([make(EXAMPLE, np.random.default_rng(k)) for k in range(count)])


def test_masks_are_zeros_and_ones_with_holes_in_each():
    found = masks()
    assert found.shape == (200, 64, 64)
    assert found.dtype == np.uint8
    assert set(np.unique(found)) == {0, 1}
    share = found.mean(axis=(1, 2))
    assert share.min() > 0
    assert 0.1 < share.mean() < 0.5


def test_the_same_generator_draws_the_same_mask():
    np.testing.assert_array_equal(masks(3), masks(3))


def test_a_single_box_has_the_edges_that_are_asked_for():
    for mask in masks(50, box_probability=1.0, max_boxes=1, min_box=0.25, max_box=0.5):
        rows, columns = np.where(mask.any(axis=1))[0], np.where(mask.any(axis=0))[0]
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert mask.sum() == height * width  # nothing but the rectangle
        assert 16 <= height <= 32
        assert 16 <= width <= 32


def test_strokes_are_at_least_as_wide_as_asked_for():
    """The most distant masked pixel from the known ones is half a stroke's width away."""
    from scipy import ndimage

    found = masks(50, box_probability=0.0, min_width=0.2, max_width=0.2, max_strokes=1)
    depths = [ndimage.distance_transform_edt(np.pad(m, 1, mode="edge")).max() for m in found]
    assert min(depths) >= 0.2 * 64 / 2 - 1.5


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"box_probability": 2.0}, "mask box_probability=2.0: legal is 0 to 1."),
        ({"max_boxes": 0}, "mask max_boxes=0: legal is 1 or more."),
        ({"min_box": 0.6}, "mask min_box=0.6, max_box=0.5: legal is 0 < min <= max <= 1."),
    ],
)
def test_errors(options, text):
    with pytest.raises(UserError) as error:
        RandomMask(**options)
    assert str(error.value) == text
