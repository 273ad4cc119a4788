"""Images as files: what is kept, what is encoded anew, and at what size."""

import io

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.data.image_files import Storage, new_size
from ldm_jax.data.transforms import decode

RNG = np.random.default_rng(0)
SMOOTH = np.add.outer(np.arange(12), 3 * np.arange(20)).astype(np.uint8)[:, :, None]


def opened(files, name="image"):
    return Image.open(io.BytesIO(files[name]))


def stored(image, format_):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format_)
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((100, 200), 50, (50, 100)),
        ((200, 100), 50, (100, 50)),
        ((64, 64), 64, (64, 64)),
        ((10, 500), 64, (10, 500)),
        ((3, 5), 2, (2, 3)),  # 3.33
        ((2, 5), 1, (1, 3)),  # 2.5, and halves go up
        ((30, 40), None, (30, 40)),
    ],
)
def test_the_shorter_side_is_reduced_and_never_enlarged(size, limit, expected):
    assert new_size(*size, limit) == expected
    assert new_size(*size[::-1], limit) == expected[::-1]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_pixels_come_back_exactly_by_default(channels):
    image = RNG.integers(0, 256, (5, 7, channels), np.uint8)
    files = Storage().files({"image": image}, None)
    assert opened(files).format == "PNG"
    np.testing.assert_array_equal(decode(io.BytesIO(files["image"])), image)


def test_files_are_kept_where_nothing_changes():
    image = np.repeat(SMOOTH, 3, axis=2)
    for format_ in ("JPEG", "PNG", "TIFF"):
        original = stored(image, format_)
        assert Storage().files({"image": image}, original) == {"image": original}
        assert Storage(max_side=12).files({"image": image}, original) == {"image": original}
        resized = Storage(max_side=6).files({"image": image}, original)
        assert (opened(resized).format, opened(resized).size) == ("PNG", (10, 6))
    kept = Storage(image_format="jpeg").files({"image": image}, stored(image, "JPEG"))
    assert kept["image"] == stored(image, "JPEG")
    changed = Storage(image_format="jpeg").files({"image": image}, stored(image, "PNG"))
    assert opened(changed).format == "JPEG"


def test_formats_and_quality():
    image = RNG.integers(0, 256, (32, 32, 3), np.uint8)
    for name in ("jpeg", "webp"):
        high, low = (
            Storage(image_format=name, quality=q).files({"image": image}, None) for q in (95, 20)
        )
        assert opened(high).format == opened(low).format == name.upper()
        assert len(low["image"]) < len(high["image"]) / 2
    alpha = RNG.integers(0, 256, (4, 4, 4), np.uint8)
    assert opened(Storage(image_format="jpeg").files({"image": alpha}, None)).format == "PNG"
    assert opened(Storage(image_format="webp").files({"image": alpha}, None)).format == "WEBP"


def test_maps_are_resized_with_the_image_by_nearest_pixels():
    numbers = RNG.choice(np.array([0, 9, 200], np.uint8), (12, 20))
    mask = (numbers == 9).astype(np.uint8)
    example = {"image": SMOOTH, "segmentation": numbers, "mask": mask}
    files = Storage(max_side=6).files(example, None)
    assert list(files) == ["image", "segmentation", "mask"]
    maps = {name: np.asarray(opened(files, name)) for name in files}
    assert {each.shape for each in maps.values()} == {(6, 10)}
    assert set(np.unique(maps["segmentation"])) <= {0, 9, 200}
    np.testing.assert_array_equal(maps["mask"], maps["segmentation"] == 9)
    # A plane halved is a plane, but at the border.
    plane = np.asarray(opened(files)).astype(int)[1:-1, 1:-1]
    expected = np.add.outer(2 * np.arange(6) + 0.5, 3 * (2 * np.arange(10) + 0.5))[1:-1, 1:-1]
    np.testing.assert_allclose(plane, expected, atol=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_format": "jpg"}, "--format: got 'jpg'; did you mean 'jpeg'? Legal: auto, png, "),
        ({"quality": 0}, "--quality=0: legal is 1 to 100."),
        ({"max_side": 0}, "--resize=0: legal is 1 or more, in pixels."),
    ],
)
def test_illegal_settings(arguments, message):
    with pytest.raises(UserError) as error:
        Storage(**arguments)
    assert str(error.value).startswith(message)
