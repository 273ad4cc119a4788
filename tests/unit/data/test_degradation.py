import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.data import degradation
from ldm_jax.data.degradation import (
    STEPS,
    LowResolution,
    blur_kernel,
    bsr_light,
    convolved,
    noise,
    step_order,
    strided,
)

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
        small = bsr_light(smooth, 4, np.random.default_rng(seed))
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


def blob(edge, y, x, sigma, low=30.0):
    i = np.arange(edge) + 0.5
    square = (i[:, None] - y) ** 2 + (i - x) ** 2
    return (low + 200 * np.exp(-square / (2 * sigma**2)))[:, :, None].astype(np.float32)


def centre(small, factor, low):
    """Where the bright spot is, in pixels of the large image."""
    weight = np.where(small[..., 0] > low, small[..., 0] - low, 0.0)
    i = (np.arange(len(small)) + 0.5) * factor
    return np.array([weight.sum(1) @ i, weight.sum(0) @ i]) / weight.sum()


def test_bsr_light_moves_nothing():
    image = blob(96, 46.3, 51.8, 11).astype(np.uint8)
    found = []
    for seed in range(100):
        small = bsr_light(image, 4, np.random.default_rng(seed)).astype(float)
        found.append(centre(small, 4, 45.0) - [46.3, 51.8])
    assert np.abs(found).max() < 0.3
    assert np.abs(np.mean(found, 0)).max() < 0.03


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.4])
def test_every_nth_pixel_is_of_the_middle_of_n(factor, sigma):
    small = strided(blob(48, 22.3, 25.8, 4), factor, sigma)
    assert small.shape == (48 // factor, 48 // factor, 1)
    np.testing.assert_allclose(centre(small, factor, 31.0), [22.3, 25.8], atol=0.05)
    # A ramp's mean over n pixels, away from the mirrored edges.
    ramp = np.arange(96.0)[None, :, None].repeat(4, 0)
    means = ramp[:1, :, 0].reshape(-1, factor).mean(1)
    inner = slice(16 // factor, 72 // factor)
    np.testing.assert_allclose(strided(ramp, factor, sigma)[0, inner, 0], means[inner], atol=1e-4)


@pytest.mark.parametrize("factor", [2, 4])
def test_blur_kernels_are_small_centred_gaussians(factor):
    variances, sizes = [], set()
    for seed in range(200):
        kernel = blur_kernel(factor, np.random.default_rng(seed))
        taps = np.arange(len(kernel)) - len(kernel) // 2
        sizes.add(len(kernel))
        np.testing.assert_allclose(kernel.sum(), 1)
        np.testing.assert_allclose([kernel.sum(0) @ taps, kernel.sum(1) @ taps], 0, atol=1e-12)
        variances.append(np.array([kernel.sum(0) @ taps**2, kernel.sum(1) @ taps**2]))
    assert sizes == {5, 7, 9, 11, 13, 15}
    assert np.max(variances) < (4 + factor) / 4  # the widest ellipse's longer axis
    assert np.max(variances) > 0.6 * (4 + factor) / 4
    assert any(abs(v[0] - v[1]) < 1e-9 < v[0] for v in variances)
    assert any(abs(v[0] - v[1]) > 0.2 for v in variances)


def test_a_blur_leaves_flat_images_flat():
    flat = np.full((3, 20, 3), 0.25, np.float32)
    kernel = blur_kernel(4, np.random.default_rng(0))
    np.testing.assert_allclose(convolved(flat, kernel), flat, atol=1e-6)


def test_the_last_resize_follows_the_reduction():
    orders = {tuple(step_order(np.random.default_rng(seed))) for seed in range(2000)}
    assert len(orders) == 60  # of 120, the half in which it does
    for order in orders:
        assert sorted(order) == sorted(STEPS)
        assert order.index("reduce") < order.index("finish")


def test_sizes_on_the_way_are_never_below_half_of_the_last(monkeypatch):
    """The reduction is by up to twice the factor, which is 2 once the image has half its size."""
    seen, plain = [], degradation.resample

    def spy(image, size, weights):
        seen[-1].append((image.shape[0], size[0]))
        return plain(image, size, weights)

    monkeypatch.setattr(degradation, "resample", spy)
    for seed in range(200):
        seen.append([])
        bsr_light(IMAGE[:, :, :1], 4, np.random.default_rng(seed))
    halved = [sizes for sizes in seen if (32, 16) in sizes[:1]]
    for sizes in seen:
        assert sizes[-1][1] == 8
        assert min(after for _, after in sizes) >= 4
        assert sizes not in halved or all(before <= 16 for before, _ in sizes[1:])
    assert 0.1 < len(halved) / len(seen) < 0.4
    assert any(after < 8 for sizes in seen for _, after in sizes)
    by_stride = [sizes for sizes in seen if sizes[-1][0] == 8 and len(sizes) == 1]
    assert 0.05 < len(by_stride) / len(seen) < 0.3


def test_only_a_factor_of_four_is_two_of_two():
    for seed in range(60):
        found = bsr_light(IMAGE[:30, :30], 3, np.random.default_rng(seed))
        assert found.shape == (10, 10, 3)


@pytest.mark.parametrize("shape", [(67, 33, 3), (5, 7, 1), (4, 4, 3), (34, 19, 3)])
def test_what_the_factor_does_not_divide_is_cut_off(shape):
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    for seed in range(30):
        small = bsr_light(image, 4, np.random.default_rng(seed))
        assert small.shape == (shape[0] // 4, shape[1] // 4, shape[2])
        assert small.dtype == np.uint8


def test_the_seed_decides():
    first, again, other = (bsr_light(IMAGE, 4, np.random.default_rng(k)) for k in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


@pytest.mark.parametrize("channels", [1, 3])
def test_noise_is_of_one_or_two_levels(channels):
    coloured, grey = [], []
    for seed in range(200):
        drawn = noise((40, 40, channels), np.random.default_rng(seed)) * 255
        assert drawn.dtype == np.float32
        (grey if drawn.shape[2] == 1 else coloured).append(drawn.std((0, 1)))
    deviations = np.concatenate(coloured + grey)
    assert deviations.max() < 2.3
    if channels == 1:
        return
    assert 0.25 < len(grey) / 200 < 0.55
    levels = [round(float(d[0])) for d in grey]
    assert set(levels) == {1, 2}
    independent = [d for d in coloured if np.abs(d - np.round(d.mean())).max() < 0.15]
    assert 0.25 < len(independent) / 200 < 0.55


def test_correlated_noise_goes_together_in_the_channels():
    found = []
    for seed in range(100):
        drawn = noise((40, 40, 3), np.random.default_rng(seed))
        if drawn.shape[2] == 3:
            found.append(np.corrcoef(drawn.reshape(-1, 3).T)[np.triu_indices(3, 1)].max())
    assert np.sum(np.array(found) > 0.15) > 8
    assert np.sum(np.array(found) < 0.1) > 20


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
