"""PSNR and SSIM against SciPy and by hand."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ldm_jax.core.checks import UserError
from ldm_jax.evaluation.reconstruction import difference, psnr, ssim

RNG = np.random.default_rng(0)


def pictures(n=3, h=24, w=17, c=3):
    x = gaussian_filter(RNG.uniform(0, 255, (n, h, w, c)), (0, 2, 2, 0))
    return np.clip((x - 128) * 4 + 128, 0, 255).round().astype(np.uint8)


def noisy(x, sigma):
    return np.clip(x + RNG.normal(0, sigma, x.shape), 0, 255).round().astype(np.uint8)


def expected_ssim(x, y):
    """Wang et al. 2004 with SciPy's filter, in float64, one channel at a time."""
    scores = []
    for a, b in zip(np.moveaxis(x, -1, 0), np.moveaxis(y, -1, 0), strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)

        def blur(v):
            return gaussian_filter(v, 1.5, truncate=3.5)[5:-5, 5:-5]

        ma, mb = blur(a), blur(b)
        va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
        c1, c2 = 2.55**2, 7.65**2
        part = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
        scores.append(part.mean())
    return np.mean(scores)


def test_psnr_by_hand():
    x = np.full((2, 4, 4, 1), 100, np.uint8)
    y = x.copy()
    y[1] += 10
    np.testing.assert_allclose(psnr(x, y), [100.0, 20 * np.log10(25.5)], rtol=1e-6)


def test_psnr_is_of_each_image():
    x = pictures()
    y = noisy(x, 9)
    error = np.mean((x.astype(float) - y) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(psnr(x, y), 10 * np.log10(255**2 / error), rtol=1e-5)


@pytest.mark.parametrize("sigma", [1, 10, 60])
def test_ssim_equals_scipys(sigma):
    x = pictures()
    y = noisy(x, sigma)
    wanted = [expected_ssim(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ssim(x, y), wanted, atol=2e-5)


def test_ssim_of_flat_white_pictures_keeps_its_digits():
    x = np.full((1, 12, 12, 3), 255, np.uint8)
    y = x.copy()
    y[:, 6, 6] = 253
    np.testing.assert_allclose(ssim(x, x), [1.0], atol=1e-6)
    np.testing.assert_allclose(ssim(x, y), [expected_ssim(x[0], y[0])], atol=1e-5)


def test_ssim_of_small_pictures_is_refused():
    x = np.zeros((1, 10, 32, 3), np.uint8)
    with pytest.raises(UserError, match=r"10x32 are too small\. Legal: 11 pixels"):
        ssim(x, x)


def test_the_difference_is_grey_where_both_agree():
    x = np.array([100, 100, 0, 255], np.uint8).reshape(1, 2, 2, 1)
    y = np.array([100, 90, 255, 0], np.uint8).reshape(1, 2, 2, 1)
    assert np.asarray(difference(x, y)).reshape(-1).tolist() == [128, 118, 255, 0]
