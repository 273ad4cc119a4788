"""Training of a first stage, and on pixels: L1 + L2 + the regularisation of its latent."""

import dataclasses
from typing import Any, cast

import jax.numpy as jnp

from ldm_jax.core.checks import UserError
from ldm_jax.core.rng import Purpose, StepKeys, normal
from ldm_jax.core.types import Array, Batch, PyTree
from ldm_jax.models.posterior import DiagonalGaussian
from ldm_jax.models.vq_autoencoder import Code
from ldm_jax.tasks.base import LossOutput, to_float_images


@dataclasses.dataclass(frozen=True)
class FirstStageTask:
    """What all ways to train a first stage share.

    Attributes:
      model: the autoencoder.
      image_size: pixels of the square training images.
      kl_weight: of the KL divergence, for a Gaussian latent.
      codebook_weight: of the codebook loss, for a quantised one.
      codebook_beta: weight of the commitment term within the codebook loss.
    """

    model: Any
    image_size: int
    kl_weight: float = 1e-6
    codebook_weight: float = 1.0
    codebook_beta: float = 0.25

    def __post_init__(self) -> None:
        self._check_not_negative("kl_weight", "codebook_weight", "codebook_beta")

    def _check_not_negative(self, *fields: str) -> None:
        for field in fields:
            if getattr(self, field) < 0:
                raise UserError(f"task.{field}={getattr(self, field)}: legal is 0 or more.")

    def init(self, key: Array, batch: Any) -> tuple[PyTree, PyTree]:
        """Returns fresh parameters and no mutable collections."""
        images = jnp.zeros((1, *batch["image"].shape[1:]), jnp.float32)
        eps = jnp.zeros((1, *self.model.latent_shape(self.image_size, self.image_size)))
        return {"autoencoder": self.model.init(key, images, eps)["params"]}, {}

    def forward(
        self, params: PyTree, x: Array, keys: StepKeys, purpose: Purpose = Purpose.POSTERIOR
    ) -> tuple[Array, DiagonalGaussian | Code]:
        """Returns reconstructions [b, H, W, C], not clipped, through samples of the posterior.

        Args:
          params: of the task.
          x: [b, H, W, C] images in [-1, 1].
          keys: of the batch.
          purpose: of the posterior's noise.
        """
        eps = normal(keys(purpose), self.model.latent_shape(*x.shape[1:3]))
        dropout = {"dropout": keys.shared(Purpose.DROPOUT)}
        found = self.model.apply(
            {"params": params["autoencoder"]}, x, eps, deterministic=False, rngs=dropout
        )
        return cast(tuple[Array, DiagonalGaussian | Code], found)

    def revise(
        self, group: str, params: PyTree, mutable: PyTree, step: Array
    ) -> tuple[PyTree, PyTree]:
        """Returns everything as it is."""
        del group, step
        return params, mutable

    def reconstruct(self, params: PyTree, batch: Batch) -> Array:
        """Returns reconstructions from the posterior mode, [b, H, W, C] in [-1, 1]."""
        variables = {"params": params["autoencoder"]}
        x = to_float_images(batch["image"])
        posterior = cast(DiagonalGaussian | Code, self.model.apply(variables, x, method="encode"))
        return cast(Array, self.model.apply(variables, posterior.mode(), method="decode"))


@dataclasses.dataclass(frozen=True)
class AutoencoderTask(FirstStageTask):
    """Reconstruction through a Gaussian or a quantised latent, judged by pixels.

    loss = l1_weight · mean|x - x̂| + l2_weight · mean(x - x̂)² + regularisation, which is
    kl_weight · KL / (H·W·C), or codebook_weight · codebook loss (van den Oord et al. 2017, eq. 3).

    The paper (appendix G) sums errors and KL over an image; dividing both by H·W·C keeps their
    balance, so `kl_weight` means what it means in the reference (about 1e-6).
    """

    l1_weight: float = 1.0
    l2_weight: float = 1.0

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """One loss trains everything."""
        return {"autoencoder": ("autoencoder",)}

    def loss(
        self,
        group: str,
        params: PyTree,
        mutable: PyTree,
        frozen: PyTree,
        batch: Batch,
        keys: StepKeys,
    ) -> LossOutput:
        """Returns the reconstruction loss; Gaussian latents are sampled from the posterior."""
        del group, frozen
        x = to_float_images(batch["image"])
        reconstruction, posterior = self.forward(params, x, keys)
        error = reconstruction - x
        l1, l2 = jnp.mean(jnp.abs(error)), jnp.mean(jnp.square(error))
        if isinstance(posterior, Code):
            name, penalty = "codebook", posterior.codebook_loss(self.codebook_beta)
            weight = self.codebook_weight
        else:
            name, penalty = "kl", jnp.mean(posterior.kl()) / x[0].size
            weight = self.kl_weight
        loss = self.l1_weight * l1 + self.l2_weight * l2 + weight * penalty
        metrics = {"l1": l1, "l2": l2, name: penalty, "psnr": 10 * jnp.log10(4.0 / l2)}
        return LossOutput(loss, metrics, mutable)
