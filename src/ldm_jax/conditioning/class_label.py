"""Conditioning on a class label."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.conditioning.base import Conditioner
from ldm_jax.core.checks import UserError, check_in, check_positive, check_shape
from ldm_jax.core.types import Array, Batch, Conditioning

ROUTES = ("context", "embedding")


class ClassLabel(Conditioner):
    """Returns one learned vector per class, as a single token or as a global embedding.

    The reference's `ClassEmbedder`; row `num_classes` of the table is the null class, so the
    guided ImageNet model, whose table has 1001 rows, is `ClassLabel(1000, 512)`, and the one
    without a null class `ClassLabel(1000, 512, null_class=False)`.

    Attributes:
      num_classes: real classes, 0 .. num_classes - 1.
      dim: width of the vectors; 4 x `UNet.channels` for the route 'embedding'.
      route: 'context' gives [b, 1, dim] tokens, 'embedding' gives [b, dim] vectors.
      null_class: whether there is one; without it there is no classifier-free guidance.
      dtype: type of the result.
      param_dtype: type of the table.
    """

    num_classes: int
    dim: int
    route: str = "context"
    null_class: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_in("class_label.route", self.route, ROUTES)
        for field in ("num_classes", "dim"):
            check_positive(field, [getattr(self, field)])
        super().__post_init__()

    def setup(self) -> None:
        """Builds the table, N(0, 1)."""
        self.table = nn.Embed(
            self.num_classes + self.null_class,
            self.dim,
            embedding_init=jax.nn.initializers.normal(1.0),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    def input_shapes(self, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Reads the label."""
        return {"class": jax.ShapeDtypeStruct((), jnp.int32)}

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Embeds batch['class'], [b] int32 in 0 .. num_classes; the last is the null class."""
        labels = batch["class"]
        check_shape("batch['class']", labels.shape, (None,))
        return self._embed(labels)

    def null(self, batch_size: int) -> Conditioning:
        """Returns the embedding of the null class.

        Raises:
          UserError: there is none.
        """
        if not self.null_class:
            raise UserError(
                "class_label.null_class=False: no null class to guide away from. Legal: "
                "guidance_scale=1.0 and condition_drop_rate=0.0, or null_class=True."
            )
        return self._embed(jnp.full((batch_size,), self.num_classes, jnp.int32))

    def _embed(self, labels: Array) -> Conditioning:
        vectors = self.table(labels)
        if self.route == "embedding":
            return Conditioning(embedding=vectors)
        return Conditioning(context=vectors[:, None, :])
