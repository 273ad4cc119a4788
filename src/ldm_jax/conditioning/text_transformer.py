"""Conditioning on text by a transformer that is trained along with the diffusion model."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.conditioning.base import Conditioner
from ldm_jax.core.axes import shard_batch
from ldm_jax.core.checks import UserError, check_positive, check_shape
from ldm_jax.core.types import Array, Batch, Conditioning
from ldm_jax.nn.attention import EncoderLayer, check_attention
from ldm_jax.nn.linear import Dense
from ldm_jax.nn.normalization import layer_norm


class TextTransformer(Conditioner):
    """Returns one vector per token, context [b, length, dim].

    The reference's `BERTEmbedder` (paper, section 4.3.1 and Table 17): a pre-norm transformer
    encoder with learned absolute positions and a final layer norm. Attention is unmasked, so
    padding tokens are attended to.

    Attributes:
      vocab_size: number of tokens; 30522 for bert-base-uncased.
      length: of every sequence.
      dim: width of the embeddings.
      depth: number of layers.
      num_heads: of the attention; its inner width is num_heads x head_dim, whatever `dim` is.
      head_dim: width of a head.
      null_tokens: the `length` tokens of the empty caption; () stands for zeros.
      embedding_std: of the two tables at the start. The reference's 0.02 makes tokens alike until
        the tables have grown; with 1.0 a short run tells words apart from the first step.
      dropout: rate on the sum of token and position embeddings, as in the reference.
      pooled_dim: width of a normalised and projected mean over the tokens, which the U-Net adds
        to its timestep embedding (4 times its `channels`), so that the caption also reaches
        blocks without attention; 0, as in the reference, for tokens alone.
      unused_logits: keep an output layer over the vocabulary that nothing reads. The reference
        has one, in its checkpoints and in its parameter counts. Differs from the reference: left
        out by default, because weight decay is all that ever moves it.
      key: the entry of the batch that holds the tokens: captions, or the boxes of a layout.
      attention_impl: see `ldm_jax.nn.attention.attend`.
      dtype: type of the computation and of the result.
      param_dtype: type of the parameters.
    """

    vocab_size: int
    length: int = 77
    dim: int = 1280
    depth: int = 32
    num_heads: int = 8
    head_dim: int = 64
    null_tokens: tuple[int, ...] = ()
    dropout: float = 0.0
    embedding_std: float = 0.02
    pooled_dim: int = 0
    unused_logits: bool = False
    key: str = "tokens"
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        for field in ("vocab_size", "length", "dim", "num_heads", "head_dim"):
            check_positive(field, [getattr(self, field)])
        check_attention(self.attention_impl, self.dtype, self.head_dim)
        if self.null_tokens and len(self.null_tokens) != self.length:
            raise UserError(
                f"text_transformer.null_tokens: got {len(self.null_tokens)} tokens, expected "
                f"length={self.length}. Legal: the padded empty caption, or () for zeros."
            )
        super().__post_init__()

    def input_shapes(self, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Reads the tokens."""
        return {self.key: jax.ShapeDtypeStruct((self.length,), jnp.int32)}

    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Encodes batch[key], [b, length] int32 in 0 .. vocab_size - 1."""
        tokens = batch[self.key]
        check_shape(f"batch['{self.key}']", tokens.shape, (None, self.length))
        return self.encode(tokens, deterministic)

    def null(self, batch_size: int) -> Conditioning:
        """Returns the encoding of the empty caption, encoded once and repeated."""
        tokens = jnp.array(self.null_tokens or (0,) * self.length, jnp.int32)
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x, (batch_size, *x.shape[1:])),
            self.encode(tokens[None, :], True),
        )

    @nn.compact
    def encode(self, tokens: Array, deterministic: bool) -> Conditioning:
        """Returns context [b, length, dim], and embedding if asked for, from [b, length] tokens."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        small = jax.nn.initializers.normal(self.embedding_std)
        x = nn.Embed(
            self.vocab_size, self.dim, embedding_init=small, name="token_embedding", **types
        )(tokens)
        shape = (self.length, self.dim)
        positions = self.param("position_embedding", small, shape, self.param_dtype)
        x = x + positions.astype(x.dtype)[None, :, :]
        x = shard_batch(nn.Dropout(self.dropout)(x, deterministic=deterministic))
        for i in range(self.depth):
            layer = EncoderLayer(
                self.num_heads,
                self.head_dim,
                attention_impl=self.attention_impl,
                name=f"layer_{i}",
                **types,
            )
            x = shard_batch(layer(x))
        x = layer_norm(name="norm_out", **types)(x)
        if self.unused_logits:
            Dense(self.vocab_size, name="to_logits", **types)(x)
        if not self.pooled_dim:
            return Conditioning(context=x)
        # The mean of n unlike tokens shrinks as 1/sqrt(n); normalised, it is as loud as one token.
        mean = layer_norm(name="norm_pool", **types)(jnp.mean(x, axis=1))
        return Conditioning(context=x, embedding=Dense(self.pooled_dim, name="pool", **types)(mean))
