"""Guidance as wrappers of the network: they take `denoise` or `predict` and return `predict`.

Each can stand around another, whatever the sampler is.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from ldm_jax.conditioning.base import spread_null
from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, Conditioning
from ldm_jax.diffusion.parameterization import (
    Prediction,
    from_eps,
    to_prediction,
    training_target,
)
from ldm_jax.diffusion.process import alpha_bar_at, per_example
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.samplers.base import Predict

Denoise = Callable[[Array, Array, Conditioning | None], Prediction]
# (guided, unguided, z, t) -> Prediction
Rescale = Callable[[Prediction, Prediction, Array, Array], Prediction]


def classifier_free(
    denoise: Denoise,
    conditioning: Conditioning | None,
    null: Conditioning | None,
    scale: float | Array,
    *,
    interval: Array | None = None,
    rescale: Rescale | None = None,
) -> Predict:
    """Returns `predict` with eps = eps_null + scale (eps_cond - eps_null), from one doubled batch.

    Ho and Salimans 2021, arXiv 2207.12598, eq. 6 with scale = 1 + w. x0 is combined in the same
    way. That is consistent: at fixed z_t, x0 is an affine function of eps, and the two weights,
    1 - scale and scale, sum to one, so mapping the mixture and mixing the mapped are the same.

    Args:
      denoise: (z, t, conditioning) -> Prediction; called with the order [null, conditioning].
      conditioning: what to sample, batch b.
      null: what to steer away from, the absent or a negative condition, batch b or 1, with the same
        routes as `conditioning`; see `conditioning.base.spread_null`. With None there is nothing to
        steer away from and `scale` is not used.
      scale: one number, or [b] with one per image. A Python 1.0 costs no second half.
      interval: [2] or [b, 2], the least and the most noisy timestep with guidance; outside, the
        scale is 1 (Kynkäänniemi et al. 2024, arXiv 2404.07724). None: everywhere.
      rescale: see `restore_deviation`.

    Raises:
      UserError: `null` differs from `conditioning` in its routes or shapes.
    """
    if null is None or (isinstance(scale, int | float) and scale == 1.0):
        return lambda z, t: denoise(z, t, conditioning)
    return regional(denoise, [conditioning], None, null, scale, interval=interval, rescale=rescale)


def regional(
    denoise: Denoise,
    conditionings: Sequence[Conditioning | None],
    weights: Array | None,
    null: Conditioning,
    scale: float | Array,
    *,
    interval: Array | None = None,
    rescale: Rescale | None = None,
) -> Predict:
    """Returns `predict` with eps = eps_null + scale sum_r w_r (eps_r - eps_null), in one batch.

    Several prompts share an image by soft masks. With one prompt this is classifier-free guidance.

    Args:
      denoise: (z, t, conditioning) -> Prediction; called once, in the order [null, *conditionings].
      conditionings: of the R prompts, batch b each, all with the same routes and shapes.
      weights: [b, R, h, w], which sum to 1 over R; None with a single prompt.
      null: as in `classifier_free`.
      scale: one number, or [b] with one per image.
      interval: as in `classifier_free`.
      rescale: as in `classifier_free`.

    Raises:
      UserError: conditionings that cannot stand in one batch, or weights that do not fit them.
    """
    empty, *_ = [spread_null(null, conditioning) for conditioning in conditionings]
    count = len(conditionings)
    if (weights is None) != (count == 1) or (weights is not None and weights.shape[1] != count):
        raise UserError(
            f"region weights: got {None if weights is None else weights.shape[1]} for {count} "
            "prompts. Legal: one map per prompt, or none for a single prompt."
        )

    def stack(null_part: Array, *parts: Array) -> Array:
        return jnp.concatenate([null_part, *parts])

    stacked = jax.tree.map(stack, empty, *conditionings)

    def predict(z: Array, t: Array) -> Prediction:
        copies = 1 + count
        whole = denoise(jnp.concatenate([z] * copies), jnp.concatenate([t] * copies), stacked)
        absent, *parts = _split(whole, copies)
        present = parts[0] if weights is None else _mix(parts, weights)
        weight = _scale_at(scale, t, interval)

        def guide(absent: Array, present: Array) -> Array:
            return absent + per_example(weight, absent) * (present - absent)

        guided = Prediction(
            guide(absent.x0, present.x0),
            guide(absent.eps, present.eps),
            present.variance_fraction,  # no direction to push along: that of the prompts
        )
        return guided if rescale is None else rescale(guided, present, z, t)

    return predict


def restore_deviation(schedule: Schedule, kind: str, phi: float | Array) -> Rescale:
    """Returns a `rescale` that gives guided outputs the standard deviation of unguided ones.

    output = phi (std(unguided) / std(guided)) guided + (1 - phi) guided, per image, on what the
    network puts out (Lin et al. 2023, arXiv 2305.08891, eqs. 15 and 16): large scales do not burn.

    Args:
      schedule: of the model.
      kind: the model's parameterisation: 'eps', 'x0' or 'v'.
      phi: 0 changes nothing, the authors use 0.7; a number, or [b].
    """

    def rescale(guided: Prediction, plain: Prediction, z: Array, t: Array) -> Prediction:
        alpha_bar = alpha_bar_at(schedule, t)
        out, goal = (training_target(kind, p.x0, p.eps, alpha_bar) for p in (guided, plain))
        axes = tuple(range(1, out.ndim))
        factor = jnp.std(goal, axes) / jnp.maximum(jnp.std(out, axes), 1e-12)
        share = jnp.asarray(phi, jnp.float32)
        out = out * per_example(share * factor + (1 - share), out)
        return to_prediction(kind, out, z, alpha_bar)._replace(
            variance_fraction=guided.variance_fraction
        )

    return rescale


def classifier_guided(
    predict: Predict,
    log_prob: Callable[[Array, Array], Array],
    schedule: Schedule,
    scale: float | Array,
) -> Predict:
    """Returns `predict` with eps - scale sqrt(1 - alpha_bar) grad_z log p(y | z_t).

    Dhariwal and Nichol 2021, arXiv 2105.05233, algorithm 2.

    Args:
      predict: what to guide.
      log_prob: (z [b, ...], t [b]) -> [b], of a classifier that was trained on noisy latents.
      schedule: of the model.
      scale: strength, a number or [b]; 1 samples from p(z) p(y | z), larger ones sharpen it.
    """

    def guided(z: Array, t: Array) -> Prediction:
        gradient = jax.grad(lambda z: jnp.sum(log_prob(z, t)))(z)
        return _shifted(predict(z, t), gradient, schedule, scale, z, t)

    return guided


def loss_guided(
    predict: Predict,
    loss: Callable[[Array], Array],
    schedule: Schedule,
    scale: float | Array,
) -> Predict:
    """Returns `predict` with eps + scale sqrt(1 - alpha_bar) grad_z loss(x0(z)).

    Post-hoc guidance by anything differentiable, without a classifier of noisy latents (Rombach et
    al. 2022, appendix C): with loss = |y - T(decode(x0))|^2 / 2 and T a downsampling, unconditional
    models upsample. The gradient runs through the network.

    Args:
      predict: what to guide.
      loss: predicted clean latents [b, ...] -> [b], the negative logarithm of p(y | x0).
      schedule: of the model.
      scale: strength, a number or [b].
    """

    def guided(z: Array, t: Array) -> Prediction:
        def total(z: Array) -> tuple[Array, Prediction]:
            prediction = predict(z, t)
            return -jnp.sum(loss(prediction.x0)), prediction

        gradient, prediction = jax.grad(total, has_aux=True)(z)
        return _shifted(prediction, gradient, schedule, scale, z, t)

    return guided


def _shifted(
    prediction: Prediction,
    gradient: Array,
    schedule: Schedule,
    scale: float | Array,
    z: Array,
    t: Array,
) -> Prediction:
    """Returns the prediction whose score is that of `prediction` plus scale times `gradient`."""
    alpha_bar = alpha_bar_at(schedule, t)
    weight = jnp.asarray(scale, jnp.float32) * jnp.sqrt(1 - alpha_bar)
    eps = prediction.eps - per_example(weight, z) * gradient
    return from_eps(eps, z, alpha_bar)._replace(variance_fraction=prediction.variance_fraction)


def _split(prediction: Prediction, copies: int) -> list[Prediction]:
    parts = [[None] * copies if field is None else jnp.split(field, copies) for field in prediction]
    return [Prediction(*fields) for fields in zip(*parts, strict=True)]


def _mix(parts: Sequence[Prediction], weights: Array) -> Prediction:
    """Returns sum_r weights[:, r] parts[r]."""

    def mix(*fields: Array) -> Array:
        shares = [weights[:, r, ..., None] for r in range(len(fields))]
        return sum(
            (w * x for w, x in zip(shares[1:], fields[1:], strict=True)), shares[0] * fields[0]
        )

    return jax.tree.map(mix, *parts)


def _scale_at(scale: float | Array, t: Array, interval: Array | None) -> Array:
    """Returns the guidance scale at timesteps t, a scalar or [b]."""
    weight = jnp.asarray(scale, jnp.float32)
    if interval is None:
        return weight
    inside = (interval[..., 0] <= t) & (t <= interval[..., 1])
    return jnp.where(inside, weight, 1.0)
