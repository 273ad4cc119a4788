"""Conditioning on a class label."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.conditioning.base import Conditioner
from ldm_jax.core.checks import check_in, check_positive, check_shape
from ldm_jax.core.types import Array, Batch, Conditioning

ROUTES = ("context", "embedding")


class ClassLabel(Conditioner):
    """Returns one learned vector per class, as a single token or as a global embedding.

    The reference's `ClassEmbedder`; row `num_classes` of the table is the null class, so the
    guided ImageNet model, whose table has 1001 rows, is `ClassLabel(1000, 512)`.

    Attributes:
      num_classes: real classes, 0 .. num_classes - 1.
      dim: width of the vectors; 4 x `UNet.channels` for the route 'embedding'.
      route: 'context' gives [b, 1, dim] tokens, 'embedding' gives [b, dim] vectors.
      dtype: type of the result.
      param_dtype: type of the table.
    """

    num_classes: int
    dim: int
    route: str = "context"
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
            self.num_classes + 1,
            self.dim,
            embedding_init=jax.nn.initializers.normal(1.0),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )

    @property
    def inputs(self) -> tuple[str, ...]:
        """Reads the labels."""
        return ("class",)

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Embeds batch['class'], [b] int32 in 0 .. num_classes; the last is the null class."""
        labels = batch["class"]
        check_shape("batch['class']", labels.shape, (None,))
        return self._embed(labels)

    def null(self, batch_size: int) -> Conditioning:
        """Returns the embedding of the null class."""
        return self._embed(jnp.full((batch_size,), self.num_classes, jnp.int32))

    def _embed(self, labels: Array) -> Conditioning:
        vectors = self.table(labels)
        if self.route == "embedding":
            return Conditioning(embedding=vectors)
        return Conditioning(context=vectors[:, None, :])
