import numpy as np
import pytest
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.core.checks import UserError
from ldm_jax.samplers.dpmpp_2s_ancestral import dpmpp_2s_ancestral

S_3, S_2 = signal([3, 2])


def test_without_noise():
    """exp(-h) is 2/3, and exp(-h/2) its root."""
    middle, half = signal(np.sqrt(6)), np.sqrt(2 / 3)
    assert_rows(
        dpmpp_2s_ancestral(levels_of(3, 2, 0), eta=0.0),
        t=[1, 0.5, 0],
        from_z=[1, 0, 1],
        from_base=[0, 1, 0],
        base=[middle / S_3 * half, S_2 / S_3 * 2 / 3, 0],
        x0=[middle * (1 - half), S_2 / 3, 1],
    )


def test_with_noise():
    """Down from 3 to 4/3, with the middle at 2, and up by sqrt(20)/3."""
    assert_rows(
        dpmpp_2s_ancestral(levels_of(3, 2, 0)),
        t=[1, 0, 0],
        from_z=[1, 0, 1],
        from_base=[0, 1, 0],
        base=[S_2 / S_3 * 2 / 3, S_2 / S_3 * 4 / 9, 0],
        x0=[S_2 / 3, S_2 * 5 / 9, 1],
        noise=[0, S_2 * np.sqrt(20) / 3, 0],
    )


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_illegal_eta(eta):
    with pytest.raises(UserError, match=f"'dpmpp_2s_ancestral' eta: got {eta}. Legal: 0 to 1."):
        dpmpp_2s_ancestral(levels_of(1, 0), eta)
