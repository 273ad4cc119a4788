"""Runs that start from an image, go back on themselves, or lie between two others."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows


def from_strength(levels: Levels, strength: float) -> Levels:
    """Returns the levels of a run that keeps part of an image: the last strength · S, at least one.

    SDEdit (Meng et al. 2021, arXiv 2108.01073): the image is noised to the first of these levels.

    Args:
      levels: of a whole run.
      strength: in (0, 1]; 1 keeps nothing but what alpha_bar_T leaves.

    Raises:
      UserError: strength out of range.
    """
    if not 0 < strength <= 1:
        raise UserError(f"strength={strength}: legal is above 0, up to 1.")
    # Rounding first: 0.29 · 100 is 28.999999999999996.
    return levels.last(max(1, int(round(strength * len(levels), 9))))


def noised(alpha_bar: float | Array, x0: Array, noise: Array) -> Array:
    """Returns z = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise, at a level of `Levels`."""
    alpha_bar = jnp.asarray(alpha_bar, jnp.float32)
    return jnp.sqrt(alpha_bar) * x0 + jnp.sqrt(1 - alpha_bar) * noise


def repaint(levels: Levels, rows: Rows, resample: int, jump: int = 1) -> Rows:
    """Returns rows that take every `jump` steps `resample` times, with noise added in between.

    RePaint (Lugmayr et al. 2022, arXiv 2201.09865, section 4.2): what is filled in has time to
    agree with what is known. The way back, from level s up to t, is
    z_t = sqrt(a) z_s + sqrt(1 - a) noise with a = alpha_bar_t / alpha_bar_s; two Gaussians in a row
    are one, so that it costs no row of its own.

    Args:
      levels: that `rows` were built from.
      rows: of a sampler without memory, such as ddpm and ddim.
      resample: times that each piece is run; 1 changes nothing.
      jump: steps of a piece.

    Raises:
      UserError: a sampler with memory, or numbers below 1.
    """
    for name, value in (("resample", resample), ("jump", jump)):
        if value < 1:
            raise UserError(f"{name}={value}: legal is 1 or more.")
    if resample == 1:
        return rows
    memory = (rows.from_base, rows.h1, rows.h2, rows.h3)
    if len(rows) != len(levels) or any(np.any(column != 0) for column in memory):
        raise UserError(
            f"resample={resample}: the sampler remembers earlier steps. Legal: ddpm, ddim, euler, "
            "euler_ancestral."
        )
    order, back = [], []
    for start in range(0, len(rows), jump):
        piece = list(range(start, min(start + jump, len(rows))))
        again = levels.alpha_bar[start] / levels.alpha_bar[piece[-1] + 1]
        for k in range(resample):
            order += piece
            back += [1.0] * (len(piece) - 1) + [again if k < resample - 1 else 1.0]
    taken, a = jax.tree.map(lambda x: x[np.array(order)], rows), np.array(back)
    scaled = {name: np.sqrt(a) * getattr(taken, name) for name in ("base", "x0", "eps")}
    deviations = {
        name: np.sqrt(a * getattr(taken, name) ** 2 + (1 - a))
        for name in ("noise", "noise_upper")
        if np.any(getattr(rows, name))
    } or {"noise": np.sqrt(1 - a)}
    return taken.replace(**scaled, **deviations, index=np.arange(len(order)))


def slerp(a: Array, b: Array, weight: float | Array) -> Array:
    """Returns the point at `weight` on the great circle from a to b, shaped like them.

    Noise stays noise: |slerp| is that of its ends where these agree. Nearly parallel ends are mixed
    in a straight line.

    Args:
      a: [n, ...].
      b: shaped like `a`.
      weight: 0 is a, 1 is b; a number, or [n].
    """
    weight = jnp.reshape(jnp.asarray(weight, jnp.float32), (-1,) + (1,) * (a.ndim - 1))
    axes = tuple(range(1, a.ndim))

    def norm(x: Array) -> Array:
        return jnp.sqrt(jnp.sum(x * x, axes, keepdims=True))

    cosine = jnp.sum(a * b, axes, keepdims=True) / jnp.maximum(norm(a) * norm(b), 1e-12)
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    straight = jnp.abs(jnp.sin(angle)) < 1e-3
    sine = jnp.where(straight, 1, jnp.sin(angle))
    of_a = jnp.where(straight, 1 - weight, jnp.sin((1 - weight) * angle) / sine)
    of_b = jnp.where(straight, weight, jnp.sin(weight * angle) / sine)
    return of_a * a + of_b * b
