"""The Gaussian posterior of the KL-regularised first stage."""

import flax.struct
import jax.numpy as jnp

from ldm_jax.core.types import Array

LOGVAR_MIN, LOGVAR_MAX = -30.0, 20.0


@flax.struct.dataclass
class DiagonalGaussian:
    """The distribution N(mean, diag(exp(logvar))), one per example.

    Attributes:
      mean:   [b, h, w, c] float32.
      logvar: [b, h, w, c] float32 in [-30, 20].
    """

    mean: Array
    logvar: Array

    @classmethod
    def from_moments(cls, moments: Array) -> "DiagonalGaussian":
        """Returns the distribution of [b, h, w, 2c] moments: mean first, then log variance."""
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return cls(mean=mean, logvar=jnp.clip(logvar, LOGVAR_MIN, LOGVAR_MAX))

    @property
    def moments(self) -> Array:
        """What `from_moments` takes, [b, h, w, 2c] float32."""
        return jnp.concatenate([self.mean, self.logvar], axis=-1)

    def sample(self, eps: Array) -> Array:
        """Returns mean + exp(logvar / 2) eps; the caller draws eps ~ N(0, 1), [b, h, w, c]."""
        return self.mean + jnp.exp(0.5 * self.logvar) * eps

    def mode(self) -> Array:
        """Returns the most likely latent, which is the mean."""
        return self.mean

    def kl(self) -> Array:
        """Returns KL(self || N(0, 1)) in nats, [b], summed over h, w and c.

        0.5 sum(mean^2 + exp(logvar) - 1 - logvar); Kingma & Welling 2014, appendix B.
        """
        terms = jnp.square(self.mean) + jnp.exp(self.logvar) - 1.0 - self.logvar
        return 0.5 * jnp.sum(terms, axis=(1, 2, 3))
