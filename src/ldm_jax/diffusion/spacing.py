"""Which noise levels a sampler visits.

A spacing maps a noise schedule and a number of steps S to `Levels`: the timesteps `t` where the
network is asked, from most to least noisy, and the alpha_bar that the steps start and end at.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from ldm_jax.core.checks import UserError, lookup
from ldm_jax.diffusion.schedule import Schedule

# A step to clean data is infinitely long in log-SNR. exp(-1000) is 0 in float64 as well.
_INFINITE = 1e3
# Of Karras et al. 2022, table 1.
_RHO = 7.0


@dataclasses.dataclass(frozen=True)
class Levels:
    """The noise levels of a run in float64, from most to least noisy.

    Attributes:
      t: [S], what the network sees; fractions stand between two training timesteps.
      alpha_bar: [S + 1], the signal left at each t, and at last where the run ends; 1 is clean.
      table: [T], alpha_bar of the training timesteps.
    """

    t: np.ndarray
    alpha_bar: np.ndarray
    table: np.ndarray

    def __len__(self) -> int:
        """S, the number of steps."""
        return len(self.t)

    @property
    def signal(self) -> np.ndarray:
        """sqrt(alpha_bar), [S + 1]."""
        return np.sqrt(self.alpha_bar)

    @property
    def noise(self) -> np.ndarray:
        """sqrt(1 - alpha_bar), [S + 1]."""
        return np.sqrt(1 - self.alpha_bar)

    @property
    def sigma(self) -> np.ndarray:
        """noise / signal, [S + 1]: the standard deviation in x = z / sqrt(alpha_bar)."""
        return self.noise / self.signal

    def t_at(self, alpha_bar: np.ndarray) -> np.ndarray:
        """Returns the timesteps, with fractions, of other levels; see `process.alpha_bar_at`."""
        return _timestep(self.table, alpha_bar)

    def last(self, steps: int) -> "Levels":
        """Returns the last `steps` steps, for a run that starts from an image."""
        return dataclasses.replace(self, t=self.t[-steps:], alpha_bar=self.alpha_bar[-steps - 1 :])

    def check_distinct(self, sampler: str) -> None:
        """Raises UserError for levels that repeat: `sampler` divides by their distance."""
        if not np.all(np.diff(self.alpha_bar) > 0):
            raise UserError(
                f"sampler {sampler!r} with {len(self)} steps: two of them are at one noise level. "
                "Legal: fewer steps, another spacing such as 'trailing', or the sampler 'ddim'."
            )

    def log_steps(self, sampler: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns h [S], the steps in -log sigma, and h / h of the step before, [S].

        The second is 0 where there is no step before, and for a step to clean data.
        """
        self.check_distinct(sampler)
        with np.errstate(divide="ignore"):
            h = np.minimum(np.diff(-np.log(self.sigma)), _INFINITE)
        ratio = np.append(0.0, h[1:] / h[:-1])
        return h, np.where(self.sigma[1:] > 0, ratio, 0.0)


def trailing(table: np.ndarray, num_steps: int) -> Levels:
    """Returns t_i = round(T (S - i) / S) - 1, which starts at T - 1 (Lin et al. 2023, table 2)."""
    t = np.round(len(table) * np.arange(num_steps, 0, -1) / num_steps) - 1
    return _at(table, t)


def leading(table: np.ndarray, num_steps: int) -> Levels:
    """Returns multiples of T // S, which end at 0 and start below T - 1 (Lin et al. 2023)."""
    return _at(table, np.arange(num_steps)[::-1] * (len(table) // num_steps))


def linspace(table: np.ndarray, num_steps: int) -> Levels:
    """Returns S evenly spaced timesteps from T - 1 to 0, rounded; T - 1 alone for S = 1."""
    return _at(table, np.round(np.linspace(len(table) - 1, 0, num_steps)))


def quad(table: np.ndarray, num_steps: int) -> Levels:
    """Returns timesteps whose roots are evenly spaced from T - 1 to 0, each at least 1 apart.

    The quadratic choice of Song et al. 2020, appendix D.2.
    """
    ascending = np.round((len(table) - 1) * np.linspace(0, 1, num_steps) ** 2)
    if num_steps == 1:
        ascending = np.array([len(table) - 1.0])
    return _at(table, np.maximum(ascending, np.arange(num_steps))[::-1])


def karras(table: np.ndarray, num_steps: int) -> Levels:
    """Returns sigmas whose 7th roots are evenly spaced (Karras et al. 2022, eq. 5).

    From the largest to the smallest sigma of training, then clean.
    """
    low, high = _sigma_range(table)
    ramp = np.linspace(high ** (1 / _RHO), low ** (1 / _RHO), num_steps) ** _RHO
    return _at_sigmas(table, ramp)


def exponential(table: np.ndarray, num_steps: int) -> Levels:
    """Returns sigmas whose logarithms are evenly spaced, from the largest of training; then clean.

    The uniform choice in log-SNR of DPM-Solver (Lu et al. 2022).
    """
    low, high = _sigma_range(table)
    return _at_sigmas(table, np.geomspace(high, low, num_steps))


def lcm(table: np.ndarray, num_steps: int) -> Levels:
    """Returns S of the 50 timesteps 20 k - 1 that latent consistency models are distilled on.

    Luo et al. 2023; as in diffusers, from the most noisy in steps of 50 / S, rounded down. For S
    up to 50, and in proportion for other T.
    """
    origin = np.arange(50, 0, -1) * (len(table) // 50) - 1
    if num_steps > len(origin) or origin[-1] < 0:
        raise UserError(
            f"num_steps={num_steps} with spacing='lcm' and {len(table)} timesteps: legal is 1 to "
            "50 steps and 50 timesteps or more."
        )
    return _at(table, origin[np.arange(num_steps) * len(origin) // num_steps])


def reference(table: np.ndarray, num_steps: int) -> Levels:
    """Returns 1, 1 + c, 1 + 2c, ... with c = T // S, from the largest: DDIM 'uniform' of CompVis.

    There are ceil(T / c) rows, which may exceed S, and the last step lands on t = 0, so the result
    keeps noise of variance 1 - alpha_bar_0. Both are right only for comparison with the reference.
    """
    total = len(table)
    return _land_on_zero(table, np.arange(0, total, total // num_steps) + 1)


def offset_leading(table: np.ndarray, num_steps: int) -> Levels:
    """Returns 1 + multiples of T // S, from the largest: Stable Diffusion's pipelines in diffusers.

    The same as `reference` where S divides T; there are S rows for every S. The last step lands on
    t = 0, as there.
    """
    steps = np.arange(num_steps) * (len(table) // num_steps) + 1
    return _land_on_zero(table, steps)


def reference_quad(table: np.ndarray, num_steps: int) -> Levels:
    """Returns 1 + floor(linspace(0, sqrt(0.8 T), S)^2), from the largest: DDIM 'quad' of CompVis.

    The smallest values repeat when S is large; a step between equals changes nothing.
    """
    steps = (np.linspace(0, np.sqrt(len(table) * 0.8), num_steps) ** 2).astype(int) + 1
    return _land_on_zero(table, steps)


Spacing = Callable[[np.ndarray, int], Levels]
SPACINGS: dict[str, Spacing] = {
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
    "quad": quad,
    "karras": karras,
    "exponential": exponential,
    "lcm": lcm,
    "reference": reference,
    "offset_leading": offset_leading,
    "reference_quad": reference_quad,
}


def make_levels(schedule: Schedule, num_steps: int, spacing: str = "trailing") -> Levels:
    """Returns the noise levels of a sampling run, `num_steps` steps except for 'reference'.

    Args:
      schedule: the noise schedule of training.
      num_steps: S, 1 <= S <= T.
      spacing: one of SPACINGS. The default differs from the reference: it starts where training
        ended, ends at clean data, and gives S rows for every S.

    Raises:
      UserError: unknown spacing, or S that is out of range or that the spacing cannot serve.
    """
    build = lookup("spacing", SPACINGS, spacing)
    total = schedule.num_timesteps
    if not 1 <= num_steps <= total:
        raise UserError(f"num_steps: got {num_steps}. Legal: 1 to {total}.")
    table = np.asarray(schedule.alpha_bar, np.float64)
    try:
        return build(table, num_steps)
    except _BeyondTrainingError as error:
        legal = ", ".join(map(str, _near(table, num_steps, build))) or "none"
        raise UserError(
            f"num_steps={num_steps} with spacing={spacing!r} asks for timestep {error.args[0]}, "
            f"expected at most {total - 1}. Legal near it: {legal}."
        ) from None


# Differs from the reference: its last step lands on alpha_bar_0 and leaves noise in the result.
def _at(table: np.ndarray, t: np.ndarray, end: float = 1.0) -> Levels:
    """Returns the levels of whole timesteps, descending, that end at alpha_bar `end`."""
    t = np.asarray(t, np.float64)
    return Levels(t=t, alpha_bar=np.append(table[t.astype(int)], end), table=table)


def _at_sigmas(table: np.ndarray, sigmas: np.ndarray) -> Levels:
    """Returns the levels of sigmas, descending, that end at clean data."""
    alpha_bar = 1 / (1 + sigmas**2)
    return Levels(_timestep(table, alpha_bar), np.append(alpha_bar, 1.0), table)


def _land_on_zero(table: np.ndarray, ascending: np.ndarray) -> Levels:
    if ascending[-1] >= len(table):
        raise _BeyondTrainingError(ascending[-1])
    return _at(table, ascending[::-1], end=table[0])


class _BeyondTrainingError(ValueError):
    """A spacing asks for the timestep `args[0]`, which training did not have."""


def _near(table: np.ndarray, num_steps: int, build: Spacing) -> list[int]:
    """Returns the four numbers of steps nearest to `num_steps` that a spacing serves."""
    legal: list[int] = []
    for candidate in sorted(range(1, len(table) + 1), key=lambda s: abs(s - num_steps)):
        try:
            build(table, candidate)
        except _BeyondTrainingError:
            continue
        legal.append(candidate)
        if len(legal) == 4:
            break
    return sorted(legal)


def _sigma_range(table: np.ndarray) -> tuple[float, float]:
    sigma = np.sqrt((1 - table) / table)
    return sigma[0], sigma[-1]


def _timestep(table: np.ndarray, alpha_bar: np.ndarray) -> np.ndarray:
    """Returns t with fractions, at which the log-SNR, linear between timesteps, is alpha_bar's.

    Beyond the table it is the first or the last timestep.
    """
    noise_to_signal = np.log(1 / table - 1)
    return np.interp(np.log(1 / alpha_bar - 1), noise_to_signal, np.arange(len(table)))
