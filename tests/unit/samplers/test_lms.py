import numpy as np
import pytest
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.core.checks import UserError
from ldm_jax.samplers.lms import lms

# Adams-Bashforth, by how many earlier values there are; the steps here are -1.
WEIGHTS = -np.array(
    [
        [1, 0, 0, 0],
        [3 / 2, -1 / 2, 0, 0],
        [23 / 12, -16 / 12, 5 / 12, 0],
        [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    ]
)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_even_steps_are_adams_bashforth(order):
    sigmas, following = np.arange(6, 0, -1), signal(np.arange(5, -1, -1))
    now, *before = following * WEIGHTS[np.minimum(np.arange(6), order - 1)].T
    names = dict(zip(("h1", "h2", "h3"), before, strict=True))
    rows = lms(levels_of(6, 5, 4, 3, 2, 1, 0), order)
    assert_rows(rows, from_z=1, x0=following, eps=following * sigmas + now, keep_eps=1, **names)


def test_uneven_steps_integrate_the_line_through_two_values():
    """Through (9, a) and (4, b), from 4 to 1: -3 times the value in the middle, at 2.5.

    The slope is (b - a) / -5, so the value there is b - 1.5 (b - a) / -5.
    """
    rows = lms(levels_of(9, 4, 1), order=2)
    s_1 = signal(1)
    weight_b, weight_a = -3 * (1 + 1.5 / 5), 3 * 1.5 / 5
    assert rows.eps[1] == pytest.approx(s_1 * (4 + weight_b), rel=1e-12)
    assert rows.h1[1] == pytest.approx(s_1 * weight_a, rel=1e-12)


def test_errors():
    with pytest.raises(UserError, match=r"sampler 'lms' order: got 5\. Legal: 1, 2, 3, 4\.$"):
        lms(levels_of(1, 0), order=5)
    with pytest.raises(UserError, match="'lms' with 2 steps: two of them"):
        lms(levels_of(1, 1, 0))
