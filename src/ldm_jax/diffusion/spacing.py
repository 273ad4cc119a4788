"""Which timesteps a sampler visits.

A spacing maps (T, S) to two integer arrays: `t`, where the network is asked, from most to least
noisy, and `t_next`, where the step then lands. CLEAN stands for alpha_bar = 1. One row is one
model evaluation.
"""

import flax.struct
import jax.numpy as jnp
import numpy as np

from ldm_jax.core.checks import UserError, lookup
from ldm_jax.core.types import Array
from ldm_jax.diffusion.schedule import Schedule

CLEAN = -1
_Timesteps = tuple[np.ndarray, np.ndarray]


@flax.struct.dataclass
class Steps:
    """The rows that `samplers.base.sample` scans over, from most to least noisy.

    Attributes:
      t: [S] float32, what the network sees.
      alpha_bar: [S] float32, the signal left before the step.
      alpha_bar_next: [S] float32, the signal left after it; 1 is clean.
      index: [S] int32, 0 .. S - 1; the step's randomness depends on it.
    """

    t: Array
    alpha_bar: Array
    alpha_bar_next: Array
    index: Array


def trailing(num_timesteps: int, num_steps: int) -> _Timesteps:
    """Returns t_i = round(T (S - i) / S) - 1, which starts at T - 1 (Lin et al. 2023, table 2)."""
    t = np.round(num_timesteps * np.arange(num_steps, 0, -1) / num_steps).astype(int) - 1
    return t, np.append(t[1:], CLEAN)


def leading(num_timesteps: int, num_steps: int) -> _Timesteps:
    """Returns multiples of T // S, which end at 0 and start below T - 1 (Lin et al. 2023)."""
    t = np.arange(num_steps)[::-1] * (num_timesteps // num_steps)
    return t, np.append(t[1:], CLEAN)


def linspace(num_timesteps: int, num_steps: int) -> _Timesteps:
    """Returns S evenly spaced timesteps from T - 1 to 0, rounded; T - 1 alone for S = 1."""
    t = np.round(np.linspace(num_timesteps - 1, 0, num_steps)).astype(int)
    return t, np.append(t[1:], CLEAN)


def reference(num_timesteps: int, num_steps: int) -> _Timesteps:
    """Returns 1, 1 + c, 1 + 2c, ... with c = T // S, from the largest: DDIM 'uniform' of CompVis.

    There are ceil(T / c) rows, which may exceed S, and the last step lands on t = 0, so the result
    keeps noise of variance 1 - alpha_bar_0. Both are right only for comparison with the reference.
    """
    return _land_on_zero(np.arange(0, num_timesteps, num_timesteps // num_steps) + 1)


def offset_leading(num_timesteps: int, num_steps: int) -> _Timesteps:
    """Returns 1 + multiples of T // S, from the largest: Stable Diffusion's pipelines in diffusers.

    The same as `reference` where S divides T; there are S rows for every S. The last step lands on
    t = 0, as there.
    """
    return _land_on_zero(np.arange(num_steps) * (num_timesteps // num_steps) + 1)


def reference_quad(num_timesteps: int, num_steps: int) -> _Timesteps:
    """Returns 1 + floor(linspace(0, sqrt(0.8 T), S)^2), from the largest: DDIM 'quad' of CompVis.

    The smallest values repeat when S is large; a step between equals changes nothing.
    """
    return _land_on_zero(
        (np.linspace(0, np.sqrt(num_timesteps * 0.8), num_steps) ** 2).astype(int) + 1
    )


SPACINGS = {
    "trailing": trailing,
    "leading": leading,
    "linspace": linspace,
    "reference": reference,
    "offset_leading": offset_leading,
    "reference_quad": reference_quad,
}


def make_steps(schedule: Schedule, num_steps: int, spacing: str = "trailing") -> Steps:
    """Returns the rows of a sampling run, `num_steps` of them except for 'reference'.

    Args:
      schedule: the noise schedule of training.
      num_steps: S, model evaluations, 1 <= S <= T.
      spacing: one of SPACINGS. The default differs from the reference: it starts where training
        ended, ends at clean data, and gives S rows for every S.

    Raises:
      UserError: unknown spacing, or S that is out of range or that the spacing cannot serve.
    """
    timesteps = lookup("spacing", SPACINGS, spacing)
    total = schedule.num_timesteps
    if not 1 <= num_steps <= total:
        raise UserError(f"num_steps: got {num_steps}. Legal: 1 to {total}.")
    t, t_next = timesteps(total, num_steps)
    if t[0] >= total:
        near = sorted(range(1, total + 1), key=lambda s: abs(s - num_steps))
        legal = [s for s in near if timesteps(total, s)[0][0] < total][:4]
        raise UserError(
            f"num_steps={num_steps} with spacing={spacing!r} asks for timestep {t[0]}, expected at "
            f"most {total - 1}. Legal near it: {', '.join(map(str, sorted(legal))) or 'none'}."
        )
    # Differs from the reference: its last step lands on alpha_bar_0 and leaves noise in the result.
    table = jnp.append(jnp.asarray(schedule.alpha_bar, jnp.float32), 1.0)  # table[CLEAN] is 1
    return Steps(
        t=jnp.asarray(t, jnp.float32),
        alpha_bar=table[t],
        alpha_bar_next=table[t_next],
        index=jnp.arange(len(t), dtype=jnp.int32),
    )


def _land_on_zero(ascending: np.ndarray) -> _Timesteps:
    t = ascending[::-1]
    return t, np.append(t[1:], 0)
