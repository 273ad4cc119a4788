"""Conditioning on text by the text tower of CLIP."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.conditioning.base import Conditioner
from ldm_jax.core.axes import shard_batch
from ldm_jax.core.checks import UserError, check_divides, check_in, check_positive, check_shape
from ldm_jax.core.types import Array, Batch, Conditioning
from ldm_jax.nn.attention import ACTIVATIONS, EncoderLayer, check_attention
from ldm_jax.nn.normalization import layer_norm


class ClipText(Conditioner):
    """Returns one vector per token, context [b, length, dim].

    Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 2.4: a pre-norm transformer with
    causal attention, learned absolute positions and a final layer norm, whose output is taken at
    every token. The defaults are ViT-L/14's, the text encoder of Stable Diffusion 1. That of
    Stable Diffusion 2 is OpenCLIP's ViT-H/14 without its last layer:
    `ClipText(dim=1024, depth=23, num_heads=16, activation="gelu")`. Padding is attended to.

    Attributes:
      vocab_size: number of tokens.
      length: of every sequence.
      dim: width of the embeddings.
      depth: number of layers.
      num_heads: of the attention; must divide `dim`.
      activation: of the feed-forward layers, 'quick_gelu' (OpenAI's) or 'gelu' (OpenCLIP's).
      null_tokens: the `length` tokens of the empty caption; () stands for zeros.
      attention_impl: see `ldm_jax.nn.attention.attend`.
      dtype: type of the computation and of the result.
      param_dtype: type of the parameters.
    """

    vocab_size: int = 49408
    length: int = 77
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    activation: str = "quick_gelu"
    null_tokens: tuple[int, ...] = ()
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        for field in ("vocab_size", "length", "dim", "depth", "num_heads"):
            check_positive(f"clip_text.{field}", [getattr(self, field)])
        check_in("clip_text.activation", self.activation, ACTIVATIONS)
        check_divides("clip_text.num_heads", self.num_heads, "dim", self.dim)
        check_attention(self.attention_impl, self.dtype, self.dim // self.num_heads)
        if self.null_tokens and len(self.null_tokens) != self.length:
            raise UserError(
                f"clip_text.null_tokens: got {len(self.null_tokens)} tokens, expected "
                f"length={self.length}. Legal: the padded empty caption, or () for zeros."
            )
        super().__post_init__()

    def input_shapes(self, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Reads the tokens."""
        return {"tokens": jax.ShapeDtypeStruct((self.length,), jnp.int32)}

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Encodes batch['tokens'], [b, length] int32 in 0 .. vocab_size - 1."""
        tokens = batch["tokens"]
        check_shape("batch['tokens']", tokens.shape, (None, self.length))
        return Conditioning(context=self.encode(tokens))

    def null(self, batch_size: int) -> Conditioning:
        """Returns the encoding of the empty caption, encoded once and repeated."""
        tokens = jnp.array(self.null_tokens or (0,) * self.length, jnp.int32)
        context = self.encode(tokens[None, :])
        return Conditioning(context=jnp.broadcast_to(context, (batch_size, *context.shape[1:])))

    @nn.compact
    def encode(self, tokens: Array) -> Array:
        """Returns [b, length, dim] from tokens [b, length]."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        normal = jax.nn.initializers.normal
        x = nn.Embed(
            self.vocab_size, self.dim, embedding_init=normal(0.02), name="token_embedding", **types
        )(tokens)
        shape = (self.length, self.dim)
        positions = self.param("position_embedding", normal(0.01), shape, self.param_dtype)
        x = shard_batch(x + positions.astype(x.dtype)[None, :, :])
        for i in range(self.depth):
            layer = EncoderLayer(
                self.num_heads,
                self.dim // self.num_heads,
                qkv_bias=True,
                causal=True,
                activation=self.activation,
                attention_impl=self.attention_impl,
                name=f"layer_{i}",
                **types,
            )
            x = shard_batch(layer(x))
        return layer_norm(name="norm_out", **types)(x)
