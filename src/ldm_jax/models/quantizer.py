"""Vector quantisation as pure functions: nearest codes, their losses, the straight-through step.

Van den Oord et al. 2017 (arXiv:1711.00937), section 3; taming-transformers `VectorQuantizer2`.
"""

import jax
import jax.numpy as jnp

from ldm_jax.core.types import Array


def nearest_codes(z: Array, codebook: Array) -> Array:
    """Returns the index of the nearest code of every vector, flat [b·h·w] int32.

    argmin_k ‖z - e_k‖² = argmin_k (‖e_k‖² - 2 z·e_k): one matrix product, and no tensor of
    (vectors × codes × dim).

    Args:
      z: [b, h, w, d] latents before quantisation.
      codebook: [n, d].
    """
    vectors = z.reshape(-1, z.shape[-1]).astype(jnp.float32)
    codes = codebook.astype(jnp.float32)
    distances = jnp.sum(jnp.square(codes), axis=-1)[None, :] - 2.0 * vectors @ codes.T
    return jnp.argmin(distances, axis=-1).astype(jnp.int32)


def quantize(z: Array, codebook: Array) -> Array:
    """Returns the nearest code in place of every vector, [b, h, w, d]."""
    return codebook[nearest_codes(z, codebook)].reshape(z.shape)


def straight_through(z: Array, z_q: Array) -> Array:
    """Returns z_q, whose gradient goes to z: z + sg[z_q - z]."""
    return z + jax.lax.stop_gradient(z_q - z)


def codebook_loss(z: Array, z_q: Array, beta: float = 0.25, *, reference: bool = False) -> Array:
    """Returns the loss that moves codes to vectors and holds vectors to codes, a scalar.

    mean‖sg[z] - z_q‖² + beta · mean‖z - sg[z_q]‖²

    # Differs from the reference: beta stands on the commitment term, as in the paper's equation 3.
    # The reference puts it on the codebook term; `reference=True` does the same.
    """
    codes = jnp.mean(jnp.square(z_q - jax.lax.stop_gradient(z)))
    commitment = jnp.mean(jnp.square(jax.lax.stop_gradient(z_q) - z))
    return commitment + beta * codes if reference else codes + beta * commitment
