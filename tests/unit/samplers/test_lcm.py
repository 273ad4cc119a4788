import numpy as np
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.samplers.lcm import lcm


def test_three_steps():
    """At t = 2, 1, 0: u = 20, 10, 0, where f is z itself."""
    following = signal([2, 1, 0])
    skip = np.array([0.25 / 400.25, 0.25 / 100.25, 1])
    out = np.array([20 / np.sqrt(400.25), 10 / np.sqrt(100.25), 0])
    assert_rows(
        lcm(levels_of(3, 2, 1, 0)),
        t=[2, 1, 0],
        from_z=1,
        base=following * skip,
        x0=following * out,
        noise=following * [2, 1, 0],
    )
