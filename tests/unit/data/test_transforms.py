import io

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.data.transforms import (
    Crop,
    as_channels,
    choose_crop,
    crop_boxes,
    crop_resize,
    decode,
    transform_example,
)


def encoded(image: Image.Image, format_: str = "PNG", **options) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    buffer.seek(0)
    return buffer


def flat(mode: str, colour) -> Image.Image:
    return Image.new(mode, (5, 3), colour)


def test_plain_modes():
    cases = {
        "1": (1, [255]),
        "L": (77, [77]),
        "LA": ((77, 10), [77, 10]),
        "RGB": ((1, 2, 3), [1, 2, 3]),
        "RGBA": ((1, 2, 3, 4), [1, 2, 3, 4]),
    }
    for mode, (colour, expected) in cases.items():
        pixels = decode(encoded(flat(mode, colour)))
        assert pixels.shape == (3, 5, len(expected)), mode
        assert pixels.dtype == np.uint8
        assert pixels[1, 2].tolist() == expected, mode


def test_palette_with_and_without_transparency():
    image = flat("P", 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    assert decode(encoded(image))[0, 0].tolist() == [200, 100, 50]
    transparent = decode(encoded(image, transparency=1))
    assert transparent[0, 0].tolist() == [200, 100, 50, 0]
    assert as_channels(transparent, 3, (9, 8, 7))[0, 0].tolist() == [9, 8, 7]


def test_key_colours_become_transparent():
    assert decode(encoded(flat("L", 9), transparency=9))[0, 0].tolist() == [9, 9, 9, 0]
    rgb = decode(encoded(flat("RGB", (1, 2, 3)), transparency=(1, 2, 3)))
    assert rgb[0, 0].tolist() == [1, 2, 3, 0]


def test_cmyk_and_sixteen_bits():
    # Pure cyan ink: no red, full green and blue, up to the JPEG.
    pixels = decode(encoded(flat("CMYK", (255, 0, 0, 0)), "JPEG", quality=95))
    np.testing.assert_allclose(pixels[0, 0].astype(int), [0, 255, 255], atol=3)
    deep = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    # round(v / 257), since 65535 = 255 * 257
    assert decode(encoded(Image.fromarray(deep)))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]
    assert decode(encoded(Image.fromarray(deep), "TIFF"))[0, 5, 0] == 255


def test_floating_point_pixels_are_refused():
    with pytest.raises(ValueError, match="floating-point pixels have no fixed range"):
        decode(encoded(Image.new("F", (2, 2)), "TIFF"))


def test_exif_orientation_is_applied():
    # Orientation 6: the file's left column is the top row, from right to left.
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = Image.fromarray(np.rot90(upright, 1).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(decode(encoded(stored, exif=exif))[:, :, 0], upright)


def test_compositing_and_luma():
    rgba = np.array([[[100, 0, 200, 128]]], np.uint8)
    # (c a + b (255 - a)) / 255, rounded
    assert as_channels(rgba, 3, (0, 255, 255))[0, 0].tolist() == [50, 127, 227]
    rgb = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 9, 9]]], np.uint8)
    assert as_channels(rgb, 1)[0, :, 0].tolist() == [76, 150, 29, 9]
    grey = np.array([[[10]]], np.uint8)
    assert as_channels(grey, 3)[0, 0].tolist() == [10, 10, 10]
    assert as_channels(np.array([[[10, 0]]], np.uint8), 1)[0, 0].tolist() == [255]
    with pytest.raises(UserError, match=r"channels: got 4.* Legal: 1, 3"):
        as_channels(rgb, 4)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (301, 7), (33, 32), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_shape_becomes_a_square(shape, channels):
    rng = np.random.default_rng(0)
    image = np.full((*shape, channels), 123, np.uint8)
    changed = transform_example({"image": image}, rng, image_size=32, channels=channels)
    assert changed["image"].shape == (32, 32, channels)
    np.testing.assert_array_equal(changed["image"], 123)


def test_centre_crop_without_resizing_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (8, 13, 3), np.uint8)
    crop = choose_crop(8, 13, np.random.default_rng(0), False, 0.0)
    np.testing.assert_array_equal(crop_resize(image, crop, 8), image[:, 2:10])
    flipped = choose_crop(8, 13, np.random.default_rng(0), False, 1.0)
    np.testing.assert_array_equal(crop_resize(image, flipped, 8), image[:, 9:1:-1])


def test_reduction_does_not_alias():
    checkerboard = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)[:, :, None]
    small = crop_resize(checkerboard, Crop(0, 0, 128, 128), 16)
    # Inside, the stripes average out; subsampling would give 0 or 255.
    assert np.abs(small[2:-2, 2:-2].astype(int) - 128).max() <= 2


def test_random_crops_reach_both_ends_and_repeat_with_the_seed():
    crops = [choose_crop(4, 9, np.random.default_rng(k), True, 0.5) for k in range(200)]
    assert {crop.left for crop in crops} == set(range(6))
    assert {crop.top for crop in crops} == {0}
    assert 70 < sum(crop.flip for crop in crops) < 130
    assert crops[3] == choose_crop(4, 9, np.random.default_rng(3), True, 0.5)


def test_boxes_and_segmentation_follow_the_image():
    image = np.zeros((10, 20, 3), np.uint8)
    image[2:6, 10:14] = 255
    example = {
        "image": image,
        "segmentation": (image[:, :, 0] > 0).astype(np.uint8),
        "mask": (image[:, :, 0] > 0).astype(np.uint8),
        "boxes": np.array([[0.5, 0.2, 0.7, 0.6, 7], [0.0, 0.0, 0.2, 1.0, 1], [-1] * 5], np.float32),
    }
    rng = np.random.default_rng(0)
    changed = transform_example(example, rng, image_size=10, flip_probability=1.0)
    # Columns 5 .. 15 remain, so the object spans 5 .. 9 of 10, mirrored 1 .. 5.
    np.testing.assert_allclose(changed["boxes"][0], [0.1, 0.2, 0.5, 0.6, 7], atol=1e-6)
    np.testing.assert_array_equal(changed["boxes"][1:], -1)
    for name in ("segmentation", "mask"):
        np.testing.assert_array_equal(changed[name] * 255, changed["image"][:, :, 0])
        assert changed[name].dtype == np.uint8
    assert changed["image"][2:6, 1:5].min() == 255
    assert changed["image"].astype(int).sum() == 4 * 4 * 3 * 255


def test_masks_are_resized_without_shades():
    mask = (np.indices((9, 9)).sum(0) % 2).astype(np.uint8)
    example = {"image": np.zeros((9, 9, 3), np.uint8), "mask": mask}
    changed = transform_example(example, np.random.default_rng(0), image_size=(4, 4))
    assert changed["mask"].shape == (4, 4)
    assert set(np.unique(changed["mask"])) <= {0, 1}


@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (1, 1), (33, 32), (2, 3)])
@pytest.mark.parametrize("size", [(8, 16), (16, 8), (32, 4)])
def test_any_shape_covers_a_rectangle(shape, size):
    crop = choose_crop(*shape, np.random.default_rng(1), True, 0.5, size)
    # As much of the image as has the shape: one side whole, the other within half a pixel.
    scale = min(shape[0] / size[0], shape[1] / size[1])
    assert abs(crop.height - max(1, scale * size[0])) <= 0.5
    assert abs(crop.width - max(1, scale * size[1])) <= 0.5
    assert crop.height == shape[0] or crop.width == shape[1]
    assert 0 <= crop.left <= shape[1] - crop.width
    assert 0 <= crop.top <= shape[0] - crop.height
    image = np.full((*shape, 3), 9, np.uint8)
    np.testing.assert_array_equal(crop_resize(image, crop, size), np.full((*size, 3), 9))


def test_partly_visible_boxes_are_clipped():
    boxes = np.array([[0.0, 0.0, 0.5, 1.0, 2]], np.float32)
    np.testing.assert_allclose(
        crop_boxes(boxes, Crop(5, 0, 10, 10), 10, 20)[0], [0, 0, 0.5, 1, 2], atol=1e-6
    )
