import numpy as np
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.samplers.plms import plms


def test_six_steps():
    """x moves by -1 times eps', the first time twice: with eps, then with the mean of two."""
    s = signal([6, 5, 4, 3, 2, 1, 0])
    following = s[[1, 1, 2, 3, 4, 5, 6]]
    weights = -np.array(
        [
            [1, 0, 0, 0],
            [1 / 2, 1 / 2, 0, 0],
            [3 / 2, -1 / 2, 0, 0],
            [23 / 12, -16 / 12, 5 / 12, 0],
            *[[55 / 24, -59 / 24, 37 / 24, -9 / 24]] * 3,
        ]
    )
    eps, h1, h2, h3 = following * weights.T
    assert_rows(
        plms(levels_of(6, 5, 4, 3, 2, 1, 0)),
        t=[5, 4, 4, 3, 2, 1, 0],
        from_z=[1, 0, 1, 1, 1, 1, 1],
        from_base=[0, 1, 0, 0, 0, 0, 0],
        base=following / s[[0, 0, 1, 2, 3, 4, 5]],
        eps=eps,
        h1=h1,
        h2=h2,
        h3=h3,
        keep_eps=[1, 0, 1, 1, 1, 1, 1],
    )


def test_a_single_step_is_that_of_ddim():
    """x moves by -3 eps; asked again where nothing is noisy any more, a network knows nothing."""
    s_3 = signal(3)
    assert_rows(plms(levels_of(3, 0)), t=[0], from_z=[1], base=1 / s_3, eps=[-3], keep_eps=[1])
