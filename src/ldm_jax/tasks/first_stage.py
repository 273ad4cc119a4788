"""What a diffusion model trains against: its first stage, between pixels and scaled latents."""

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp

from ldm_jax.core.checks import UserError
from ldm_jax.core.rng import normal
from ldm_jax.core.types import Array, PyTree


@flax.struct.dataclass
class LatentScale:
    """The affine map that gives latents zero mean and unit variance: z = (latent - shift) · scale.

    The paper's appendix G divides by one standard deviation, estimated on the first batch; here it
    is measured over many images. Both arrays are [c]; a fixed factor has shift 0.
    """

    shift: Array
    scale: Array


@flax.struct.dataclass
class Frozen:
    """Parameters that the diffusion model trains against and never changes.

    Attributes:
      params: of the first stage.
      latent_scale: what its latents are multiplied by.
      conditioner: parameters of a conditioner that is not trained; None for one that is.
    """

    params: PyTree
    latent_scale: LatentScale
    conditioner: PyTree = None


def fixed_scale(channels: int, factor: float) -> LatentScale:
    """Returns the reference's single scale factor, such as 0.18215, as a LatentScale."""
    return LatentScale(jnp.zeros((channels,)), jnp.full((channels,), factor, jnp.float32))


@dataclasses.dataclass(frozen=True)
class FirstStage:
    """Encodes to and decodes from scaled latents.

    Attributes:
      model: a Flax autoencoder (`encode`, `decode`, `latent_shape`).
    """

    model: Any

    def init(self, key: Array, image_size: int) -> PyTree:
        """Returns fresh parameters; those of a model without any are {}."""
        images = jnp.zeros((1, image_size, image_size, self.model.image_channels))
        eps = jnp.zeros((1, *self.latent_shape(image_size, image_size)))
        return self.model.init(key, images, eps).get("params", {})

    def encode_unscaled(self, params: PyTree, images: Array, keys: Array) -> Array:
        """Returns posterior samples [b, h, w, c] of images in [-1, 1]; `keys` [b] draw noise."""
        posterior = self.model.apply({"params": params}, images, method="encode")
        return posterior.sample(normal(keys, self.latent_shape(*images.shape[1:3])))

    def encode(self, frozen: Frozen, images: Array, keys: Array) -> Array:
        """Returns scaled latents [b, h, w, c]: a sample, not the mode, as in the reference."""
        latents = self.encode_unscaled(frozen.params, images, keys)
        shift, scale = frozen.latent_scale.shift, frozen.latent_scale.scale
        return (latents - shift[None, None, None, :]) * scale[None, None, None, :]

    def decode(self, frozen: Frozen, z: Array) -> Array:
        """Returns images [b, H, W, C], about [-1, 1], from scaled latents."""
        shift, scale = frozen.latent_scale.shift, frozen.latent_scale.scale
        latents = z / scale[None, None, None, :] + shift[None, None, None, :]
        return self.model.apply({"params": frozen.params}, latents, method="decode")

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Returns (h, w, c) for images of height × width pixels."""
        return self.model.latent_shape(height, width)


def measure_scale(count: int, total: Array, total_square: Array) -> LatentScale:
    """Returns the scale from per-channel sums over `count` values; shift is the channel mean.

    Raises:
      UserError: a channel does not vary, as with an untrained or collapsed first stage.
    """
    mean = total / count
    variance = total_square / count - jnp.square(mean)
    if not bool(jnp.all(variance > 1e-12)):
        raise UserError(
            f"first stage: latent variance per channel is {variance.tolist()}; expected positive. "
            "The first stage looks untrained or collapsed."
        )
    return LatentScale(mean, 1.0 / jnp.sqrt(variance))
