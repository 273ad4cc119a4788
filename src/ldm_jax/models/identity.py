"""The first stage of pixel-space diffusion: none."""

from typing import ClassVar

import flax.linen as nn

from ldm_jax.core.checks import check_positive, check_shape
from ldm_jax.core.types import Array
from ldm_jax.models.vq_autoencoder import Code


class IdentityFirstStage(nn.Module):
    """Maps images to themselves: LDM-1 of the paper's section 4.1. It has no parameters.

    Attributes:
      image_channels: of the images.
    """

    image_channels: int = 3

    moments: ClassVar[int] = 1
    posterior: ClassVar[type] = Code

    def __post_init__(self) -> None:
        check_positive("image_channels", [self.image_channels])
        super().__post_init__()

    @property
    def downsampling_factor(self) -> int:
        """1: a latent cell is a pixel."""
        return 1

    @property
    def latent_channels(self) -> int:
        """The channels of the image."""
        return self.image_channels

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Returns (height, width, image_channels)."""
        return height, width, self.image_channels

    def encode(self, x: Array, *, deterministic: bool = True) -> Code:
        """Returns the images [b, H, W, image_channels] as latents."""
        check_shape("images", x.shape, (None, None, None, self.image_channels))
        return Code(x)

    def decode(self, z: Array, *, deterministic: bool = True) -> Array:
        """Returns the latents [b, H, W, image_channels] as images."""
        check_shape("latents", z.shape, (None, None, None, self.image_channels))
        return z

    def __call__(self, x: Array, eps: Array, *, deterministic: bool = True) -> tuple[Array, Code]:
        """Returns the images, and the images as latents."""
        return self.decode(x), self.encode(x)
