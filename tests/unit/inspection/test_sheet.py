"""Pictures of pictures: where each lies, and what its pixels are."""

import numpy as np

from ldm_jax.inspection.sheet import Cell, as_rgb, grey_map, heat_over, sheet


def image(value, height=4, width=6):
    draw = np.random.default_rng(value)
    return draw.integers(0, 200, (height, width, 3), dtype=np.uint8)


def test_every_image_is_enlarged_to_blocks_in_its_place():
    small = image(3, 2, 3)
    picture = sheet(["title"], [[Cell(image(1), "one"), Cell(image(2))], [Cell(small)]])
    assert picture.dtype == np.uint8
    # 6 columns become 96 pixels, 4 rows 64; a line is 14 high, a border 3 wide.
    assert picture.shape == (14 + 3 + 2 * (14 + 64 + 3), 3 + 2 * (96 + 3), 3)
    for (top, left), factor, expected in (
        ((31, 3), 16, image(1)),
        ((31, 102), 16, image(2)),
        ((112, 3), 32, small),
    ):
        block = np.kron(expected, np.ones((factor, factor, 1), np.uint8))
        np.testing.assert_array_equal(picture[top : top + 64, left : left + 96], block)
    # What is not written on is white, and labels stay above their own image.
    assert (picture[:14].min(), picture[17:31, 3:99].min()) < (128, 128)
    assert (picture[17:31, 102:] == 255).all()
    assert (picture[112:176, 102:] == 255).all()


def test_long_titles_are_broken_and_long_labels_cut():
    picture = sheet(
        ["word " * 12], [[Cell(image(1), "a label that is too long " * 3), Cell(image(2))]]
    )
    assert picture.shape[1] == 3 + 2 * (96 + 3)
    titles = (picture.shape[0] - 14 - 64 - 6) // 14
    assert titles == 2
    assert picture[14:28].min() < 128  # the second line has words in it
    label = picture[14 * titles + 3 :][:14]
    assert (label[:, 99:] == 255).all()


def test_a_grey_map_is_linear_in_its_range_and_clipped_outside():
    values = np.array([[-3.0, -2.0, -1.0], [0.0, 2.0, 5.0]])
    expected = [[0, 0, 64], [128, 255, 255]]  # (v + 2) / 4 of 255: 63.75, 127.5
    np.testing.assert_array_equal(grey_map(values, -2.0, 2.0)[..., 0], expected)
    np.testing.assert_array_equal(grey_map(np.ones((1, 2)), 1.0, 1.0), np.zeros((1, 2, 1)))


def test_heat_leaves_cold_places_grey_and_hides_three_quarters_of_hot_ones():
    below = np.array([[[30, 60, 90], [10, 10, 10]]], np.uint8)
    found = heat_over(below, np.array([[0.0, 0.5]]), high=0.5)
    np.testing.assert_array_equal(found[0, 0], [60, 60, 60])
    # A quarter of 10, three of (255, 70, 0).
    np.testing.assert_array_equal(found[0, 1], [194, 55, 2])
    # Maps are interpolated: halfway between two places, half the heat.
    wide = heat_over(np.zeros((1, 4, 1), np.uint8), np.array([[0.0, 1.0]]), high=1.0)
    np.testing.assert_array_equal(
        wide[0, :, 0], np.round(0.75 * 255 * np.array([0, 0.25, 0.75, 1]))
    )


def test_grey_images_have_three_equal_channels():
    grey = image(1)[..., :1]
    np.testing.assert_array_equal(as_rgb(grey), np.concatenate([grey] * 3, axis=-1))
