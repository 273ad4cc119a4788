"""Optimizers and learning-rate schedules by name.

A schedule maps the number of completed updates to a learning rate. Besides the ones here,
`config.train.schedule.name` may be that of any schedule in `optax.schedules`, whose own arguments
then stand beside it and whose values are the learning rate itself.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from ldm_jax.core.checks import UserError
from ldm_jax.core.config import build


def constant(peak: float, warmup_steps: int = 0) -> optax.Schedule:
    """Returns a linear warm-up, whose first update already moves, then `peak`."""
    first = peak / max(warmup_steps, 1)
    return optax.schedules.linear_schedule(first, peak, max(warmup_steps - 1, 0))


def cosine(peak: float, steps: int, warmup_steps: int = 0, final: float = 0.0) -> optax.Schedule:
    """Returns a linear warm-up to `peak`, then a half cosine that reaches `final` at `steps`."""
    decay = optax.schedules.cosine_decay_schedule(
        peak, max(steps - warmup_steps, 1), alpha=final / peak
    )
    warmup = constant(peak, warmup_steps)
    return optax.schedules.join_schedules([warmup, decay], [warmup_steps])


def lambda_linear(
    peak: float,
    warmup_steps: int = 10_000,
    start: float = 1e-6,
    maximum: float = 1.0,
    minimum: float = 1.0,
    cycle: float = 1e13,
) -> optax.Schedule:
    """Returns peak times the reference's LambdaLinear multiplier (`ldm/lr_scheduler.py`).

    start → maximum over `warmup_steps`, then linearly towards `minimum`, due at `cycle`.
    """

    def learning_rate(n):
        rise = start + (maximum - start) / max(warmup_steps, 1) * n
        fall = minimum + (maximum - minimum) * (cycle - n) / cycle
        return peak * jnp.where(n < warmup_steps, rise, fall)

    return learning_rate


def lambda_warmup_cosine(
    peak: float,
    warmup_steps: int = 1000,
    decay_steps: int = 50_000,
    start: float = 1e-3,
    maximum: float = 0.1,
    minimum: float = 1e-4,
) -> optax.Schedule:
    """Returns peak times the reference's LambdaWarmUpCosine multiplier.

    start → maximum over `warmup_steps`, then a half cosine to `minimum` at `decay_steps`.
    """
    return optax.schedules.warmup_cosine_decay_schedule(
        peak * start, peak * maximum, warmup_steps, decay_steps, peak * minimum
    )


SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "constant": constant,
    "cosine": cosine,
    "lambda_linear": lambda_linear,
    "lambda_warmup_cosine": lambda_warmup_cosine,
}


def make_schedule(
    config: Mapping[str, Any], *, peak: float, steps: int, warmup_steps: int
) -> optax.Schedule:
    """Returns the learning rate as a function of the number of completed updates.

    Args:
      config: `name`, from SCHEDULES or `optax.schedules`, and its own arguments.
      peak: the learning rate that schedules of this module scale.
      steps: updates of the whole run.
      warmup_steps: for schedules of this module.

    Raises:
      UserError: unknown name or argument, or a warm-up longer than the run.
    """
    if not peak > 0:
        raise UserError(f"train.learning_rate={peak}: legal is a positive number.")
    if not 0 <= warmup_steps <= steps:
        raise UserError(f"train.warmup_steps={warmup_steps}: legal is 0 to train.steps={steps}.")
    registry = {**_optax_schedules(), **SCHEDULES}
    ours = config.get("name") in SCHEDULES
    extra = {"peak": peak, "steps": steps, "warmup_steps": warmup_steps} if ours else {}
    return build("config.train.schedule", registry, config, **extra)


def _optax_schedules() -> dict[str, Callable[..., optax.Schedule]]:
    names = [name for name in dir(optax.schedules) if name.endswith(("_schedule", "_decay"))]
    names = [name for name in names if not name.startswith("_")]
    return {name: getattr(optax.schedules, name) for name in names}


def make_optimizer(
    schedule: optax.Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.01,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Returns AdamW with PyTorch's defaults on all parameters, after optional norm clipping.

    The reference decays every parameter, norms and biases too, by 0.01 and does not clip.
    """
    adamw = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay)
    # A chain either way: the state has the same structure, so clipping can be switched on resume.
    clip = optax.identity() if clip_norm is None else optax.clip_by_global_norm(clip_norm)
    return optax.chain(clip, adamw)
