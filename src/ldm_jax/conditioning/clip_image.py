"""Conditioning on an image by the image tower of CLIP."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.conditioning.base import Conditioner
from ldm_jax.core.axes import shard_batch
from ldm_jax.core.checks import check_divides, check_in, check_positive, check_shape
from ldm_jax.core.types import Array, Batch, Conditioning
from ldm_jax.nn.attention import ACTIVATIONS, EncoderLayer, check_attention
from ldm_jax.nn.init import fan_in_uniform
from ldm_jax.nn.linear import Dense
from ldm_jax.nn.normalization import layer_norm

# Of the images that CLIP was trained on, in [0, 1].
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_LEAST_NORM = 1e-12


class ClipImage(Conditioner):
    """Returns one vector of an image, context [b, 1, projection_dim], for models that vary it.

    Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4: a vision transformer
    (Dosovitskiy et al. 2020, arXiv 2010.11929) whose class token, normalised and projected, lies in
    the same space as CLIP's embeddings of text. The defaults are ViT-L/14's.

    The image is resized as CLIP's were, bicubically with antialiasing. Differs from the reference:
    its embedder resizes without, because that is what its library did, and large images alias.

    Attributes:
      resolution: edge of the image that the transformer sees, in pixels.
      patch: edge of a patch; must divide `resolution`.
      dim: width of the tokens.
      depth: number of layers.
      num_heads: of the attention; must divide `dim`.
      projection_dim: width of the result.
      activation: of the feed-forward layers, 'quick_gelu' (OpenAI's) or 'gelu' (OpenCLIP's).
      normalized: the result has length 1, as the embeddings of retrieval-augmented models.
      attention_impl: see `ldm_jax.nn.attention.attend`.
      dtype: type of the computation and of the result.
      param_dtype: type of the parameters.
    """

    resolution: int = 224
    patch: int = 14
    dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    projection_dim: int = 768
    activation: str = "quick_gelu"
    normalized: bool = False
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        for field in ("resolution", "patch", "dim", "depth", "num_heads", "projection_dim"):
            check_positive(f"clip_image.{field}", [getattr(self, field)])
        check_in("clip_image.activation", self.activation, ACTIVATIONS)
        check_divides("clip_image.patch", self.patch, "resolution", self.resolution)
        check_divides("clip_image.num_heads", self.num_heads, "dim", self.dim)
        check_attention(self.attention_impl, self.dtype, self.dim // self.num_heads)
        super().__post_init__()

    def input_shapes(self, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Reads the image."""
        return {"image": jax.ShapeDtypeStruct((image_size, image_size, 3), jnp.uint8)}

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Encodes batch['image'], uint8 [b, H, W, 3] of any size; squeezed where not square."""
        images = batch["image"]
        check_shape("batch['image']", images.shape, (None, None, None, 3))
        return Conditioning(context=self.encode(self.prepare(images))[:, None, :])

    def null(self, batch_size: int) -> Conditioning:
        """Returns zeros, as the reference does for retrieval-augmented models."""
        return Conditioning(context=jnp.zeros((batch_size, 1, self.projection_dim), self.dtype))

    def prepare(self, images: Array) -> Array:
        """Returns what the transformer sees, [b, resolution, resolution, 3], from whole numbers."""
        shape = (len(images), self.resolution, self.resolution, 3)
        x = jax.image.resize(images.astype(jnp.float32) / 255, shape, "cubic")
        mean, deviation = (jnp.array(v).reshape(1, 1, 1, 3) for v in (_MEAN, _DEVIATION))
        return ((jnp.clip(x, 0, 1) - mean) / deviation).astype(self.dtype)

    @nn.compact
    def encode(self, pixels: Array) -> Array:
        """Returns [b, projection_dim] from what `prepare` returns."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        normal = jax.nn.initializers.normal
        x = nn.Conv(
            self.dim,
            (self.patch, self.patch),
            strides=(self.patch, self.patch),
            padding="VALID",
            use_bias=False,
            kernel_init=fan_in_uniform(3 * self.patch**2),
            name="patch_embedding",
            **types,
        )(pixels)
        x = x.reshape(len(x), -1, self.dim)
        token = self.param("class_embedding", normal(0.02), (self.dim,), self.param_dtype)
        token = jnp.broadcast_to(token.astype(x.dtype)[None, None, :], (len(x), 1, self.dim))
        x = jnp.concatenate([token, x], axis=1)
        shape = (x.shape[1], self.dim)
        positions = self.param("position_embedding", normal(0.02), shape, self.param_dtype)
        x = shard_batch(x + positions.astype(x.dtype)[None, :, :])
        x = layer_norm(name="norm_in", **types)(x)
        for i in range(self.depth):
            layer = EncoderLayer(
                self.num_heads,
                self.dim // self.num_heads,
                qkv_bias=True,
                activation=self.activation,
                attention_impl=self.attention_impl,
                name=f"layer_{i}",
                **types,
            )
            x = shard_batch(layer(x))
        x = layer_norm(name="norm_out", **types)(x[:, 0])
        x = Dense(self.projection_dim, use_bias=False, name="projection", **types)(x)
        if not self.normalized:
            return x
        norm = jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True)
        return (x / jnp.maximum(norm, _LEAST_NORM)).astype(x.dtype)
