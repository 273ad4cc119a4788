import numpy as np
import pytest
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.core.checks import UserError
from ldm_jax.samplers.dpmpp_3m_sde import dpmpp_3m_sde

LOG_2 = np.log(2)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_four_steps_that_each_halve_sigma(eta):
    """d_1 = (3 x0 - 4 h1 + h2) / 2 and d_2 = (x0 - 2 h1 + h2) / 2 where steps are even."""
    kept = 0.5 ** (1 + eta)
    phi_2 = 1 - (1 - kept) / ((1 + eta) * LOG_2)
    phi_3 = phi_2 / ((1 + eta) * LOG_2) - 1 / 2
    s = signal([8, 4, 2, 1])
    up = np.array([4, 2, 1, 0]) * np.sqrt(1 - 0.25**eta)
    assert_rows(
        dpmpp_3m_sde(levels_of(8, 4, 2, 1, 0), eta),
        from_z=1,
        base=[*s[1:] / s[:-1] * kept, 0],
        x0=[
            s[1] * (1 - kept),
            s[2] * (1 - kept + phi_2),
            s[3] * (1 - kept + 3 / 2 * phi_2 - 1 / 2 * phi_3),
            1,
        ],
        h1=[0, -s[2] * phi_2, s[3] * (-2 * phi_2 + phi_3), 0],
        h2=[0, 0, s[3] * (phi_2 - phi_3) / 2, 0],
        noise=[*s[1:], 1] * up,
        keep_x0=1,
    )


def test_errors():
    with pytest.raises(UserError, match=r"'dpmpp_3m_sde' eta: got -1\. Legal: 0 to 1\.$"):
        dpmpp_3m_sde(levels_of(1, 0), eta=-1)
    with pytest.raises(UserError, match="'dpmpp_3m_sde' with 2 steps: two of them"):
        dpmpp_3m_sde(levels_of(1, 1, 0))
