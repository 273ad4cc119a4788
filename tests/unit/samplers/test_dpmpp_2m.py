import numpy as np
import pytest
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.core.checks import UserError
from ldm_jax.samplers.dpmpp_2m import dpmpp_2m


def test_three_steps():
    """exp(-h) is 2/3, then 1/2, then 0; only the second step has both a past and an end."""
    s_3, s_2, s_1 = signal([3, 2, 1])
    slope = np.log(2) / np.log(1.5) / 2 / 2
    assert_rows(
        dpmpp_2m(levels_of(3, 2, 1, 0)),
        from_z=1,
        base=[s_2 / s_3 * 2 / 3, s_1 / s_2 / 2, 0],
        x0=[s_2 / 3, s_1 * (1 / 2 + slope), 1],
        h1=[0, -s_1 * slope, 0],
        keep_x0=1,
    )


def test_levels_that_repeat():
    text = "sampler 'dpmpp_2m' with 3 steps: two of them are at one noise level. Legal: fewer"
    with pytest.raises(UserError, match=text):
        dpmpp_2m(levels_of(3, 2, 2, 1))
