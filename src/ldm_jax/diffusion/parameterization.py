"""What the network's output means, and the conversions between the meanings.

With z = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps, any one of x0, eps and

  v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0     (Salimans and Ho 2022, section 4)

determines the others. Samplers and losses only ever see a `Prediction`, so none of them knows
how the network was parameterised. All conversions run in float32.
"""

from typing import NamedTuple

import jax.numpy as jnp

from ldm_jax.core.checks import check_in
from ldm_jax.core.types import Array
from ldm_jax.diffusion.process import per_example

PARAMETERIZATIONS = ("eps", "x0", "v")


class Prediction(NamedTuple):
    """The network's opinion about `z_t`, in both forms that samplers use.

    Attributes:
      x0: [b, ...] float32, the clean data.
      eps: [b, ...] float32, the noise.
      variance_fraction: [b, ...] float32, for models that learn the variance of the reverse
        process: where it lies between the smallest, 0, and the largest, 1, on a logarithmic scale
        (Nichol and Dhariwal 2021, eq. 15).
    """

    x0: Array
    eps: Array
    variance_fraction: Array | None = None


def from_eps(eps: Array, z_t: Array, alpha_bar_t: Array) -> Prediction:
    """Returns `eps` and x0 = (z - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar).

    Args:
      eps: [b, ...] noise.
      z_t: shaped like `eps`.
      alpha_bar_t: [b] or scalar, in (0, 1).
    """
    signal, noise = _scales(alpha_bar_t, z_t)
    eps, z_t = eps.astype(jnp.float32), z_t.astype(jnp.float32)
    return Prediction(x0=(z_t - noise * eps) / signal, eps=eps)


def from_x0(x0: Array, z_t: Array, alpha_bar_t: Array) -> Prediction:
    """Returns `x0` and eps = (z - sqrt(alpha_bar) x0) / sqrt(1 - alpha_bar).

    Args:
      x0: [b, ...] clean data, for example after clipping or quantising.
      z_t: shaped like `x0`.
      alpha_bar_t: [b] or scalar, in (0, 1).
    """
    signal, noise = _scales(alpha_bar_t, z_t)
    x0, z_t = x0.astype(jnp.float32), z_t.astype(jnp.float32)
    return Prediction(x0=x0, eps=(z_t - signal * x0) / noise)


def from_v(v: Array, z_t: Array, alpha_bar_t: Array) -> Prediction:
    """Returns the x0 and eps that `v` and `z_t` determine.

      x0 = sqrt(alpha_bar) z - sqrt(1 - alpha_bar) v
      eps = sqrt(1 - alpha_bar) z + sqrt(alpha_bar) v

    Args:
      v: [b, ...] velocity.
      z_t: shaped like `v`.
      alpha_bar_t: [b] or scalar, in (0, 1).
    """
    signal, noise = _scales(alpha_bar_t, z_t)
    v, z_t = v.astype(jnp.float32), z_t.astype(jnp.float32)
    return Prediction(x0=signal * z_t - noise * v, eps=noise * z_t + signal * v)


def to_v(x0: Array, eps: Array, alpha_bar_t: Array) -> Array:
    """Returns v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0, shaped like `x0`."""
    signal, noise = _scales(alpha_bar_t, x0)
    return signal * eps - noise * x0


_FROM = {"eps": from_eps, "x0": from_x0, "v": from_v}


def to_prediction(kind: str, output: Array, z_t: Array, alpha_bar_t: Array) -> Prediction:
    """Returns what a network output of parameterisation `kind` says about x0 and eps.

    Args:
      kind: one of PARAMETERIZATIONS.
      output: [b, ...], of any float dtype.
      z_t: shaped like `output`.
      alpha_bar_t: [b] or scalar, in (0, 1).
    """
    check_in("parameterization", kind, PARAMETERIZATIONS)
    return _FROM[kind](output, z_t, alpha_bar_t)


def training_target(kind: str, x0: Array, eps: Array, alpha_bar_t: Array) -> Array:
    """Returns what a network of parameterisation `kind` should put out, shaped like `x0`.

    Args:
      kind: one of PARAMETERIZATIONS.
      x0: [b, ...] clean data.
      eps: the noise in z_t, shaped like `x0`.
      alpha_bar_t: [b] or scalar, in (0, 1).
    """
    check_in("parameterization", kind, PARAMETERIZATIONS)
    if kind == "v":
        return to_v(x0, eps, alpha_bar_t)
    return eps if kind == "eps" else x0


def _scales(alpha_bar_t: Array, x: Array) -> tuple[Array, Array]:
    alpha_bar = per_example(jnp.asarray(alpha_bar_t, jnp.float32), x)
    return jnp.sqrt(alpha_bar), jnp.sqrt(1 - alpha_bar)
