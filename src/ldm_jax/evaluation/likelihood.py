"""The variational bound of a diffusion model, term by term, in bits per dimension.

Ho et al. 2020 (arXiv 2006.11239, eq. 5) and Nichol and Dhariwal 2021 (arXiv 2102.09672, eqs. 4 to
7), with timesteps from 0, where z_0 is noisy already:

  -log p(x0) <= prior + sum_t terms[t]
  prior    = KL(q(z_{T-1} | x0) || N(0, I))                         the papers' L_T
  terms[t] = KL(q(z_{t-1} | z_t, x0) || p(z_{t-1} | z_t)), t > 0    their L_t (t counts from 1)
  terms[0] = -log p(x0 | z_0)                                       their L_0

Of pixels, whose levels have probabilities (`discretized_log_probability`), it bounds the bits that
a lossless code of the image takes. Of latents, which are real numbers (`log_density`), it bounds
the logarithm of a density: that of the latent in the units it is scaled to, not of the image. It
moves with the scale and may be negative. See `posterior_entropy` for the rate that it implies.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from ldm_jax.core import rng
from ldm_jax.core.checks import UserError, check_in
from ldm_jax.core.types import Array
from ldm_jax.diffusion.parameterization import Prediction
from ldm_jax.diffusion.process import posterior_coefficients, q_sample
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.samplers.base import Predict
from ldm_jax.samplers.ddpm import VARIANCES

# (x0, mean, log variance) -> log p(x0 | z_0) of each element, in nats
Decoder = Callable[[Array, Array, Array], Array]
# (x0, its prediction) -> squared error of each example, [b]
Error = Callable[[Array, Array], Array]

_HALF_LEVEL = 1 / 255  # 256 levels in [-1, 1] lie 2 / 255 apart


@flax.struct.dataclass
class Profile:
    """What the bound consists of, per image.

    Attributes:
      prior: [b], L_T in bits per dimension.
      terms: [b, T], the other terms by timestep, in bits per dimension.
      x0_mse: [b, T], squared error of the predicted x0.
      eps_mse: [b, T], squared error of the predicted noise.
    """

    prior: Array
    terms: Array
    x0_mse: Array
    eps_mse: Array

    def bits(self) -> np.ndarray:
        """Returns the bound, [b] float64 on the host."""
        prior, terms = (np.asarray(x, np.float64) for x in (self.prior, self.terms))
        return prior + terms.sum(axis=1)


@flax.struct.dataclass
class _Steps:
    """The numbers of every timestep, [T] each: made in float64, where variances nearly cancel."""

    t: Array
    c_x0: Array  # of x0 in the mean of q(z_{t-1} | z_t, x0)
    log_smallest: Array  # of the reverse variance: that of q(z_{t-1} | z_t, x0)
    log_range: Array  # from there to the largest, beta_t


def mean_square(x0: Array, x0_hat: Array) -> Array:
    """Returns the mean squared difference of each example, [b], from two [b, ...] arrays."""
    return jnp.mean(jnp.square(x0 - x0_hat), axis=tuple(range(1, x0.ndim)))


def log_density(x0: Array, mean: Array, log_variance: Array) -> Array:
    """Returns log N(x0; mean, exp(log_variance)) of each element, in nats; for latents."""
    squared = jnp.square(x0 - mean) * jnp.exp(-log_variance)
    return -0.5 * (jnp.log(2 * jnp.pi) + log_variance + squared)


def discretized_log_probability(x0: Array, mean: Array, log_variance: Array) -> Array:
    """Returns the log probability of each element's level under a Gaussian, in nats; for pixels.

    Ho et al. 2020, eq. 13: the Gaussian's integral over the level's bin, x0 ± 1/255. The bins of
    -1 and 1 are open, so that the 256 levels' probabilities sum to 1.

    # Differs from the authors' code, which approximates the normal distribution function by a tanh
    # and takes no probability for less than 1e-12: this is exact in the tails too.

    Args:
      x0: [...] levels of 8 bits, k / 127.5 - 1.
      mean: shaped like `x0`.
      log_variance: that broadcasts to it.
    """
    inverse = jnp.exp(-0.5 * log_variance)
    lower, upper = ((x0 + s * _HALF_LEVEL - mean) * inverse for s in (-1, 1))
    # In the lower tail, where the function itself is small and not 1 less something small.
    flip = lower > 0
    near, far = jnp.where(flip, -lower, upper), jnp.where(flip, -upper, lower)
    log_near = log_ndtr(near)
    inside = log_near + jnp.log(-jnp.expm1(log_ndtr(far) - log_near))
    edge = 1 - _HALF_LEVEL
    return jnp.where(x0 < -edge, log_ndtr(upper), jnp.where(x0 > edge, log_ndtr(-lower), inside))


def posterior_entropy(log_variance: Array, scale: Array) -> Array:
    """Returns the entropy of scaled latents under their posterior, [b], in bits per dimension.

    The bound of a latent less this entropy is the rate KL(q(z | x) || p(z)), in expectation, with
    the diffusion model for the prior p: what bits-back coding of z costs. It is free of the scale.
    It is not the KL of the first stage's loss, whose prior is N(0, I); and with -log p(x | z) it
    would bound the image, had the first stage a likelihood, which one trained on LPIPS and a
    discriminator has not.

    Args:
      log_variance: [b, h, w, c] of the unscaled posterior.
      scale: [c] by which latents are multiplied.
    """
    nats = 0.5 * (jnp.log(2 * jnp.pi) + 1 + log_variance) + jnp.log(scale)[None, None, None, :]
    return jnp.mean(nats, axis=(1, 2, 3)) / jnp.log(2.0)


def noised(
    schedule: Schedule, x0: Array, t: Array, seed: Array | int, indices: Array
) -> tuple[Array, Array]:
    """Returns z_t and the noise in it, a function of (seed, example index, t) alone.

    Args:
      schedule: the noise schedule.
      x0: [b, ...] clean data.
      t: scalar int32, of all examples.
      seed: of the measurement.
      indices: [b] int32 example numbers.
    """
    keys = rng.example_keys(rng.step_key(seed, t, rng.Purpose.LIKELIHOOD), indices)
    eps = rng.normal(keys, x0.shape[1:])
    return q_sample(schedule, x0, jnp.full(x0.shape[:1], t), eps), eps


def bound_profile(
    predict: Predict,
    schedule: Schedule,
    x0: Array,
    seed: Array | int,
    indices: Array,
    *,
    variance: str = "posterior",
    decoder: Decoder = log_density,
    x0_error: Error = mean_square,
) -> Profile:
    """Returns the terms of the bound at all timesteps, one draw of z_t each, in one `lax.scan`.

    Each term is an unbiased estimate; so is their sum, of the bound.

    Args:
      predict: (z [b, ...], t [b] float32) -> Prediction.
      schedule: of the model; its table must be known when the program is traced.
      x0: [b, ...] float32 clean data: pixels in [-1, 1], or scaled latents.
      seed: of the noise.
      indices: [b] int32 numbers of the examples, which their noise depends on.
      variance: of p: 'posterior', that of q(z_{t-1} | z_t, x0) (Ho et al.'s fixed small); 'beta'
        (their fixed large); both take the posterior's of t = 1 at t = 0. Or 'learned', between
        the two where the prediction says.
      decoder: of x0 given z_0; `log_density` or `discretized_log_probability`.
      x0_error: what `Profile.x0_mse` measures, by default in the units of `x0`.

    Raises:
      UserError: another variance, or one that the model does not predict; fewer than 2 timesteps.
    """
    check_in("likelihood variance", variance, VARIANCES)
    steps = _steps(schedule, variance)

    def body(step: _Steps) -> tuple[Array, Array, Array]:
        z_t, eps = noised(schedule, x0, step.t, seed, indices)
        found = predict(z_t, jnp.full(x0.shape[:1], step.t, jnp.float32))
        nats = _term(step, x0, found, _fraction(found, variance), decoder)
        return _bits(nats), x0_error(x0, found.x0), mean_square(eps, found.eps)

    terms, x0_mse, eps_mse = (rows.T for rows in jax.lax.map(body, steps))
    return Profile(_prior(schedule, x0), terms, x0_mse, eps_mse)


def _steps(schedule: Schedule, variance: str) -> _Steps:
    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)
    if len(alpha_bar) < 2:
        raise UserError("likelihood: got num_timesteps=1. Legal: 2 or more.")
    previous = np.append(1.0, alpha_bar[:-1])
    c_x0, _, smallest = posterior_coefficients(alpha_bar, previous)
    smallest[0] = smallest[1]
    largest = 1 - alpha_bar / previous
    if variance == "beta":
        largest[0] = smallest[0]
    table = (c_x0, np.log(smallest), np.log(largest / smallest))
    return _Steps(jnp.arange(len(alpha_bar)), *(jnp.asarray(x, jnp.float32) for x in table))


def _fraction(prediction: Prediction, variance: str) -> Array | float:
    if variance != "learned":
        return float(variance == "beta")
    if prediction.variance_fraction is None:
        raise UserError(
            "likelihood variance='learned': this model does not predict its variance. "
            "Legal: posterior, beta."
        )
    return prediction.variance_fraction


def _term(
    step: _Steps, x0: Array, prediction: Prediction, fraction: Array | float, decoder: Decoder
) -> Array:
    """Returns the term of one timestep for each element, in nats.

    `diffusion.loss.variational_bound` is the same at random timesteps, made to be differentiated.
    Here both means share c_z z_t and both variances log_smallest, which drop out on paper, since
    float32 would lose in their differences what a thousand small terms add up to.
    """
    gap = jnp.broadcast_to(fraction * step.log_range, x0.shape)
    log_variance = step.log_smallest + gap

    def divergence() -> Array:
        squared = jnp.square(step.c_x0 * (x0 - prediction.x0)) * jnp.exp(-log_variance)
        return 0.5 * (gap + jnp.expm1(-gap) + squared)

    return jax.lax.cond(step.t == 0, lambda: -decoder(x0, prediction.x0, log_variance), divergence)


def _prior(schedule: Schedule, x0: Array) -> Array:
    last = np.asarray(schedule.alpha_bar, np.float64)[-1]
    return _bits(0.5 * (last * jnp.square(x0) - (last + np.log1p(-last))))


def _bits(nats: Array) -> Array:
    return jnp.mean(nats, axis=tuple(range(1, nats.ndim))) / jnp.log(2.0)
