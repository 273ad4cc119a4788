"""Training of the KL-regularised first stage on pixels: L1 + L2 + KL."""

import dataclasses
from typing import Any, cast

import jax.numpy as jnp

from ldm_jax.core.rng import Purpose, StepKeys, normal
from ldm_jax.core.types import Array, Batch, PyTree
from ldm_jax.models.autoencoder import Autoencoder
from ldm_jax.models.posterior import DiagonalGaussian
from ldm_jax.tasks.base import LossOutput, to_float_images


@dataclasses.dataclass(frozen=True)
class AutoencoderTask:
    """Reconstruction through a Gaussian latent.

    loss = l1_weight · mean|x - x̂| + l2_weight · mean(x - x̂)² + kl_weight · KL / (H·W·C)

    The paper (appendix G) sums errors and KL over an image; dividing both by H·W·C keeps their
    balance, so `kl_weight` means what it means in the reference (about 1e-6).

    Attributes:
      model: the autoencoder.
      image_size: pixels of the square training images.
    """

    model: Autoencoder
    image_size: int
    l1_weight: float = 1.0
    l2_weight: float = 1.0
    kl_weight: float = 1e-6

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """One loss trains everything."""
        return {"autoencoder": ("autoencoder",)}

    def init(self, key: Array, batch: Any) -> tuple[PyTree, PyTree]:
        """Returns fresh parameters and no mutable collections."""
        images = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
        eps = jnp.zeros((1, *self.model.latent_shape(self.image_size, self.image_size)))
        return {"autoencoder": self.model.init(key, images, eps)["params"]}, {}

    def loss(
        self,
        group: str,
        params: PyTree,
        mutable: PyTree,
        frozen: PyTree,
        batch: Batch,
        keys: StepKeys,
    ) -> LossOutput:
        """Returns the reconstruction loss with latents sampled from the posterior."""
        del group, frozen
        x = to_float_images(batch["image"])
        eps = normal(keys(Purpose.POSTERIOR), self.model.latent_shape(*x.shape[1:3]))
        reconstruction, posterior = cast(
            tuple[Array, DiagonalGaussian],
            self.model.apply(
                {"params": params["autoencoder"]},
                x,
                eps,
                deterministic=False,
                rngs={"dropout": keys.shared(Purpose.DROPOUT)},
            ),
        )
        error = reconstruction - x
        l1, l2 = jnp.mean(jnp.abs(error)), jnp.mean(jnp.square(error))
        kl = jnp.mean(posterior.kl()) / x[0].size
        loss = self.l1_weight * l1 + self.l2_weight * l2 + self.kl_weight * kl
        metrics = {"l1": l1, "l2": l2, "kl": kl, "psnr": 10 * jnp.log10(4.0 / l2)}
        return LossOutput(loss, metrics, mutable)

    def reconstruct(self, params: PyTree, batch: Batch) -> Array:
        """Returns reconstructions from the posterior mode, [b, H, W, C] in [-1, 1]."""
        variables = {"params": params["autoencoder"]}
        x = to_float_images(batch["image"])
        posterior = cast(DiagonalGaussian, self.model.apply(variables, x, method="encode"))
        return cast(Array, self.model.apply(variables, posterior.mode(), method="decode"))
