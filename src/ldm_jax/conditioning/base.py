"""What every conditioner offers, and the dropping of conditions for guidance."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, Batch, Conditioning

__all__ = ["Conditioner", "Conditioning", "drop", "spread_null"]


class Conditioner(nn.Module):
    """The domain-specific encoder tau_theta of the paper's section 3.3.

    A subclass turns entries of a batch into a `Conditioning`, and knows the one that stands for
    'no condition', which classifier-free guidance needs (Ho & Salimans 2022,
    https://arxiv.org/abs/2207.12598). One that reads `tokens` has the fields `vocab_size` and
    `length`, and one that reads `class` has `num_classes`; they are held against the data.

    Attributes:
      drop_rate: share of examples that are trained without their condition; None leaves it to the
        task's `condition_drop_rate`. A subclass may make it a field.
      uniform_null: whether the map of `null` is the same everywhere, and so serves images of every
        size; others serve those of the training size only.
    """

    # Not annotated: dataclasses would put a subclass's field of that name before all others.
    drop_rate = None  # type: float | None
    uniform_null = False

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
      null: see `spread_null`.
      mask: [b] bool, true where the condition is dropped; drawn by the caller.

    Raises:
      UserError: `null` cannot stand in for `conditioning`.
    """

    def replace(x: Array, empty: Array) -> Array:
        rows = mask.reshape((-1,) + (1,) * (x.ndim - 1))
        return jnp.where(rows, empty.astype(x.dtype), x)

    return jax.tree.map(replace, conditioning, spread_null(null, conditioning))


def one_cell(null: Conditioning) -> Conditioning:
    """Returns a null conditioning whose map is the same everywhere with one cell of it."""
    if null.concat is None:
        return null
    return dataclasses.replace(null, concat=null.concat[:, :1, :1])


def spread_null(null: Conditioning, conditioning: Conditioning | None) -> Conditioning:
    """Returns the null conditioning with the shapes of `conditioning`.

    Args:
      null: of one example, which is repeated, or of as many. A map of one cell is repeated too.
      conditioning: with the same routes.

    Raises:
      UserError: other routes, or shapes that cannot be repeated; so for maps of more than a cell.
    """
    found = {}
    for route in ("context", "concat", "embedding"):
        got, expected = getattr(null, route), getattr(conditioning, route, None)
        shapes = tuple(None if x is None else tuple(x.shape) for x in (got, expected))
        same = (got is None) == (expected is None)
        if same and got is not None and expected is not None:
            row, cell = expected.shape[1:], (1, 1, *expected.shape[3:])
            legal = (row, cell) if route == "concat" else (row,)
            same = got.shape[1:] in legal and got.shape[0] in (1, expected.shape[0])
        if not same:
            also = ", and maps of one cell" if route == "concat" else ""
            raise UserError(
                f"null conditioning, {route}: got shape {shapes[0]}, expected {shapes[1]} as in "
                f"the conditioning. Legal: the same shape, or batch 1{also}."
            )
        found[route] = None if expected is None else jnp.broadcast_to(got, expected.shape)
    return Conditioning(**found)
