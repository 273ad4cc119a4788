"""What a diffusion model trains against: its first stage, between pixels and scaled latents."""

import dataclasses
from fractions import Fraction
from typing import Any

import flax.struct
import jax.numpy as jnp

from ldm_jax.core.checks import UserError
from ldm_jax.core.rng import normal
from ldm_jax.core.types import Array, Conditioning, PyTree
from ldm_jax.core.windows import over_windows
from ldm_jax.tasks.latent_statistics import LatentStatistics


@flax.struct.dataclass
class LatentScale:
    """The affine map that gives latents zero mean and unit variance: z = (latent - shift) · scale.

    The paper's appendix G divides by one standard deviation, estimated on the first batch; here it
    is measured over many images. Both arrays are [c]; a single factor has shift 0.
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


@flax.struct.dataclass
class Answered(Frozen):
    """What a run trains against whose batches hold the answers of its conditioner, by route.

    Never on disk: a workdir keeps the conditioner itself, for sampling.

    Attributes:
      null: the conditioning [1, …] of an example without a condition.
    """

    null: Conditioning = dataclasses.field(default_factory=Conditioning)


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
        return self.sample_unscaled(self.moments(params, images), keys)

    def moments(self, params: PyTree, images: Array) -> Array:
        """Returns what defines the posteriors of images in [-1, 1], [b, h, w, m] float32.

        Mean and log variance for a Gaussian, m = 2 c; the latent itself where it is not random.
        """
        return self.model.apply({"params": params}, images, method="encode").moments

    def sample_unscaled(self, moments: Array, keys: Array) -> Array:
        """Returns samples [b, h, w, c] of the posteriors that `moments` gives."""
        posterior = self.model.posterior.from_moments(moments)
        shape = (*moments.shape[1:3], self.model.latent_channels)
        return posterior.sample(normal(keys, shape))

    def encode(self, frozen: Frozen, images: Array, keys: Array) -> Array:
        """Returns scaled latents [b, h, w, c]: a sample, not the mode, as in the reference."""
        return self.scaled(frozen, self.encode_unscaled(frozen.params, images, keys))

    def scaled(self, frozen: Frozen, latents: Array) -> Array:
        """Returns latents [b, h, w, c] of the first stage as the diffusion model takes them."""
        shift, scale = frozen.latent_scale.shift, frozen.latent_scale.scale
        return (latents - shift[None, None, None, :]) * scale[None, None, None, :]

    def encode_mode(self, frozen: Frozen, images: Array, tile: int | None = None) -> Array:
        """Returns scaled latents [b, h, w, c] without noise: the mode of the posterior.

        Args:
          frozen: parameters and scale.
          images: [b, H, W, C] in [-1, 1].
          tile: edge in pixels of overlapping windows that larger images are encoded in, in bounded
            memory; a multiple of four times the downsampling factor. None encodes them whole.
        """
        f = self.model.downsampling_factor

        def moments(x: Array) -> Array:
            return self.moments(frozen.params, x)

        if tile is None:
            found = moments(images)
        else:
            found = over_windows(moments, images, (tile, tile), (tile // 4,) * 2, Fraction(1, f))
        return self.scaled(frozen, self.model.posterior.from_moments(found).mode())

    def decode(self, frozen: Frozen, z: Array, tile: int | None = None) -> Array:
        """Returns images [b, H, W, C], about [-1, 1], from scaled latents; `tile` as above."""
        latents, f = self._unscaled(frozen, z), self.model.downsampling_factor

        def decode(z: Array) -> Array:
            return self.model.apply({"params": frozen.params}, z, method="decode")

        if tile is None:
            return decode(latents)
        return over_windows(decode, latents, (tile // f,) * 2, (tile // (4 * f),) * 2, f)

    def check_tile(self, tile: int | None) -> None:
        """Raises UserError for windows that do not fall on latent pixels."""
        unit = 4 * self.model.downsampling_factor
        if tile is not None and (tile < unit or tile % unit):
            raise UserError(f"tile={tile}: legal are multiples of {unit} pixels, or none.")

    def quantize(self, frozen: Frozen, z: Array) -> Array:
        """Returns the nearest codes, scaled, in place of scaled latents [b, h, w, c]; VQ only."""
        latents = self._unscaled(frozen, z)
        codes = self.model.apply({"params": frozen.params}, latents, method="quantize")
        return self.scaled(frozen, codes)

    def _unscaled(self, frozen: Frozen, z: Array) -> Array:
        shift, scale = frozen.latent_scale.shift, frozen.latent_scale.scale
        return z / scale[None, None, None, :] + shift[None, None, None, :]

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Returns (h, w, c) for images of height × width pixels."""
        return self.model.latent_shape(height, width)

    def moments_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Returns (h, w, m) of `moments`, likewise."""
        h, w, c = self.latent_shape(height, width)
        return h, w, self.model.moments * c


def measured_scale(statistics: LatentStatistics, scale_factor: str) -> LatentScale:
    """Returns the scale that gives latents of these statistics unit variance.

    Args:
      statistics: of the unscaled latents.
      scale_factor: 'auto', shift and scale per channel; or 'std', one factor for all elements and
        no shift, as in the paper's appendix G.
    """
    if scale_factor == "std":
        return fixed_scale(len(statistics.mean.value), 1.0 / float(statistics.std_all.value))
    shift, std = statistics.mean.value, statistics.std.value
    return LatentScale(jnp.asarray(shift, jnp.float32), jnp.asarray(1.0 / std, jnp.float32))
