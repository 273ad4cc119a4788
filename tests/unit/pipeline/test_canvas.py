import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.pipeline.canvas import extend_canvas, known_latents, paste


def test_a_latent_is_known_where_none_of_its_pixels_is_painted_over():
    masks = np.zeros((2, 4, 6), np.float32)
    masks[0, 1, 3] = 1  # one pixel of the cell at row 0, column 1
    masks[1, 2:, :2] = 0.25
    expected = np.ones((2, 2, 3, 1), np.float32)
    expected[0, 0, 1], expected[1, 1, 0] = 0, 0.75
    np.testing.assert_array_equal(known_latents(masks, 2), expected)


def test_a_canvas_is_extended_by_its_border():
    image = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3)
    whole, mask = extend_canvas(image, (1, 0, 0, 2))
    assert whole.shape == (3, 4, 3)
    np.testing.assert_array_equal(whole[1:, :2], image)
    np.testing.assert_array_equal(whole[0, :2], image[0])
    np.testing.assert_array_equal(whole[1:, 2], image[:, 1])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]])
    with pytest.raises(UserError, match=r"borders=\(1, 2\): legal are four numbers of pixels"):
        extend_canvas(image, (1, 2))


def test_paste_keeps_what_the_mask_leaves_out():
    images = np.full((1, 2, 2, 1), 200, np.uint8)
    original, masks = np.full((1, 2, 2, 1), 100, np.uint8), np.array([[[0.0, 1.0], [0.5, 0.0]]])
    expected = np.array([[100, 200], [150, 100]])
    np.testing.assert_array_equal(paste(images, original, masks)[0, ..., 0], expected)
    floats = paste(images.astype(np.float32) / 127.5 - 1, original, masks)
    np.testing.assert_allclose(floats[0, ..., 0], expected / 127.5 - 1, atol=1e-6)
