"""Conditioning on what the batch holds already."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from ldm_jax.conditioning.base import Conditioner
from ldm_jax.core.checks import UserError, check_in, check_positive, check_shape
from ldm_jax.core.types import Batch, Conditioning

# Axes of one example on each route, and which of them may differ from `shape`.
_FREE = {"context": (), "concat": (0, 1), "embedding": ()}
_RANKS = {"context": 2, "concat": 3, "embedding": 1}


class Identity(Conditioner):
    """Returns an entry of the batch as it is, or times a number.

    The reference's `Identity` conditioning stage: low-resolution images for super-resolution, the
    latent of a masked image and its mask for inpainting, CLIP embeddings for retrieval-augmented
    models.

    Attributes:
      key: of the entry, float32.
      shape: of one example: (m, d) tokens for 'context', (h, w, c) at the latent's size for
        'concat', whose h and w follow the latent when sampling at another size, (e,) for
        'embedding'.
      route: 'context', 'concat' or 'embedding'.
      scale: what the entry is multiplied by. A vector of length 1 and width d is smaller than what
        the network is initialised for, and learned from slowly; sqrt(d) makes up for it.
      dtype: type of the result.
    """

    key: str
    shape: tuple[int, ...]
    route: str
    scale: float = 1.0
    dtype: Any = jnp.float32

    uniform_null = True

    def __post_init__(self) -> None:
        check_in("identity.route", self.route, _RANKS)
        if not math.isfinite(self.scale) or self.scale == 0:
            raise UserError(f"identity.scale={self.scale}: legal is a finite number but 0.")
        check_positive("identity.shape", self.shape)
        check_shape("identity.shape", (len(self.shape),), (_RANKS[self.route],))
        super().__post_init__()

    def input_shapes(self, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Reads the entry."""
        return {self.key: jax.ShapeDtypeStruct(self.shape, jnp.float32)}

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Returns scale · batch[key], [b, *shape]."""
        x = batch[self.key]
        free = _FREE[self.route]
        expected = (None if i in free else size for i, size in enumerate(self.shape))
        check_shape(f"batch['{self.key}']", x.shape, (None, *expected))
        return Conditioning(**{self.route: (self.scale * x).astype(self.dtype)})

    def null(self, batch_size: int) -> Conditioning:
        """Returns zeros, as the reference does for retrieval-augmented models."""
        return Conditioning(**{self.route: jnp.zeros((batch_size, *self.shape), self.dtype)})
