"""No conditioning."""

import jax

from ldm_jax.conditioning.base import Conditioner
from ldm_jax.core.types import Batch, Conditioning


class NoConditioning(Conditioner):
    """Returns an empty conditioning, for unconditional models."""

    def input_shapes(self, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Reads nothing."""
        return {}

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Returns the empty conditioning, whatever the batch holds."""
        return Conditioning()

    def null(self, batch_size: int) -> Conditioning:
        """Returns the empty conditioning."""
        return Conditioning()
