"""Classifier-free guidance as a wrapper of the network (Ho and Salimans 2021)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, Conditioning
from ldm_jax.diffusion.parameterization import Prediction
from ldm_jax.diffusion.process import per_example
from ldm_jax.samplers.base import Predict

Denoise = Callable[[Array, Array, Conditioning | None], Prediction]


def classifier_free(
    denoise: Denoise,
    conditioning: Conditioning | None,
    null: Conditioning | None,
    scale: float | Array,
) -> Predict:
    """Returns `predict` with eps = eps_null + scale (eps_cond - eps_null), from one doubled batch.

    x0 is combined in the same way. That is consistent: at fixed z_t, x0 is an affine function of
    eps, and the two weights, 1 - scale and scale, sum to one, so mapping the mixture and mixing
    the mapped are the same.

    Args:
      denoise: (z, t, conditioning) -> Prediction; called with the order [null, conditioning].
      conditioning: what to sample, batch b.
      null: the absent condition, batch b or 1, with the same routes as `conditioning`. With None
        there is nothing to guide away from and `scale` is not used.
      scale: one number, or [b] with one per image. A Python 1.0 costs no second half.

    Raises:
      UserError: `null` differs from `conditioning` in its routes or shapes.
    """
    if null is None or (isinstance(scale, int | float) and scale == 1.0):
        return lambda z, t: denoise(z, t, conditioning)
    _check_routes(conditioning, null)
    weight = jnp.asarray(scale, jnp.float32)

    def double(null_part: Array, part: Array) -> Array:
        return jnp.concatenate([jnp.broadcast_to(null_part, part.shape), part])

    def predict(z: Array, t: Array) -> Prediction:
        both = denoise(
            jnp.concatenate([z, z]),
            jnp.concatenate([t, t]),
            jax.tree.map(double, null, conditioning),
        )

        def guide(x: Array) -> Array:
            absent, present = jnp.split(x, 2)
            return absent + per_example(weight, x) * (present - absent)

        return Prediction(x0=guide(both.x0), eps=guide(both.eps))

    return predict


def _check_routes(conditioning: Conditioning | None, null: Conditioning) -> None:
    """Raises UserError unless `null` can stand beside `conditioning` in one batch."""
    for route in ("context", "concat", "embedding"):
        got, expected = getattr(null, route), getattr(conditioning, route, None)
        shapes = tuple(None if x is None else tuple(x.shape) for x in (got, expected))
        same = (got is None) == (expected is None)
        if same and got is not None and expected is not None:
            same = got.shape[1:] == expected.shape[1:] and got.shape[0] in (1, expected.shape[0])
        if not same:
            raise UserError(
                f"null conditioning, {route}: got shape {shapes[0]}, expected {shapes[1]} as in "
                "the conditioning. Legal: the same shape, or batch 1."
            )
