"""Rate and distortion of progressive decoding (Ho et al. 2020, arXiv 2006.11239, section 4.3).

A receiver is sent z_{T-1}, then z_{T-2}, and so on, each coded under the model's own p(z_{t-1} |
z_t), and shows at any time the x0 that it predicts from what it has. Few bits give the picture's
meaning and many its texture: semantic and perceptual compression, the LDM paper's section 1 and
figure 2. All rates here are sums of KL divergences, and so true rates of latents as well: the
density at the end of a latent's bound is not among them.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.core.checks import check_range
from ldm_jax.core.types import Array
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.evaluation.likelihood import noised
from ldm_jax.samplers.base import Predict


@dataclasses.dataclass(frozen=True)
class Curve:
    """What a receiver of z_{T-1} … z_t has been sent, and how near its picture is.

    Attributes:
      timesteps: [S] t of the last z that was sent.
      rate: [S] bits per dimension of z.
      distortion: [S] root of the mean squared error over all images, in `unit`.
      unit: 'levels', of 0 to 255; or 'latents', scaled.
    """

    timesteps: np.ndarray
    rate: np.ndarray
    distortion: np.ndarray
    unit: str


def cumulative_rate(prior: np.ndarray | float, terms: np.ndarray) -> np.ndarray:
    """Returns prior + sum_{s > t} terms[s], the bits that make z_t known, [T] float64.

    Args:
      prior: L_T of the bound.
      terms: [T], the others; that at t = 0, which makes x0 known, is not used.
    """
    sent = np.append(prior, np.asarray(terms, np.float64)[:0:-1])
    return np.cumsum(sent)[::-1]


def x0_errors(
    predict: Predict,
    schedule: Schedule,
    x0: Array,
    seed: Array | int,
    indices: Array,
    timesteps: Sequence[int],
    error: Callable[[Array], Array],
) -> Array:
    """Returns the error of the x0 predicted at chosen timesteps, [b, S], in one `lax.scan`.

    For errors that cost as much as the network, such as those of decoded images. The noise is that
    of `bound_profile`.

    Args:
      predict: (z [b, ...], t [b] float32) -> Prediction.
      schedule: of the model.
      x0: [b, ...] clean data.
      seed: of the noise.
      indices: [b] int32 numbers of the examples.
      timesteps: S numbers in [0, T).
      error: predicted x0 [b, ...] -> [b].

    Raises:
      UserError: a timestep that the schedule does not have.
    """
    for t in timesteps:
        check_range("rate_distortion timesteps", t, 0, schedule.num_timesteps - 1)

    def body(t: Array) -> Array:
        z_t, _ = noised(schedule, x0, t, seed, indices)
        return error(predict(z_t, jnp.full(x0.shape[:1], t, jnp.float32)).x0)

    return jax.lax.map(body, jnp.asarray(timesteps, jnp.int32)).T
