"""Latent diffusion: a denoising network and its conditioner, over a frozen first stage."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from ldm_jax.conditioning.base import Conditioner, one_cell
from ldm_jax.core.checks import UserError, check_in
from ldm_jax.core.rng import Purpose, StepKeys, normal, randint, uniform
from ldm_jax.core.types import Array, Batch, Conditioning, PyTree
from ldm_jax.diffusion.loss import LOSSES, variational_bound
from ldm_jax.diffusion.parameterization import (
    PARAMETERIZATIONS,
    Prediction,
    to_prediction,
    training_target,
)
from ldm_jax.diffusion.process import alpha_bar_at, q_sample
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.samplers.base import Rows, image_keys, initial_noise, sample
from ldm_jax.samplers.guidance import Denoise, classifier_free
from ldm_jax.tasks.base import LossOutput, to_float_images
from ldm_jax.tasks.first_stage import Answered, FirstStage, Frozen
from ldm_jax.tasks.latent_task import LatentTask, table_limits

# What conditioners of inpainting models read.
MASKED_IMAGE = "masked_image"


def _first_pixel(hidden: Array, size: int) -> Array:
    return jnp.round(hidden[:, ::size, ::size])


def _share(hidden: Array, size: int) -> Array:
    b, h, w, c = hidden.shape
    return hidden.reshape(b, h // size, size, w // size, size, c).mean(axis=(2, 4))


# How a mask [b, H, W, 1] of zeros and ones becomes one of cells of size x size pixels.
MASK_CELLS = {"first_pixel": _first_pixel, "share": _share}
# (frozen, images [b, H, W, C] in [-1, 1]) -> scaled latents [b, h, w, c]
Encode = Callable[[Frozen, Array], Array]


@dataclasses.dataclass(frozen=True)
class LatentDiffusionTask(LatentTask):
    """Denoising in the latent space of a first stage (Rombach et al. 2022, equations 2 and 3).

    loss = E_{z, eps, t} weight(t) · ‖target - network(z_t, t, tau(y))‖, averaged over the latent.

    Attributes:
      model: the denoising network, `(z_t, t, conditioning) -> [b, h, w, c]`.
      conditioner: tau_theta.
      first_stage: encodes and decodes; its parameters are in `frozen`.
      schedule: noise levels.
      weights: [T] float32, loss weight per timestep.
      image_size: pixels of the square training images.
      parameterization: what the network predicts: 'eps', 'x0' or 'v'.
      loss_name: 'l1' or 'l2'.
      train_conditioner: the conditioner is trained along with the network; otherwise its
        parameters are in `frozen`, as those of Stable Diffusion's text encoder are.
      condition_drop_rate: share of examples trained with the null condition, for
        classifier-free guidance (Ho & Salimans 2022); a conditioner's own `drop_rate` goes first.
      learn_variance: the network has a second half of channels, which say where the variance of the
        reverse process lies (Nichol and Dhariwal 2021, arXiv 2102.09672, section 3.1).
      vlb_weight: lambda of L_hybrid = L_simple + lambda L_vlb, where that is learned.
      mask_cells: what a model of inpainting is told of the mask in a latent's cell: its
        'first_pixel', as in the reference, which misses thin strokes; or the 'share' that is
        hidden.
    """

    model: Any
    conditioner: Conditioner
    first_stage: FirstStage
    schedule: Schedule
    weights: Array
    image_size: int
    parameterization: str = "eps"
    loss_name: str = "l2"
    train_conditioner: bool = True
    condition_drop_rate: float = 0.1
    learn_variance: bool = False
    vlb_weight: float = 0.001
    mask_cells: str = "first_pixel"

    def __post_init__(self):
        check_in("task.mask_cells", self.mask_cells, MASK_CELLS)
        check_in("task.parameterization", self.parameterization, PARAMETERIZATIONS)
        check_in("task.loss_name", self.loss_name, LOSSES)
        rates = {
            "condition_drop_rate": self.condition_drop_rate,
            "conditioner.drop_rate": self.drop_rate,
        }
        for field, rate in rates.items():
            if not 0.0 <= rate <= 1.0:
                raise UserError(f"task.{field}={rate}: legal is 0 to 1.")

    @property
    def drop_rate(self) -> float:
        """Share of examples trained with the null condition: the conditioner's, or the task's."""
        own = self.conditioner.drop_rate
        return self.condition_drop_rate if own is None else own

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """One loss trains the network, and the conditioner with it unless that is frozen."""
        return {"diffusion": ("unet", "conditioner") if self.train_conditioner else ("unet",)}

    def init(self, key: Array, batch: Any) -> tuple[PyTree, PyTree]:
        """Returns fresh parameters `{'unet', 'conditioner'}` and no mutable collections.

        A frozen conditioner is not among them.
        """
        unet_key, conditioner_key = jax.random.split(key)
        conditioning, conditioner = self._init_conditioner(conditioner_key)
        z = jnp.zeros((1, *self.first_stage.latent_shape(self.image_size, self.image_size)))
        unet = self.model.init(unet_key, z, jnp.zeros((1,)), conditioning)["params"]
        trained = {"unet": unet, "conditioner": conditioner}
        return {name: trained[name] for name in self.groups["diffusion"]}, {}

    def init_conditioner(self, key: Array) -> PyTree:
        """Returns fresh parameters of the conditioner, trained or frozen."""
        return self._init_conditioner(key)[1]

    def _init_conditioner(self, key: Array) -> tuple[Conditioning, PyTree]:
        shapes = self.conditioner.input_shapes(self.image_size)
        one = {name: jnp.zeros((1, *x.shape), x.dtype) for name, x in shapes.items()}
        conditioning, variables = self.conditioner.init_with_output(key, one)
        return cast(Conditioning, conditioning), variables.get("params", {})

    def loss(
        self,
        group: str,
        params: PyTree,
        mutable: PyTree,
        frozen: Frozen,
        batch: Batch,
        keys: StepKeys,
    ) -> LossOutput:
        """Returns the denoising loss at one uniformly drawn timestep per example."""
        del group
        z0 = self.latents(frozen, batch, keys(Purpose.POSTERIOR))
        t = randint(keys(Purpose.TIMESTEP), 0, self.schedule.num_timesteps)
        eps = normal(keys(Purpose.NOISE), z0.shape[1:])
        z_t = q_sample(self.schedule, z0, t, eps)
        conditioning = self._training_conditioning(params, frozen, batch, keys)
        output = self.model.apply(
            {"params": params["unet"]},
            z_t,
            t.astype(jnp.float32),
            conditioning,
            deterministic=False,
            rngs={"dropout": keys.shared(Purpose.DROPOUT)},
        )
        output, fraction = self._split_output(output)
        target = training_target(self.parameterization, z0, eps, self.schedule.alpha_bar[t])
        per_example = LOSSES[self.loss_name](output, target)
        loss = jnp.mean(self.weights[t] * per_example)
        metrics = {"loss_simple": jnp.mean(per_example)}
        if fraction is not None:
            alpha_bar = self.schedule.alpha_bar[t]
            # The mean is L_simple's to learn: L_vlb only teaches the variance (section 3.1).
            mean = to_prediction(self.parameterization, output, z_t, alpha_bar)
            bound = variational_bound(
                self.schedule, jax.lax.stop_gradient(mean.x0), fraction, z0, z_t, t
            )
            metrics["loss_vlb"] = jnp.mean(bound) * self.schedule.num_timesteps
            loss = loss + self.vlb_weight * metrics["loss_vlb"]
        return LossOutput(loss, metrics, mutable)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the conditioner reads, and `mask` for a masked image, which is encoded here."""
        return tuple("mask" if x == MASKED_IMAGE else x for x in self.conditioner.inputs)

    @property
    def condition_entries(self) -> tuple[str, ...]:
        """The entries of a batch that `condition` needs."""
        return ("image", *self.inputs) if MASKED_IMAGE in self.conditioner.inputs else self.inputs

    def input_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """As the conditioner has them, but for a masked image."""
        shapes = dict(self.conditioner.input_shapes(self.image_size))
        if shapes.pop(MASKED_IMAGE, None) is not None:
            shapes["mask"] = jax.ShapeDtypeStruct((self.image_size,) * 2, jnp.uint8)
        return shapes

    def input_limits(self) -> dict[str, int]:
        """As the conditioner's tables have them."""
        return table_limits(self.input_shapes(), self.conditioner)

    @property
    def has_frozen_conditioner(self) -> bool:
        """Whether `frozen` holds the conditioner too."""
        return not self.train_conditioner

    def _training_conditioning(
        self, params: PyTree, frozen: Frozen, batch: Batch, keys: StepKeys
    ) -> Conditioning:
        variables = self._conditioner_variables(params, frozen)
        rngs = {"dropout": keys.shared(Purpose.DROPOUT)}
        if isinstance(frozen, Answered):
            conditioning: Any = _answers(frozen.null, batch)
        else:
            conditioning = self.conditioner.apply(
                variables,
                self._with_masked_image(frozen, batch),
                deterministic=not self.train_conditioner,
                rngs=rngs,
            )
        if self.drop_rate == 0.0:
            return cast(Conditioning, conditioning)
        null = self.null_condition(params, frozen)
        mask = uniform(keys(Purpose.CONDITION_DROP)) < self.drop_rate
        dropped = self.conditioner.apply(
            variables, conditioning, null, mask, method="drop", rngs=rngs
        )
        return cast(Conditioning, dropped)

    def _conditioner_variables(self, params: PyTree, frozen: Frozen) -> PyTree:
        found = params["conditioner"] if self.train_conditioner else frozen.conditioner
        return {"params": {} if found is None else found}

    def condition(
        self, params: PyTree, frozen: Frozen, batch: Batch, encode: Encode | None = None
    ) -> Conditioning:
        """Returns the conditioning of a batch of condition inputs, [b, …] each.

        For a masked image these are `masked_image` itself, or `image`, uint8 [b, H, W, C], and
        `mask` [b, H, W], 1 where it is hidden. With `Answered`, they are its answers by route.

        Args:
          params: of the model.
          frozen: the first stage, and a frozen conditioner.
          batch: what the conditioner reads.
          encode: of masked images, such as one in tiles; by default the first stage's, whole.
        """
        if isinstance(frozen, Answered):
            return _answers(frozen.null, batch)
        variables = self._conditioner_variables(params, frozen)
        batch = self._with_masked_image(frozen, batch, encode)
        return cast(Conditioning, self.conditioner.apply(variables, batch))

    def _with_masked_image(
        self, frozen: Frozen, batch: Batch, encode: Encode | None = None
    ) -> Batch:
        """Returns the batch with `masked_image` [b, h, w, c + 1], if the conditioner reads it.

        The latent of the image with its holes at -1, and the mask of its cells in -1 to 1, as in
        the reference (facts: scripts/inpaint.py; its training code was not released).
        """
        if MASKED_IMAGE not in self.conditioner.inputs or MASKED_IMAGE in batch:
            return batch
        hidden = batch["mask"].astype(jnp.float32)[..., None]
        images = (to_float_images(batch["image"]) + 1) * (1 - hidden) - 1
        z = jax.lax.stop_gradient((encode or self.first_stage.encode_mode)(frozen, images))
        f = self.first_stage.model.downsampling_factor
        cells = MASK_CELLS[self.mask_cells](hidden, f) * 2 - 1
        return {**batch, MASKED_IMAGE: jnp.concatenate([z, cells], axis=-1)}

    def null_condition(self, params: PyTree, frozen: Frozen, batch_size: int = 1) -> Conditioning:
        """Returns the conditioning of examples without a condition; see `spread_null`."""
        if isinstance(frozen, Answered):
            return jax.tree.map(
                lambda x: jnp.broadcast_to(x, (batch_size, *x.shape[1:])), frozen.null
            )
        variables = self._conditioner_variables(params, frozen)
        null = cast(Conditioning, self.conditioner.apply(variables, batch_size, method="null"))
        return one_cell(null) if self.conditioner.uniform_null else null

    def denoiser(self, params: PyTree) -> Denoise:
        """Returns `denoise(z, t, conditioning) -> Prediction` for samplers and guidance."""

        def denoise(z: Array, t: Array, conditioning: Conditioning | None) -> Prediction:
            output = self.model.apply({"params": params["unet"]}, z, t, conditioning)
            output, fraction = self._split_output(output)
            found = to_prediction(self.parameterization, output, z, alpha_bar_at(self.schedule, t))
            return found._replace(variance_fraction=fraction)

        return denoise

    def _split_output(self, output: Array) -> tuple[Array, Array | None]:
        """Returns what the parameterisation speaks of, and the variance's fraction if learned."""
        if not self.learn_variance:
            return output, None
        output, v = jnp.split(output, 2, axis=-1)
        return output, (v.astype(jnp.float32) + 1) / 2

    def sample(
        self,
        params: PyTree,
        frozen: Frozen,
        batch: Batch,
        indices: Array,
        *,
        seed: Array | int,
        rows: Rows,
        guidance_scale: Array | float = 1.0,
        image_shape: Sequence[int] | None = None,
        z_T: Array | None = None,
    ) -> Array:
        """Returns images [b, H, W, C], about [-1, 1], one per row of the condition inputs.

        Everything at once, to be compiled as one program; `Pipeline` keeps the parts apart.

        Args:
          params: usually the EMA of the trained parameters.
          frozen: the first stage, and a frozen conditioner.
          batch: what the conditioner reads, [b, …] each.
          indices: [b] int32 image numbers; image k depends on (seed, k) alone.
          seed: of the sample, not of the training run.
          rows: the sampler's table, one row per model evaluation.
          guidance_scale: s in eps_null + s · (eps_cond - eps_null); a Python 1.0 turns it off.
          image_shape: (H, W) in pixels, by default the training size.
          z_T: [b, h, w, c] noise to start from, instead of that of the seed.
        """
        height, width = image_shape or (self.image_size, self.image_size)
        conditioning, null = self.condition(params, frozen, batch), None
        if not (isinstance(guidance_scale, int | float) and guidance_scale == 1.0):
            null = self.null_condition(params, frozen)
        predict = classifier_free(self.denoiser(params), conditioning, null, guidance_scale)
        if z_T is None:
            z_T = initial_noise(seed, indices, self.first_stage.latent_shape(height, width))
        z = sample(predict, z_T, rows, image_keys(seed, indices))
        return self.first_stage.decode(frozen, z)


def _answers(null: Conditioning, batch: Batch) -> Conditioning:
    """Returns what a conditioner answered to a batch, on the routes and of the types of `null`."""
    routes = {field.name: getattr(null, field.name) for field in dataclasses.fields(null)}
    return Conditioning(
        **{name: batch[name].astype(x.dtype) for name, x in routes.items() if x is not None}
    )
