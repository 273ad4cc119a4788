"""Optimizers and learning-rate schedules by name."""

from collections.abc import Callable

import optax

from ldm_jax.core.checks import UserError, lookup

Schedule = Callable[[int], float]


def constant(peak: float, steps: int, warmup_steps: int = 0) -> optax.Schedule:
    """Returns a linear warm-up from 0 to `peak`, constant afterwards."""
    del steps
    return optax.schedules.linear_schedule(
        peak / max(warmup_steps, 1) if warmup_steps else peak, peak, max(warmup_steps - 1, 1)
    )


def cosine(peak: float, steps: int, warmup_steps: int = 0, final: float = 0.0) -> optax.Schedule:
    """Returns a linear warm-up to `peak`, then a half cosine to `final` at `steps`."""
    return optax.schedules.warmup_cosine_decay_schedule(
        peak / max(warmup_steps, 1), peak, max(warmup_steps, 1), max(steps, warmup_steps + 1), final
    )


SCHEDULES = {"constant": constant, "cosine": cosine}


def make_schedule(
    name: str, peak: float, steps: int, warmup_steps: int, final: float
) -> optax.Schedule:
    """Returns the learning rate as a function of the update number.

    Raises:
      UserError: unknown name, or a warm-up longer than the run.
    """
    make = lookup("train.schedule", SCHEDULES, name)
    if not 0 <= warmup_steps <= steps:
        raise UserError(f"train.warmup_steps={warmup_steps}: legal is 0 to train.steps={steps}.")
    return (
        make(peak, steps, warmup_steps, final)
        if name == "cosine"
        else make(peak, steps, warmup_steps)
    )


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
    if clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(clip_norm), adamw)
