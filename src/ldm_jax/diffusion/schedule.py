"""Noise schedules: how much of the signal is left at every training timestep.

The forward process is q(z_t | x0) = N(sqrt(alpha_bar_t) x0, (1 - alpha_bar_t) I) with
alpha_bar_t = prod_{s <= t} (1 - beta_s), t = 0 .. T - 1 (Ho et al. 2020, eq. 4). Index 0 is
already noisy; clean data have alpha_bar = 1 and no index.
"""

import flax.struct
import jax.numpy as jnp
import numpy as np

from ldm_jax.core.checks import UserError, lookup
from ldm_jax.core.types import Array

# What stays of alpha_bar_{T-1} where the terminal SNR is called zero.
ZERO_TERMINAL = 2.0**-24


@flax.struct.dataclass
class Schedule:
    """The table that every formula of the diffusion process reads.

    Attributes:
      alpha_bar: [T] float32, strictly decreasing, in (0, 1).
    """

    alpha_bar: Array

    @property
    def num_timesteps(self) -> int:
        """T, the number of training timesteps."""
        return self.alpha_bar.shape[0]

    def snr(self) -> Array:
        """Returns the signal-to-noise ratio alpha_bar / (1 - alpha_bar), [T]."""
        return self.alpha_bar / (1 - self.alpha_bar)


def linear(num_timesteps: int, start: float, end: float, cosine_s: float) -> np.ndarray:
    """Returns betas whose square roots are evenly spaced, [T]: the schedule of the LDM paper."""
    return np.linspace(start**0.5, end**0.5, num_timesteps) ** 2


def sqrt_linear(num_timesteps: int, start: float, end: float, cosine_s: float) -> np.ndarray:
    """Returns evenly spaced betas, [T]: what Ho et al. 2020 call linear."""
    return np.linspace(start, end, num_timesteps)


def cosine(num_timesteps: int, start: float, end: float, cosine_s: float) -> np.ndarray:
    """Returns betas for alpha_bar(u) = cos^2(pi/2 (u + s) / (1 + s)), u = t / T, [T].

    Nichol and Dhariwal 2021, eq. 17. `start` and `end` are unused. Clipped to [0, 0.999], since
    alpha_bar reaches 0 at u = 1.
    """
    u = np.arange(num_timesteps + 1) / num_timesteps
    alpha_bar = np.cos(np.pi / 2 * (u + cosine_s) / (1 + cosine_s)) ** 2
    return np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0, 0.999)


def sqrt(num_timesteps: int, start: float, end: float, cosine_s: float) -> np.ndarray:
    """Returns square roots of evenly spaced numbers, [T].

    At T = 1000 `start` and `end` must be far smaller than for the others, or alpha_bar vanishes.
    """
    return np.linspace(start, end, num_timesteps) ** 0.5


SCHEDULES = {"linear": linear, "sqrt_linear": sqrt_linear, "cosine": cosine, "sqrt": sqrt}


def betas(
    name: str = "linear",
    num_timesteps: int = 1000,
    start: float = 0.0015,
    end: float = 0.0195,
    cosine_s: float = 8e-3,
) -> np.ndarray:
    """Returns the noise variances beta_t of single steps, [T] float64; see `make_schedule`."""
    if num_timesteps < 1:
        raise UserError(f"num_timesteps: got {num_timesteps}. Legal: 1 or more.")
    for what, value in (("start", start), ("end", end)):
        if not 0 < value < 1:
            raise UserError(f"schedule {what}: got {value}. Legal: between 0 and 1, exclusive.")
    return lookup("schedule", SCHEDULES, name)(num_timesteps, start, end, cosine_s)


def alpha_bars(
    name: str = "linear",
    num_timesteps: int = 1000,
    start: float = 0.0015,
    end: float = 0.0195,
    cosine_s: float = 8e-3,
) -> np.ndarray:
    """Returns alpha_bar_t = prod_{s <= t} (1 - beta_s), [T] float64; see `make_schedule`."""
    return np.cumprod(1 - betas(name, num_timesteps, start, end, cosine_s))


def rescale_zero_terminal_snr(alpha_bar: np.ndarray) -> np.ndarray:
    """Returns alpha_bar [T] float64 with nothing left of the signal at T - 1.

    sqrt(alpha_bar) is shifted and scaled so that its first value stays and its last is 0 (Lin et
    al. 2023, arXiv 2305.08891, algorithm 1), but for a rest of 2^-24, as in diffusers: log-SNRs
    stay finite, and the network sees a signal of 0.0002. Where alpha_bar of T - 2 is no larger
    than twice that, the rest is a quarter of it, so that the order stays.
    """
    if len(alpha_bar) < 2:
        raise UserError("zero_terminal_snr with num_timesteps=1: legal is 2 timesteps or more.")
    root = np.sqrt(alpha_bar)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    before = root[-2] ** 2
    # Differs from diffusers, whose alpha_bar may rise at the end, as with the paper's schedule.
    return np.append(root[:-1] ** 2, ZERO_TERMINAL if before > 2 * ZERO_TERMINAL else before / 4)


def make_schedule(
    name: str = "linear",
    num_timesteps: int = 1000,
    start: float = 0.0015,
    end: float = 0.0195,
    cosine_s: float = 8e-3,
    zero_terminal_snr: bool = False,
) -> Schedule:
    """Returns the schedule, built in float64 and cast once to float32.

    Args:
      name: one of SCHEDULES.
      num_timesteps: T.
      start: first beta, in (0, 1).
      end: last beta, in (0, 1).
      cosine_s: offset of the cosine schedule, which ignores `start` and `end`.
      zero_terminal_snr: rescale, so that the last timestep is noise alone; for models that predict
        v or x0, since eps says nothing there.

    Raises:
      UserError: illegal arguments, or an alpha_bar that float32 cannot hold strictly decreasing
        in (0, 1).
    """
    exact = alpha_bars(name, num_timesteps, start, end, cosine_s)
    if zero_terminal_snr:
        exact = rescale_zero_terminal_snr(exact)
    table = exact.astype(np.float32)
    if not (table[-1] >= np.finfo(np.float32).tiny and table[0] < 1 and np.all(np.diff(table) < 0)):
        raise UserError(
            f"schedule {name!r} with num_timesteps={num_timesteps}, start={start}, end={end}: "
            f"alpha_bar runs from {table[0]:.3g} to {table[-1]:.3g} in float32, expected strictly "
            "decreasing inside (0, 1). Legal: larger betas where it stalls at 1, smaller betas or "
            "fewer timesteps where it reaches 0."
        )
    return Schedule(alpha_bar=jnp.asarray(table))
