"""Pseudo linear multistep sampling (Liu et al. 2022, arXiv 2202.09778), as in the reference."""

import numpy as np

from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, interleave, make_rows

# Adams-Bashforth weights of the present and earlier eps, by how many earlier ones there are.
_WEIGHTS = np.array([[1, 0, 0, 0], [3, -1, 0, 0], [23, -16, 5, 0], [55, -59, 37, -9]])
_DIVISORS = np.array([1, 2, 12, 24])


def plms(levels: Levels) -> Rows:
    """Returns DDIM steps along a combination eps' of the last four eps, from z alone.

    z_next = sqrt(alpha_bar_next) (z - sqrt(1 - alpha_bar) eps') / sqrt(alpha_bar)
             + sqrt(1 - alpha_bar_next) eps'

    The first step takes two evaluations, eps' being the mean of eps at both its ends, so that there
    are S + 1 rows (a single step is DDIM's); from the second on eps' = (3 eps - h1) / 2, and so on
    up to four values.
    """
    signal, noise = levels.signal, levels.noise
    stay = signal[1:] / signal[:-1]
    along = noise[1:] - stay * noise[:-1]
    known = np.minimum(np.arange(len(levels)), 3)
    eps, h1, h2, h3 = along * (_WEIGHTS[known] / _DIVISORS[known, None]).T
    rows = make_rows(levels.t, base=stay, eps=eps, h1=h1, h2=h2, h3=h3, keep_eps=1)
    if len(levels) == 1:
        # Differs from the reference, which asks again at the same timestep, of what is clean.
        return rows
    t_next = levels.t[1]
    half = along[:1] / 2
    again = make_rows(np.array([t_next]), from_z=0, from_base=1, base=stay[:1], eps=half, h1=half)
    return interleave(rows, again)
