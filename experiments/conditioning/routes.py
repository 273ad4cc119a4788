"""A label map by cross-attention and a class by concatenation: each by the other one's route."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.conditioning import Conditioner, Conditioning, SpatialRescaler
from ldm_jax.core.checks import check_positive
from ldm_jax.core.types import Batch


class MapTokens(Conditioner):
    """Returns the cells of a shrunk label map as tokens with learned places, [b, cells, dim].

    Attributes:
      num_classes: of the labels.
      image_size: edge of the maps in pixels.
      dim: width of a token.
      num_stages: 2 to this power is how much the map is shrunk.
    """

    num_classes: int
    image_size: int
    dim: int
    num_stages: int = 2

    def setup(self) -> None:
        """Builds the embedding of labels and that of places."""
        self.rescale = SpatialRescaler(self.num_classes, self.image_size, self.num_stages, self.dim)
        normal = jax.nn.initializers.normal(1.0)
        self.places = self.param("places", normal, (self._cells(), self.dim))

    def input_shapes(self, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Reads the map."""
        return {"segmentation": jax.ShapeDtypeStruct((image_size, image_size), jnp.int32)}

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Returns the tokens of batch['segmentation'], [b, H, W] int32."""
        cells = self.rescale(batch).concat
        tokens = cells.reshape(len(cells), self._cells(), self.dim)
        return Conditioning(context=tokens + self.places[None])

    def null(self, batch_size: int) -> Conditioning:
        """Returns zeros."""
        return Conditioning(context=jnp.zeros((batch_size, self._cells(), self.dim)))

    def _cells(self) -> int:
        return (self.image_size // 2**self.num_stages) ** 2


class ClassMap(Conditioner):
    """Returns a learned vector of the class at every place, concat [b, edge, edge, dim].

    Attributes:
      num_classes: of the labels.
      edge: of the latent.
      dim: channels of the map.
    """

    num_classes: int
    edge: int
    dim: int
    uniform_null = True

    def __post_init__(self) -> None:
        check_positive("class_map.num_classes, edge, dim", (self.num_classes, self.edge, self.dim))
        super().__post_init__()

    def input_shapes(self, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Reads the class."""
        return {"class": jax.ShapeDtypeStruct((), jnp.int32)}

    @nn.compact
    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Returns the map of batch['class'], [b] int32."""
        normal: Any = jax.nn.initializers.normal(1.0)
        vectors = nn.Embed(self.num_classes, self.dim, embedding_init=normal)(batch["class"])
        shape = (len(vectors), self.edge, self.edge, self.dim)
        return Conditioning(concat=jnp.broadcast_to(vectors[:, None, None], shape))

    def null(self, batch_size: int) -> Conditioning:
        """Returns zeros."""
        shape = (batch_size, self.edge, self.edge, self.dim)
        return Conditioning(concat=jnp.zeros(shape))
