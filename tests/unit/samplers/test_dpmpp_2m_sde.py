import numpy as np
import pytest
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.core.checks import UserError
from ldm_jax.samplers.dpmpp_2m_sde import dpmpp_2m_sde

S_3, S_2, S_1 = signal([3, 2, 1])
RATIO = np.log(2) / np.log(1.5)


@pytest.mark.parametrize(
    ("solver", "change"),
    [("midpoint", RATIO * 3 / 8), ("heun", RATIO * (1 - 3 / 4 / (2 * np.log(2))))],
)
def test_three_steps(solver, change):
    """exp(-2 h) is 4/9, then 1/4, then 0."""
    assert_rows(
        dpmpp_2m_sde(levels_of(3, 2, 1, 0), solver=solver),
        from_z=1,
        base=[S_2 / S_3 * 4 / 9, S_1 / S_2 / 4, 0],
        x0=[S_2 * 5 / 9, S_1 * (3 / 4 + change), 1],
        h1=[0, -S_1 * change, 0],
        noise=[S_2 * 2 * np.sqrt(5 / 9), S_1 * np.sqrt(3 / 4), 0],
        keep_x0=1,
    )


def test_half_of_the_noise():
    """With eta 1/2, exp(-3/2 h) remains and the noise has variance sigma^2 (1 - exp(-h))."""
    kept = (2 / 3) ** 1.5
    rows = dpmpp_2m_sde(levels_of(3, 2), eta=0.5)
    noise = S_2 * 2 * np.sqrt(1 / 3)
    assert_rows(rows, from_z=1, base=S_2 / S_3 * kept, x0=S_2 * (1 - kept), noise=noise, keep_x0=1)


def test_errors():
    with pytest.raises(UserError, match=r"'dpmpp_2m_sde' eta: got 2\. Legal: 0 to 1\.$"):
        dpmpp_2m_sde(levels_of(1, 0), eta=2)
    with pytest.raises(UserError, match="'dpmpp_2m_sde' solver: got 'huen'; did you mean 'heun'"):
        dpmpp_2m_sde(levels_of(1, 0), solver="huen")
    with pytest.raises(UserError, match="'dpmpp_2m_sde' with 2 steps: two of them"):
        dpmpp_2m_sde(levels_of(1, 1, 0))
