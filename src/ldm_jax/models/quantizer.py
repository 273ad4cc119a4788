"""Vector quantisation as pure functions: nearest codes, their losses, the straight-through step.

Van den Oord et al. 2017 (arXiv:1711.00937), section 3; taming-transformers `VectorQuantizer2`.
"""

import jax
import jax.numpy as jnp

from ldm_jax.core.types import Array

_MAX_DISTANCES = 2**26  # float32 numbers held at once, 256 MiB


def nearest_codes(z: Array, codebook: Array) -> Array:
    """Returns the index of the nearest code of every vector, flat [b·h·w] int32.

    argmin_k ‖z - e_k‖² = argmin_k (‖e_k‖² - 2 z·e_k): one matrix product, and no tensor of
    (vectors × codes × dim). Rows of the maps are searched a few at a time where all distances
    together would take more than 256 MiB; the batch stays whole, since it is what devices split.

    Args:
      z: [b, h, w, d] latents before quantisation.
      codebook: [n, d].
    """
    b, h, w, d = z.shape
    codes = codebook.astype(jnp.float32)
    norms = jnp.sum(jnp.square(codes), axis=-1)

    def search(rows: Array) -> Array:
        vectors = rows.reshape(-1, d).astype(jnp.float32)
        # An accelerator's default precision would pick other codes, far from 0 in a third of cases.
        products = jnp.matmul(vectors, codes.T, precision=jax.lax.Precision.HIGHEST)
        distances = norms[None, :] - 2.0 * products
        return jnp.argmin(distances, axis=-1).astype(jnp.int32).reshape(rows.shape[:-1])

    most = max(1, _MAX_DISTANCES // (b * w * len(codes)))
    rows = max(k for k in range(1, h + 1) if h % k == 0 and k <= most)
    if rows == h:
        return search(z).reshape(-1)
    pieces = jnp.moveaxis(z.reshape(b, h // rows, rows, w, d), 1, 0)
    return jnp.moveaxis(jax.lax.map(search, pieces), 0, 1).reshape(-1)


def code_shares(indices: Array, num_codes: int) -> Array:
    """Returns how often each code is taken, [n] float32 that sum to 1."""
    counts = jnp.zeros((num_codes,), jnp.float32).at[indices].add(1.0)
    return counts / indices.size


def perplexity(shares: Array) -> Array:
    """Returns exp(-sum p log p), scalar: the number of codes in use, were they used alike."""
    return jnp.exp(-jnp.sum(shares * jnp.log(jnp.maximum(shares, 1e-10))))


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
