"""The residual block of the U-Net and of the autoencoder."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.core.types import Array
from ldm_jax.nn.linear import Conv, Dense
from ldm_jax.nn.normalization import group_norm
from ldm_jax.nn.resample import downsample_average, upsample_nearest

RESAMPLERS = {"none": lambda x: x, "up": upsample_nearest, "down": downsample_average}


class ResBlock(nn.Module):
    """Returns skip(x) + h, h = conv(drop(silu(norm(conv(silu(norm(x))) + e)))).

    e is the projected embedding; with `scale_shift_norm` it becomes a scale and a shift after
    the second normalisation instead: norm(h) (1 + scale) + shift. The 1x1 skip convolution is
    there only where the width changes.

    Attributes:
      out_channels: width of the result.
      eps: of the normalisations, 1e-5 in the U-Net and 1e-6 in the autoencoder.
      num_groups: of the normalisations.
      dropout: rate before the last convolution; randomness from the 'dropout' stream.
      resample: 'none', 'up' (nearest) or 'down' (2x2 mean), applied to x and to h alike.
      scale_shift_norm: how the embedding enters; needs one.
      zero_init: the last convolution starts at zero, so that the block is skip(x) at first;
        the autoencoder does not do so.
      dtype: type of the computation and of the result; statistics are float32.
      param_dtype: type of the parameters.
    """

    out_channels: int
    eps: float
    num_groups: int = 32
    dropout: float = 0.0
    resample: str = "none"
    scale_shift_norm: bool = False
    zero_init: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, emb: Array | None = None, deterministic: bool = True) -> Array:
        """Maps x [b, h, w, c] and emb [b, e], or None for a block without embedding."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        resample = RESAMPLERS[self.resample]

        h = group_norm(self.num_groups, self.eps, name="norm_in", **types)(x)
        h = resample(nn.silu(h))
        h = Conv(self.out_channels, name="conv_in", **types)(h)

        modulation = None
        if emb is not None:
            width = self.out_channels * (2 if self.scale_shift_norm else 1)
            e = Dense(width, name="emb_proj", **types)(nn.silu(emb))[:, None, None, :]
            if self.scale_shift_norm:
                modulation = jnp.split(e, 2, axis=-1)
            else:
                h = h + e
        h = group_norm(self.num_groups, self.eps, name="norm_out", **types)(h)
        if modulation is not None:
            scale, shift = modulation
            h = h * (1 + scale) + shift
        h = nn.Dropout(self.dropout)(nn.silu(h), deterministic=deterministic)
        h = Conv(self.out_channels, zero_init=self.zero_init, name="conv_out", **types)(h)

        x = resample(x)
        if x.shape[-1] != self.out_channels:
            x = Conv(self.out_channels, kernel_size=1, name="skip", **types)(x)
        return x + h
