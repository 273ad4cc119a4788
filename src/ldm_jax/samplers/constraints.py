"""What the predicted clean latent must obey, as wrappers of `predict`.

`on_x0` changes the predicted x0, and eps with it, so that both still make up z. Masks, thresholds
and codebooks are functions of x0 to use it with; every sampler then heads for what they allow.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.core.types import Array
from ldm_jax.diffusion.parameterization import Prediction, from_x0
from ldm_jax.diffusion.process import alpha_bar_at, per_example
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.samplers.base import Predict


def on_x0(predict: Predict, schedule: Schedule, change: Callable[[Array], Array]) -> Predict:
    """Returns `predict` with change(x0) for x0, and the eps that it and z determine.

    Args:
      predict: what to change.
      schedule: of the model.
      change: x0 [b, ...] -> x0 of the same shape.
    """

    def changed(z: Array, t: Array) -> Prediction:
        prediction = predict(z, t)
        found = from_x0(change(prediction.x0), z, alpha_bar_at(schedule, t))
        return found._replace(variance_fraction=prediction.variance_fraction)

    return changed


def keep_known(known: Array, mask: Array) -> Callable[[Array], Array]:
    """Returns mask · known + (1 - mask) · x0: inpainting with any model.

    In the known part a sampler then follows the exact path from its noise to `known`, so that z
    has there the distribution q(z_t | known), and ends at `known` itself (`lcm` near it, where its
    last timestep is near 0: there it trusts z).

    # Differs from the reference: that draws fresh noise for the known part at every step, which
    # gives the same marginals, fits no deterministic sampler, and leaves the last step unmasked.

    Args:
      known: [b, h, w, c] scaled latents.
      mask: [b, h, w, 1] in [0, 1]; 1 is known.
    """
    return lambda x0: mask * known + (1 - mask) * x0


def dynamic_threshold(
    percentile: float | Array, limit: float | Array = 1.0
) -> Callable[[Array], Array]:
    """Returns x0 clipped to [-s, s] and divided by s / limit, where s exceeds the limit.

    s is the percentile of |x0| in each image (Saharia et al. 2022, arXiv 2205.11487, section 2.3);
    images whose s is within the limit are clipped to it.

    Args:
      percentile: in [0, 100], a number or [b]; the authors take 99.5.
      limit: what clean data stay within, likewise: 1 for pixels, more for latents.
    """

    def change(x0: Array) -> Array:
        flat = jnp.abs(x0).reshape(x0.shape[0], -1)
        share = jnp.broadcast_to(jnp.asarray(percentile, jnp.float32), x0.shape[:1]) / 100
        found = jax.vmap(jnp.quantile)(flat, share)
        bound = jnp.broadcast_to(jnp.asarray(limit, jnp.float32), x0.shape[:1])
        s, bound = (per_example(v, x0) for v in (jnp.maximum(found, bound), bound))
        return jnp.clip(x0, -s, s) * (bound / s)

    return change
