"""Weights of the training loss over timesteps.

Each function returns a table [T] float32 that multiplies the squared error in the network's own
parameterisation; the same objective therefore has another table for eps, x0 and v:

  |x0 error|^2 = |eps error|^2 / SNR = (1 - alpha_bar) |v error|^2.

Tables are computed on the host in float64 from `schedule.alpha_bar`, once, when a task is built.
"""

import jax.numpy as jnp
import numpy as np

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.core.types import Array
from ldm_jax.diffusion.parameterization import PARAMETERIZATIONS
from ldm_jax.diffusion.schedule import Schedule


def uniform(schedule: Schedule, parameterization: str) -> Array:
    """Returns ones, [T]: L_simple (Ho et al. 2020, eq. 14)."""
    check_in("parameterization", parameterization, PARAMETERIZATIONS)
    return jnp.ones(schedule.num_timesteps, jnp.float32)


def lvlb(schedule: Schedule, parameterization: str, reference: bool = False) -> Array:
    """Returns the weights of the variational bound, [T].

    In x0: w_t = (SNR_{t-1} - SNR_t) / 2 (Kingma et al. 2021, eq. 14), which in eps is
    beta^2 / (2 posterior_variance alpha (1 - alpha_bar)) (Ho et al. 2020, eq. 12). SNR_{-1} is
    infinite; entry 0 copies entry 1, as in the reference.

    Args:
      schedule: the noise schedule, T >= 2.
      parameterization: 'eps', 'x0' or 'v'.
      reference: use the reference's expression; it has none for v, and the same for eps.
    """
    check_in("parameterization", parameterization, PARAMETERIZATIONS)
    if schedule.num_timesteps < 2:
        raise UserError("weighting 'lvlb': got num_timesteps=1. Legal: 2 or more.")
    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)
    if reference and parameterization != "eps":
        check_in(
            "parameterization of weighting 'lvlb' with reference=True",
            parameterization,
            ("eps", "x0"),
        )
        # Operator precedence turned 2 (1 - alpha_bar) into 2 - alpha_bar, and sqrt(alpha_bar)
        # stands where the bound has the growth of the SNR.
        return _table(0.5 * np.sqrt(alpha_bar) / (2 - alpha_bar), copy_first=True)
    snr = alpha_bar / (1 - alpha_bar)
    # Differs from the reference in x0: this is the bound; its expression is not (see above).
    # SNR_{t-1} - SNR_t, written without the cancellation of two close quotients.
    gain = (alpha_bar[:-1] - alpha_bar[1:]) / ((1 - alpha_bar[:-1]) * (1 - alpha_bar[1:]))
    in_x0 = np.concatenate([gain[:1], gain]) / 2
    to_own = {"eps": 1 / snr, "x0": np.ones_like(snr), "v": 1 - alpha_bar}
    return _table(in_x0 * to_own[parameterization], copy_first=True)


def min_snr(schedule: Schedule, parameterization: str, gamma: float = 5.0) -> Array:
    """Returns min(SNR, gamma) for x0, over SNR for eps, over SNR + 1 for v, [T].

    Hang et al. 2023, section 3.4.

    Args:
      schedule: the noise schedule.
      parameterization: 'eps', 'x0' or 'v'.
      gamma: where the weight of nearly clean timesteps is cut off, > 0.
    """
    check_in("parameterization", parameterization, PARAMETERIZATIONS)
    if gamma <= 0:
        raise UserError(f"weighting 'min_snr' gamma: got {gamma}. Legal: greater than 0.")
    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)
    snr = alpha_bar / (1 - alpha_bar)
    divisor = {"eps": snr, "x0": np.ones_like(snr), "v": snr + 1}[parameterization]
    return _table(np.minimum(snr, gamma) / divisor)


WEIGHTINGS = {"uniform": uniform, "lvlb": lvlb, "min_snr": min_snr}


def _table(weights: np.ndarray, copy_first: bool = False) -> Array:
    if copy_first:
        weights = np.concatenate([weights[1:2], weights[1:]])
    return jnp.asarray(weights, jnp.float32)
