import numpy as np
import pytest
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.core.checks import UserError
from ldm_jax.samplers.euler_ancestral import euler_ancestral

NEXT = signal([2, 1, 0])


def test_three_steps():
    """Down to sigma_next^2 / sigma, and up to sigma_next again."""
    up = np.sqrt([4 * 5 / 9, 1 * 3 / 4, 0])
    rows = euler_ancestral(levels_of(3, 2, 1, 0))
    assert_rows(rows, from_z=1, x0=NEXT, eps=NEXT * [4 / 3, 1 / 2, 0], noise=NEXT * up)


def test_without_noise_it_is_euler():
    rows = euler_ancestral(levels_of(3, 2, 1, 0), eta=0.0)
    assert_rows(rows, from_z=1, x0=NEXT, eps=NEXT * [2, 1, 0])


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_illegal_eta(eta):
    with pytest.raises(UserError, match=f"'euler_ancestral' eta: got {eta}. Legal: 0 to 1."):
        euler_ancestral(levels_of(1, 0), eta)
