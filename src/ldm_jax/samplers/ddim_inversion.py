"""DDIM run backwards: from an image to the noise that DDIM makes it of."""

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows


def ddim_inversion(levels: Levels, refinements: int = 0) -> Rows:
    """Returns the rows that undo `ddim` with eta 0 over the same levels, from clean to noisy.

    A DDIM step from z to z_next is undone by

      z = sqrt(alpha_bar / alpha_bar_next) (z_next - sqrt(1 - alpha_bar_next) eps)
          + sqrt(1 - alpha_bar) eps

    with eps at (z, t), which is not known yet. The first evaluation takes it at (z_next, t), as
    Dhariwal and Nichol 2021 do; each refinement at the z found so far, a fixed-point iteration
    whose limit is the exact inverse (Pan et al. 2023, arXiv 2309.04907).

    Args:
      levels: that the image would be sampled with, from noisy to clean.
      refinements: further evaluations per step, 0 or more.
    """
    if refinements < 0:
        raise UserError(f"inversion refinements={refinements}: legal is 0 or more.")
    signal, noise = levels.signal[::-1], levels.noise[::-1]
    stay = signal[1:] / signal[:-1]
    along = noise[1:] - stay * noise[:-1]
    each = 1 + refinements
    first = np.arange(len(levels) * each) % each == 0
    t, stay, along = (np.repeat(x, each) for x in (levels.t[::-1], stay, along))
    return make_rows(t, from_z=first, from_base=~first, base=stay, eps=along)
