"""The vector-quantised first stage, in the form that diffusion models use."""

from typing import ClassVar

import flax.struct
import jax
import jax.numpy as jnp

from ldm_jax.core.checks import check_positive, check_shape
from ldm_jax.core.types import Array
from ldm_jax.models.autoencoder import ConvolutionalFirstStage
from ldm_jax.models.quantizer import codebook_loss, nearest_codes, quantize, straight_through


@flax.struct.dataclass
class Code:
    """A latent before quantisation, and the codes next to it.

    Attributes:
      latent: [b, h, w, c] float32, what diffusion models are trained on.
      quantized: [b, h, w, c] float32, the nearest code of each cell; None if not computed.
      indices: [b·h·w] int32, its number in the codebook; None if not computed.
    """

    latent: Array
    quantized: Array | None = None
    indices: Array | None = None

    @classmethod
    def from_moments(cls, moments: Array) -> "Code":
        """Returns the code of latents [b, h, w, c]; there is nothing else to know of it."""
        return cls(moments)

    @property
    def moments(self) -> Array:
        """The latent, [b, h, w, c] float32."""
        return self.latent

    def sample(self, eps: Array) -> Array:
        """Returns the latent, which is not random; `eps` is there for the Gaussian's sake."""
        del eps
        return self.latent

    def mode(self) -> Array:
        """Returns the latent."""
        return self.latent

    def codebook_loss(self, beta: float, *, reference: bool = False) -> Array:
        """Returns the loss of codes and latents, scalar; see `quantizer.codebook_loss`."""
        assert self.quantized is not None
        return codebook_loss(self.latent, self.quantized, beta, reference=reference)


class VQAutoencoder(ConvolutionalFirstStage):
    """Maps images to latents before quantisation, and quantises them before it decodes.

    Paper, section 3.1 and appendix G (VQ-reg.), the reference's `VQModelInterface`: the quantiser
    belongs to the decoder. Attributes as in `ConvolutionalFirstStage`, and:

    Attributes:
      num_codes: |Z|, the entries of the codebook.
    """

    num_codes: int = 8192

    posterior: ClassVar[type] = Code

    def __post_init__(self) -> None:
        check_positive("num_codes", [self.num_codes])
        super().__post_init__()

    def setup(self) -> None:
        """Builds the parts, and the codebook, which starts from U(+-1/num_codes)."""
        super().setup()
        bound = 1.0 / self.num_codes
        self.codebook = self.param(
            "codebook",
            lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound),
            (self.num_codes, self.embed_dim),
            self.param_dtype,
        )

    def encode(self, x: Array, *, deterministic: bool = True) -> Code:
        """Returns latents before quantisation, [b, H/f, W/f, embed_dim] float32.

        Args:
          x: [b, H, W, image_channels] images in [-1, 1].
          deterministic: no dropout.

        Raises:
          UserError: for another number of channels, or sides that f does not divide.
        """
        return Code(self.encode_moments(x, deterministic).astype(jnp.float32))

    def quantize(self, z: Array) -> Array:
        """Returns the nearest code in place of every latent, [b, h, w, embed_dim] float32.

        Raises:
          UserError: for another number of channels.
        """
        check_shape("latents", z.shape, (None, None, None, self.embed_dim))
        return quantize(z, self.codebook).astype(jnp.float32)

    def decode(self, z: Array, *, deterministic: bool = True, quantized: bool = False) -> Array:
        """Returns images, [b, f h, f w, image_channels] float32, not clipped to [-1, 1].

        Args:
          z: [b, h, w, embed_dim] latents without any scale factor.
          deterministic: no dropout.
          quantized: `z` holds codes, or should be decoded as it is.

        Raises:
          UserError: for another number of channels.
        """
        return self.decode_latent(z if quantized else self.quantize(z), deterministic)

    def __call__(self, x: Array, eps: Array, *, deterministic: bool = True) -> tuple[Array, Code]:
        """Returns the reconstruction, with straight-through gradients, and the code.

        Args:
          x: [b, H, W, image_channels] images in [-1, 1].
          eps: unused: quantisation is not random.
          deterministic: no dropout.
        """
        z = self.encode(x, deterministic=deterministic).latent
        indices = nearest_codes(z, self.codebook)
        z_q = self.codebook[indices].reshape(z.shape).astype(jnp.float32)
        images = self.decode(straight_through(z, z_q), deterministic=deterministic, quantized=True)
        return images, Code(z, z_q, indices)
