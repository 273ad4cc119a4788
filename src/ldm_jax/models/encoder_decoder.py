"""Convolutional encoder and decoder, shared by every first stage."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.core.axes import shard_batch
from ldm_jax.core.types import Array
from ldm_jax.nn.attention import SelfAttentionBlock
from ldm_jax.nn.linear import Conv
from ldm_jax.nn.normalization import EPS_AUTOENCODER, group_norm
from ldm_jax.nn.resample import PAD_AFTER, Downsample, Upsample
from ldm_jax.nn.resnet import ResBlock


class _Stack(nn.Module):
    """What the two halves share: fields, and blocks with the autoencoder's constants.

    Attributes:
      out_channels: width of the result.
      channels: width of the first level, multiplied by `channel_mult` on each.
      channel_mult: one multiplier per level; the resolution halves between levels.
      num_res_blocks: residual blocks per level of the encoder; the decoder has one more.
      attention_factors: downsampling factors of the levels with attention after each block.
      mid_attention: attention at the lowest resolution.
      num_groups: of the group normalisations.
      dropout: rate in the residual blocks.
      attention_impl: see `ldm_jax.nn.attention.attend`.
      dtype: type of the computation; statistics and softmax are float32.
      param_dtype: type of the parameters.
    """

    out_channels: int
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_factors: tuple[int, ...] = ()
    mid_attention: bool = True
    num_groups: int = 32
    dropout: float = 0.0
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def types(self) -> dict[str, Any]:
        """The compute and parameter types, as keyword arguments of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def res(self, name: str, x: Array, width: int, deterministic: bool) -> Array:
        """Applies a residual block without time embedding; nothing here starts at zero."""
        block = ResBlock(
            width,
            eps=EPS_AUTOENCODER,
            num_groups=self.num_groups,
            dropout=self.dropout,
            zero_init=False,
            name=name,
            **self.types,
        )
        return shard_batch(block(x, None, deterministic))

    def attend(self, name: str, x: Array) -> Array:
        """Applies self-attention with one head."""
        block = SelfAttentionBlock(
            num_heads=1,
            eps=EPS_AUTOENCODER,
            num_groups=self.num_groups,
            zero_init=False,
            attention_impl=self.attention_impl,
            name=name,
            **self.types,
        )
        return shard_batch(block(x))

    def middle(self, x: Array, deterministic: bool) -> Array:
        """Applies the blocks at the lowest resolution."""
        x = self.res("mid_res_0", x, x.shape[-1], deterministic)
        if self.mid_attention:
            x = self.attend("mid_attn", x)
        return self.res("mid_res_1", x, x.shape[-1], deterministic)

    def head(self, x: Array) -> Array:
        """Applies the last normalisation and convolution."""
        x = group_norm(self.num_groups, EPS_AUTOENCODER, name="norm_out", **self.types)(x)
        return Conv(self.out_channels, name="conv_out", **self.types)(nn.silu(x))


class Encoder(_Stack):
    """Returns a map of features, [b, H, W, c] -> [b, H/f, W/f, out_channels].

    f = 2^(levels - 1). Paper, appendix G, after VQGAN (Esser et al. 2021, Table 7).
    """

    @nn.compact
    def __call__(self, x: Array, deterministic: bool = True) -> Array:
        """Encodes images in [-1, 1]."""
        x = Conv(self.channels, name="conv_in", **self.types)(x)
        for level, multiplier in enumerate(self.channel_mult):
            with jax.named_scope(f"down_{level}"):
                for i in range(self.num_res_blocks):
                    width = self.channels * multiplier
                    x = self.res(f"down_{level}_res_{i}", x, width, deterministic)
                    if 2**level in self.attention_factors:
                        x = self.attend(f"down_{level}_attn_{i}", x)
                if level < len(self.channel_mult) - 1:
                    name = f"down_{level}_downsample"
                    x = shard_batch(Downsample(PAD_AFTER, name=name, **self.types)(x))
        with jax.named_scope("mid"):
            x = self.middle(x, deterministic)
        return self.head(x)


class Decoder(_Stack):
    """Returns images from latents, [b, h, w, z_channels] -> [b, f h, f w, out_channels].

    The mirror image of `Encoder` with one more residual block per level and no final squashing.
    """

    @nn.compact
    def __call__(self, z: Array, deterministic: bool = True) -> Array:
        """Decodes latents; the result aims at [-1, 1] and is not clipped."""
        x = Conv(self.channels * self.channel_mult[-1], name="conv_in", **self.types)(z)
        with jax.named_scope("mid"):
            x = self.middle(x, deterministic)
        for level, multiplier in reversed(list(enumerate(self.channel_mult))):
            with jax.named_scope(f"up_{level}"):
                for i in range(self.num_res_blocks + 1):
                    width = self.channels * multiplier
                    x = self.res(f"up_{level}_res_{i}", x, width, deterministic)
                    if 2**level in self.attention_factors:
                        x = self.attend(f"up_{level}_attn_{i}", x)
                if level:
                    x = shard_batch(Upsample(name=f"up_{level}_upsample", **self.types)(x))
        return self.head(x)
