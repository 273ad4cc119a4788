"""Conditioning on text by a BERT encoder, such as the sentence encoders made of it."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.conditioning.base import Conditioner
from ldm_jax.core.axes import shard_batch
from ldm_jax.core.checks import UserError, check_divides, check_positive, check_shape
from ldm_jax.core.types import Array, Batch, Conditioning
from ldm_jax.nn.attention import Attention, FeedForward, check_attention
from ldm_jax.nn.normalization import EPS_BERT, layer_norm


class BertText(Conditioner):
    """Returns one vector per token, context [b, length, dim], zeros where the caption is padded.

    Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3: a post-norm transformer
    encoder over the sum of word, position and segment embeddings; every caption is segment 0. The
    defaults are all-MiniLM-L6-v2's (Wang et al. 2020, https://arxiv.org/abs/2002.10957).

    Padding is not attended to, here or later: no token sees it, and it is encoded as zeros. The
    U-Net's cross-attention, whose keys and values have no biases, finds logit 0 and value 0 there.

    Attributes:
      vocab_size: number of tokens.
      length: of every sequence, at most `num_positions`.
      dim: width of the embeddings.
      depth: number of layers.
      num_heads: of the attention; must divide `dim`.
      num_positions: rows of the table of positions, of which the first `length` are read.
      num_types: rows of the table of segments, of which the first is read.
      pad_id: the token that pads.
      null_tokens: the `length` tokens of the empty caption; () stands for padding alone.
      pooled: also return the mean over the tokens that are no padding as `embedding` [b, dim], the
        sentence vector of Reimers & Gurevych 2019 (https://arxiv.org/abs/1908.10084, section 3)
        before its normalisation. The U-Net adds it to its timestep embedding, so that `dim` must be
        4 times its `channels`.
      attention_impl: see `ldm_jax.nn.attention.attend`.
      dtype: type of the computation and of the result.
      param_dtype: type of the parameters.
    """

    vocab_size: int = 30522
    length: int = 77
    dim: int = 384
    depth: int = 6
    num_heads: int = 12
    num_positions: int = 512
    num_types: int = 2
    pad_id: int = 0
    null_tokens: tuple[int, ...] = ()
    pooled: bool = False
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "length", "dim", "depth", "num_heads", "num_positions", "num_types")
        for field in sizes:
            check_positive(f"bert_text.{field}", [getattr(self, field)])
        check_divides("bert_text.num_heads", self.num_heads, "dim", self.dim)
        check_attention(self.attention_impl, self.dtype, self.dim // self.num_heads)
        if self.length > self.num_positions:
            raise UserError(
                f"bert_text.length: got {self.length}, more than num_positions="
                f"{self.num_positions}. Legal: 1 to {self.num_positions}."
            )
        if self.null_tokens and len(self.null_tokens) != self.length:
            raise UserError(
                f"bert_text.null_tokens: got {len(self.null_tokens)} tokens, expected "
                f"length={self.length}. Legal: the padded empty caption, or () for padding alone."
            )
        super().__post_init__()

    def input_shapes(self, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Reads the tokens."""
        return {"tokens": jax.ShapeDtypeStruct((self.length,), jnp.int32)}

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Encodes batch['tokens'], [b, length] int32 in 0 .. vocab_size - 1."""
        tokens = batch["tokens"]
        check_shape("batch['tokens']", tokens.shape, (None, self.length))
        return self.encode(tokens)

    def null(self, batch_size: int) -> Conditioning:
        """Returns the encoding of the empty caption, encoded once and repeated."""
        tokens = jnp.array(self.null_tokens or (self.pad_id,) * self.length, jnp.int32)
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x, (batch_size, *x.shape[1:])), self.encode(tokens[None, :])
        )

    @nn.compact
    def encode(self, tokens: Array) -> Conditioning:
        """Returns context [b, length, dim], and embedding if asked for, from [b, length] tokens."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        normal = jax.nn.initializers.normal(0.02)
        x = nn.Embed(
            self.vocab_size, self.dim, embedding_init=normal, name="token_embedding", **types
        )(tokens)
        shapes = {"position": (self.num_positions, self.dim), "type": (self.num_types, self.dim)}
        tables = {
            name: self.param(f"{name}_embedding", normal, shape, self.param_dtype).astype(x.dtype)
            for name, shape in shapes.items()
        }
        x = x + tables["type"][None, :1, :] + tables["position"][None, : self.length, :]
        x = shard_batch(layer_norm(name="norm_embedding", eps=EPS_BERT, **types)(x))
        seen = tokens != self.pad_id
        for i in range(self.depth):
            layer = BertLayer(self.num_heads, self.attention_impl, name=f"layer_{i}", **types)
            x = shard_batch(layer(x, seen))
        x = jnp.where(seen[:, :, None], x, jnp.zeros((), x.dtype))
        if not self.pooled:
            return Conditioning(context=x)
        count = jnp.maximum(jnp.sum(seen, axis=1, keepdims=True), 1)
        return Conditioning(context=x, embedding=jnp.sum(x, axis=1) / count.astype(x.dtype))


class BertLayer(nn.Module):
    """Returns x after self-attention and feed-forward, each layer_norm(x + f(x)), [b, n, c].

    Attributes:
      num_heads: of the attention; must divide c.
      attention_impl: see `ldm_jax.nn.attention.attend`.
      dtype: type of the computation and of the result.
      param_dtype: type of the parameters.
    """

    num_heads: int
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, seen: Array) -> Array:
        """Maps tokens [b, n, c]; those that are not `seen`, [b, n], are not attended to."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        attention = Attention(
            self.num_heads,
            x.shape[-1] // self.num_heads,
            qkv_bias=True,
            attention_impl=self.attention_impl,
            name="attn",
            **types,
        )
        x = layer_norm(name="norm_attn", eps=EPS_BERT, **types)(x + attention(x, mask=seen))
        y = x + FeedForward(name="ff", **types)(x)
        return layer_norm(name="norm_ff", eps=EPS_BERT, **types)(y)
