import numpy as np
import pytest
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.samplers.euler import ancestral_sigmas, euler

NEXT = signal([2, 1, 0])


def test_three_steps():
    """x_next = x0 + sigma_next eps."""
    rows = euler(levels_of(3, 2, 1, 0))
    assert_rows(rows, t=[2, 1, 0], from_z=1, x0=NEXT, eps=NEXT * [2, 1, 0])


@pytest.mark.parametrize(
    ("eta", "down", "up"), [(0.0, 2.0, 0.0), (1.0, 4 / 3, np.sqrt(20) / 3), (0.6, None, None)]
)
def test_ancestral_sigmas(eta, down, up):
    """From 3 to 2 the posterior has variance 4 (9 - 4) / 9."""
    if up is None:
        up = eta * np.sqrt(20) / 3
        down = np.sqrt(4 - up**2)
    found = ancestral_sigmas(np.array([3.0]), np.array([2.0]), eta)
    np.testing.assert_allclose(np.ravel(found), [down, up], rtol=1e-14)


def test_ancestral_sigmas_of_a_long_step_keep_their_digits():
    """With eta 1, sigma_down = sigma_next^2 / sigma, far below the rounding of sigma_next^2."""
    down, up = ancestral_sigmas(np.array([4096.0]), np.array([1e-5]), 1.0)
    np.testing.assert_allclose(down, 1e-10 / 4096, rtol=1e-12)
    np.testing.assert_allclose(up, 1e-5, rtol=1e-12)
