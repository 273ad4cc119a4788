import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.layout import LayoutTokens
from ldm_jax.data.transforms import transform_example


def tokens_of(boxes, size=(10, 10), flip=0.0, **options):
    example = {
        "image": np.zeros((*size, 3), np.uint8),
        "boxes": np.array(boxes, np.float32),
    }
    made = transform_example(
        example,
        np.random.default_rng(1),
        image_size=4,
        flip_probability=flip,
        derive={"layout": LayoutTokens(**options)},
    )
    return made["layout"]


def corner(x, y, sections=90):
    return round(y * (sections - 1)) * sections + round(x * (sections - 1))


def test_full_size_has_92_tokens_of_8192():
    """Facts 2.14: three an object, 8191 where there is none, the crop at the end."""
    found = tokens_of([[0.1, 0.2, 0.5, 0.9, 17], [-1] * 5])
    assert found.shape == (92,)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[:3], [17, corner(0.1, 0.2), corner(0.5, 0.9)])
    np.testing.assert_array_equal(found[3:90], 8191)
    np.testing.assert_array_equal(found[90:], [corner(0, 0), corner(1, 1)])


def test_boxes_stay_in_the_whole_image_and_the_crop_is_told():
    """The middle square of an image twice as wide as high; boxes outside it are left out."""
    boxes = [[0.3, 0.0, 0.7, 0.5, 1], [0.0, 0.0, 0.2, 1.0, 2]]
    found = tokens_of(boxes, size=(10, 20), num_objects=2, vocab_size=1025)
    place = [corner(0.3, 0.0, 32), corner(0.7, 0.5, 32)]
    np.testing.assert_array_equal(found[:6], [1, *place, 1024, 1024, 1024])
    np.testing.assert_array_equal(found[6:], [corner(0.25, 0, 32), corner(0.75, 1, 32)])


def test_mirrored_images_have_mirrored_boxes():
    found = tokens_of([[0.1, 0.2, 0.4, 0.9, 3]], flip=1.0, num_objects=1, vocab_size=1025)
    np.testing.assert_array_equal(found[:3], [3, corner(0.6, 0.2, 32), corner(0.9, 0.9, 32)])


def test_a_box_that_the_crop_cuts_stays_whole():
    """Facts 2.14: boxes stay in the coordinates of the full image; here its middle half shows."""
    boxes = [[0.1, 0.2, 0.5, 0.9, 7], [0.75, 0.0, 1.0, 1.0, 8]]
    found = tokens_of(boxes, size=(100, 200), num_objects=2)
    np.testing.assert_array_equal(found[:3], [7, corner(0.1, 0.2), corner(0.5, 0.9)])
    np.testing.assert_array_equal(found[3:6], 8191)  # it only touches the crop
    flipped = tokens_of(boxes, size=(100, 200), flip=1.0, num_objects=2)
    np.testing.assert_array_equal(flipped[:3], [7, corner(0.5, 0.2), corner(0.9, 0.9)])
    np.testing.assert_array_equal(flipped[6:], [corner(0.25, 0), corner(0.75, 1)])


@pytest.mark.parametrize("size", [20, (20, 30), (20, 8)])
@pytest.mark.parametrize("flip", [False, True])
def test_random_crops_choose_boxes_and_leave_their_corners(size, flip):
    """Of boxes side by side, ten pixels each, those that a crop anywhere shows a pixel of."""
    boxes = np.array([[k / 6, 0.1, (k + 1) / 6, 0.6, k] for k in range(6)], np.float32)
    example = {"image": np.zeros((20, 60, 3), np.uint8), "boxes": boxes}
    frames = set()
    for seed in range(12):
        made = transform_example(
            example,
            np.random.default_rng(seed),
            image_size=size,
            random_crop=True,
            flip_probability=float(flip),
            derive={"layout": LayoutTokens(6, vocab_size=61**2)},
        )["layout"]
        left, right = made[-2] % 61, made[-1] % 61
        frames.add(left)
        places = {}
        for k in range(6):
            start = 50 - 10 * k if flip else 10 * k
            if max(start, left) < min(start + 10, right):
                places[k] = [corner(start / 60, 0.1, 61), corner((start + 10) / 60, 0.6, 61)]
        found = {row[0]: row[1:] for row in made[:-2].reshape(6, 3).tolist() if row[0] < 3720}
        assert found == places
    assert len(frames) > 4


@pytest.mark.parametrize("size", [30, (30, 45), (30, 12)])
@pytest.mark.parametrize("seed", range(4))
def test_the_last_tokens_are_the_crop_of_the_image_as_it_is_mirrored(size, seed):
    """With 61 sections every pixel corner of a 30 x 60 image is a token of its own."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (30, 60, 3), np.uint8)
    boxes = np.array([[10 / 60, 0.1, 50 / 60, 0.9, 5]], np.float32)
    flips = set()
    for flip_probability in (0.0, 1.0):
        made = transform_example(
            {"image": image, "boxes": boxes},
            np.random.default_rng(seed),
            image_size=size,
            random_crop=True,
            flip_probability=flip_probability,
            derive={"layout": LayoutTokens(1, vocab_size=61**2)},
        )
        (top, left), (bottom, right) = (divmod(int(t), 61) for t in made["layout"][-2:])
        whole = image[:, ::-1] if flip_probability else image
        shown = whole[top // 2 : bottom // 2, left:right]
        np.testing.assert_array_equal(shown, made["image"])
        # The box stays whole in the same whole image; it is symmetric about the middle.
        (y0, x0), (y1, x1) = (divmod(int(t), 61) for t in made["layout"][1:3])
        assert (y0, x0, y1, x1) == (6, 10, 54, 50)
        flips.add(left)
    assert flips == {left, 60 - right}


def test_too_many_objects_are_a_random_choice():
    boxes = [[0.1 * k, 0.1, 0.1 * k + 0.1, 0.3, k] for k in range(8)]
    layout = LayoutTokens(num_objects=3)
    example = {"image": np.zeros((10, 10, 3), np.uint8), "boxes": np.array(boxes, np.float32)}
    seen = set()
    for seed in range(20):
        made = transform_example(
            example, np.random.default_rng(seed), image_size=10, derive={"layout": layout}
        )
        labels = made["layout"][[0, 3, 6]]
        assert len(set(labels)) == 3
        seen |= set(labels.tolist())
    assert seen == set(range(8))


def test_errors():
    with pytest.raises(UserError, match="layout: got num_objects=0"):
        LayoutTokens(num_objects=0)
    with pytest.raises(UserError, match=r"layout: class 30 with vocab_size=25\. Legal: classes up"):
        tokens_of([[0, 0, 1, 1, 30]], vocab_size=25)
