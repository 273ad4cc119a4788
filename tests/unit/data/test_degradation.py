import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.data.degradation import LowResolution, bsr_light

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def test_bicubic_is_pillows_in_minus_one_to_one():
    found = LowResolution(4)({"image": IMAGE}, np.random.default_rng(0))
    expected = np.asarray(Image.fromarray(IMAGE).resize((8, 8), Image.Resampling.BICUBIC))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected / 127.5 - 1, atol=1e-6)
    assert LowResolution(4).shape(32) == ((8, 8, None), np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_bsr_light_has_the_size_and_looks_like_the_image(channels):
    smooth = np.asarray(Image.fromarray(IMAGE).resize((4, 4)).resize((32, 32)))[..., :channels]
    plain = LowResolution(4)({"image": smooth}, np.random.default_rng(0))
    errors = []
    for seed in range(40):
        small = bsr_light(smooth, 8, 4, np.random.default_rng(seed))
        assert small.shape == (8, 8, channels)
        assert small.dtype == np.uint8
        errors.append(np.abs(small / 127.5 - 1 - plain).mean())
    assert np.mean(errors) < 0.25  # a picture of it
    assert len({round(e, 6) for e in errors}) > 20  # degraded anew each time


def test_it_degrades():
    """Of an image of single pixels, blur and reductions leave less contrast than bicubic does."""
    plain = LowResolution(4)({"image": IMAGE}, np.random.default_rng(0)).std()
    make = LowResolution(4, "bsr_light")
    found = [make({"image": IMAGE}, np.random.default_rng(k)).std() for k in range(20)]
    assert np.mean(found) < plain


def test_errors():
    with pytest.raises(UserError, match="low_res factor=1: legal is 2 or more"):
        LowResolution(1)
    with pytest.raises(UserError, match="low_res kind: got 'bsr'"):
        LowResolution(4, "bsr")
    with pytest.raises(UserError, match="low_res factor=3 must divide image_size=32"):
        LowResolution(3).shape(32)


@pytest.mark.parametrize("kind", ["bicubic", "bsr_light"])
def test_a_rectangle_keeps_its_shape(kind):
    ramp = np.tile(np.linspace(40, 200, 192, dtype=np.uint8)[None, :, None], (64, 1, 3))
    means = ramp[0, :, 0].reshape(48, 4).mean(1) / 127.5 - 1
    for seed in range(8):
        small = LowResolution(4, kind)({"image": ramp}, np.random.default_rng(seed))
        assert small.shape == (16, 48, 3)
        assert np.abs(small.mean((0, 2)) - means).max() < 0.2
