"""What every conditioner offers, and the dropping of conditions for guidance."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.core.types import Array, Batch, Conditioning

__all__ = ["Conditioner", "Conditioning", "drop"]


class Conditioner(nn.Module):
    """The domain-specific encoder tau_theta of the paper's section 3.3.

    A subclass turns entries of a batch into a `Conditioning`, and knows the one that stands for
    'no condition', which classifier-free guidance needs (Ho & Salimans 2022,
    https://arxiv.org/abs/2207.12598). One that reads `tokens` has the fields `vocab_size` and
    `length`, and one that reads `class` has `num_classes`; they are held against the data.

    Attributes:
      drop_rate: share of examples that are trained without their condition; None leaves it to the
        task's `condition_drop_rate`. A subclass may make it a field.
    """

    # Not annotated: dataclasses would put a subclass's field of that name before all others.
    drop_rate = None  # type: float | None

    def input_shapes(self, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shape and type of one example of every entry of the batch that it reads.

        Args:
          image_size: edge of the square images that belong to the examples, in pixels.
        """
        raise NotImplementedError

    @property
    def inputs(self) -> tuple[str, ...]:
        """The keys of the batch that `__call__` reads."""
        return tuple(self.input_shapes(image_size=1))

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Returns the conditioning of a batch; dropout draws from the 'dropout' stream."""
        raise NotImplementedError

    def null(self, batch_size: int) -> Conditioning:
        """Returns the conditioning of `batch_size` examples without a condition."""
        raise NotImplementedError

    def drop(self, conditioning: Conditioning, null: Conditioning, mask: Array) -> Conditioning:
        """Returns the conditioning that a batch is trained with; see the function `drop`.

        A subclass may drop something else, such as one of its routes by itself; what it draws
        comes from the 'dropout' stream.
        """
        return drop(conditioning, null, mask)


def drop(conditioning: Conditioning, null: Conditioning, mask: Array) -> Conditioning:
    """Returns the conditioning with the rows of `mask` replaced by the null conditioning.

    Args:
      conditioning: of b examples; absent routes stay absent.
      null: of one example, which is broadcast, or of b.
      mask: [b] bool, true where the condition is dropped; drawn by the caller.
    """

    def replace(x: Array, empty: Array) -> Array:
        rows = mask.reshape((-1,) + (1,) * (x.ndim - 1))
        empty = jnp.broadcast_to(empty.astype(x.dtype), x.shape)
        return jnp.where(rows, empty, x)

    return jax.tree.map(replace, conditioning, null)
