import numpy as np
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.samplers.dpm_2 import dpm_2


def test_three_steps():
    """Middles at sqrt(6) and sqrt(2): half-way in log sigma, and so in timesteps."""
    mid = np.sqrt([6, 2])
    s_3, s_2, s_1 = signal([3, 2, 1])
    m_0, m_1 = signal(mid)
    assert_rows(
        dpm_2(levels_of(3, 2, 1, 0)),
        t=[2, 1.5, 1, 0.5, 0],
        from_z=[1, 0, 1, 0, 1],
        from_base=[0, 1, 0, 1, 0],
        base=[0, s_2 / s_3, 0, s_1 / s_2, 0],
        x0=[m_0, 0, m_1, 0, 1],
        eps=[m_0 * mid[0], -s_2, m_1 * mid[1], -s_1, 0],
    )
