"""First stages: what the three kinds share, and the KL-regularised one."""

from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.core.checks import UserError, check_divides, check_positive, check_shape
from ldm_jax.core.types import Array
from ldm_jax.models.encoder_decoder import Decoder, Encoder
from ldm_jax.models.posterior import DiagonalGaussian
from ldm_jax.nn.attention import check_attention
from ldm_jax.nn.linear import Conv


class ConvolutionalFirstStage(nn.Module):
    """Encoder, decoder and the 1x1 convolutions between them and the latent.

    Paper, appendix G and Table 8. Subclasses say how the latent is regularised.

    Attributes:
      image_channels: of the images and of the reconstructions.
      channels: width of the first level.
      channel_mult: one multiplier per level; f = 2^(levels - 1).
      num_res_blocks: residual blocks per level of the encoder; the decoder has one more.
      attention_factors: downsampling factors of the levels with attention, as in the U-Net.
        Differs from the reference: its `attn_resolutions` are pixel resolutions counted from
        256, so that its 16 is the factor 256 / 16 = 16 and its 8 the factor 32.
      z_channels: width between encoder and quantisation convolution.
      embed_dim: channels of the latent.
      mid_attention: attention at the lowest resolution.
      num_groups: of the group normalisations; must divide every width.
      dropout: rate in the residual blocks; randomness from the 'dropout' stream.
      attention_impl: see `ldm_jax.nn.attention.attend`.
      dtype: type of the computation; latents and reconstructions are float32.
      param_dtype: type of the parameters.
    """

    image_channels: int = 3
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    attention_factors: tuple[int, ...] = ()
    z_channels: int = 4
    embed_dim: int = 4
    mid_attention: bool = True
    num_groups: int = 32
    dropout: float = 0.0
    attention_impl: str = "auto"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    # Numbers that the encoder gives for each channel of the latent, and what they define.
    moments: ClassVar[int] = 1
    posterior: ClassVar[type]

    def __post_init__(self) -> None:
        for field in ("channels", "z_channels", "embed_dim", "image_channels"):
            check_positive(field, [getattr(self, field)])
        check_positive("channel_mult", self.channel_mult)
        levels = range(len(self.channel_mult))
        for level in levels:
            width = self.channels * self.channel_mult[level]
            check_divides("num_groups", self.num_groups, f"the width of level {level}", width)
            if 2**level in self.attention_factors or (self.mid_attention and level == levels[-1]):
                check_attention(self.attention_impl, self.dtype, width)
        super().__post_init__()

    def setup(self) -> None:
        """Builds the four parts that the reference's checkpoints hold."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        shared: dict[str, Any] = {
            "channels": self.channels,
            "channel_mult": self.channel_mult,
            "num_res_blocks": self.num_res_blocks,
            "attention_factors": self.attention_factors,
            "mid_attention": self.mid_attention,
            "num_groups": self.num_groups,
            "dropout": self.dropout,
            "attention_impl": self.attention_impl,
        }
        self.encoder = Encoder(self.moments * self.z_channels, **shared, **types)
        self.decoder = Decoder(self.image_channels, **shared, **types)
        self.quant_conv = Conv(self.moments * self.embed_dim, kernel_size=1, **types)
        self.post_quant_conv = Conv(self.z_channels, kernel_size=1, **types)

    @property
    def downsampling_factor(self) -> int:
        """The edge f of the square of pixels that one latent cell stands for."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def latent_channels(self) -> int:
        """The channels of the latent."""
        return self.embed_dim

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Returns the shape (h, w, c) of the latent of an image of that size.

        Raises:
          UserError: unless f divides both sides.
        """
        f = self.downsampling_factor
        if height % f or width % f:
            raise UserError(
                f"image size: got {height}x{width}, expected multiples of {f} on both sides. "
                f"Nearest legal: {_nearest(height, f)}x{_nearest(width, f)}."
            )
        return height // f, width // f, self.embed_dim

    def encode_moments(self, x: Array, deterministic: bool) -> Array:
        """Returns what the encoder says of the latent, [b, H/f, W/f, moments * embed_dim].

        Raises:
          UserError: for another number of channels, or sides that f does not divide.
        """
        check_shape("images", x.shape, (None, None, None, self.image_channels))
        self.latent_shape(x.shape[1], x.shape[2])
        return self.quant_conv(self.encoder(x, deterministic))

    def decode_latent(self, z: Array, deterministic: bool) -> Array:
        """Returns images from latents as the decoder takes them; see `decode`.

        Raises:
          UserError: for another number of channels.
        """
        check_shape("latents", z.shape, (None, None, None, self.embed_dim))
        return self.decoder(self.post_quant_conv(z), deterministic).astype(jnp.float32)


class Autoencoder(ConvolutionalFirstStage):
    """Maps images to Gaussian posteriors of latents, and latents to images.

    Paper, section 3.1 and appendix G (KL-reg.). The published kl-f8 is
    `Autoencoder(channel_mult=(1, 2, 4, 4), z_channels=4, embed_dim=4)`. Attributes as in
    `ConvolutionalFirstStage`.
    """

    moments: ClassVar[int] = 2
    posterior: ClassVar[type] = DiagonalGaussian

    def encode(self, x: Array, *, deterministic: bool = True) -> DiagonalGaussian:
        """Returns the posterior over latents, [b, H/f, W/f, embed_dim], float32.

        Args:
          x: [b, H, W, image_channels] images in [-1, 1].
          deterministic: no dropout.

        Raises:
          UserError: for another number of channels, or sides that f does not divide.
        """
        return DiagonalGaussian.from_moments(self.encode_moments(x, deterministic))

    def decode(self, z: Array, *, deterministic: bool = True) -> Array:
        """Returns images, [b, f h, f w, image_channels] float32, not clipped to [-1, 1].

        Args:
          z: [b, h, w, embed_dim] latents without any scale factor.
          deterministic: no dropout.

        Raises:
          UserError: for another number of channels.
        """
        return self.decode_latent(z, deterministic)

    def __call__(
        self, x: Array, eps: Array, *, deterministic: bool = True
    ) -> tuple[Array, DiagonalGaussian]:
        """Returns the reconstruction from a sampled latent, and the posterior.

        Args:
          x: [b, H, W, image_channels] images in [-1, 1].
          eps: [b, H/f, W/f, embed_dim] standard normal noise, drawn by the caller.
          deterministic: no dropout.
        """
        posterior = self.encode(x, deterministic=deterministic)
        return self.decode(posterior.sample(eps), deterministic=deterministic), posterior


def _nearest(size: int, factor: int) -> int:
    return max(factor, round(size / factor) * factor)
