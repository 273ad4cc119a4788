"""The coarse colours of images as their features: for trying things out, without any weights."""

import hashlib

import jax
import jax.numpy as jnp

from ldm_jax.core.checks import check_positive
from ldm_jax.core.types import Array, PyTree
from ldm_jax.evaluation.features import Extracted, Extractor


def pixels(size: int = 8) -> Extractor:
    """Returns an extractor of size x size x 3 colours in [0, 1], which know nothing of content.

    Args:
      size: edge that images are brought to.

    Raises:
      UserError: a size below 1.
    """
    check_positive("extractor pixels.size", [size])

    def apply(params: PyTree, images: Array) -> Extracted:
        del params
        shape = (len(images), size, size, images.shape[-1])
        coarse = jax.image.resize(images.astype(jnp.float32) / 255, shape, "linear")
        return Extracted(jnp.broadcast_to(coarse, (*shape[:-1], 3)).reshape(len(images), -1))

    name = f"pixels {size}x{size}"
    fingerprint = hashlib.sha256(name.encode()).hexdigest()
    return Extractor(name, fingerprint, f"bilinear to {size}x{size}, antialiased", {}, apply)
