"""Classification of noisy latents, for classifier guidance."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.core.rng import Purpose, StepKeys, normal, randint
from ldm_jax.core.types import Array, Batch, PyTree
from ldm_jax.diffusion.process import q_sample
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.tasks.base import LossOutput
from ldm_jax.tasks.first_stage import FirstStage, Frozen
from ldm_jax.tasks.latent_task import LatentTask, table_limits

TOP = 5
_QUARTERS = 4


@dataclasses.dataclass(frozen=True)
class LatentClassifierTask(LatentTask):
    """The class of an image from its noised latent (Dhariwal & Nichol 2021, section 4).

    loss = E_{z, eps, t} -log p(y | z_t, t), t uniform.

    What it guides must have its latents and its noise: the same first stage, scale and schedule.

    Attributes:
      model: the classifier, `(z_t, t) -> logits [b, num_classes]`.
      first_stage: see `LatentTask`.
      schedule: noise levels.
      image_size: see `LatentTask`.
    """

    model: Any
    first_stage: FirstStage
    schedule: Schedule
    image_size: int

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """One loss trains everything."""
        return {"classifier": ("classifier",)}

    @property
    def inputs(self) -> tuple[str, ...]:
        """The label."""
        return ("class",)

    def input_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """A number in 0 .. num_classes - 1."""
        return {"class": jax.ShapeDtypeStruct((), jnp.int32)}

    def input_limits(self) -> dict[str, int]:
        """The number of classes."""
        return table_limits(self.input_shapes(), self.model)

    def init(self, key: Array, batch: Any) -> tuple[PyTree, PyTree]:
        """Returns fresh parameters `{'classifier'}` and no mutable collections."""
        z = jnp.zeros((1, *self.first_stage.latent_shape(self.image_size, self.image_size)))
        return {"classifier": self.model.init(key, z, jnp.zeros((1,)))["params"]}, {}

    def loss(
        self,
        group: str,
        params: PyTree,
        mutable: PyTree,
        frozen: Frozen,
        batch: Batch,
        keys: StepKeys,
    ) -> LossOutput:
        """Returns the cross-entropy at one uniformly drawn timestep per example.

        The metrics are `top1` and `top5` accuracy, and `top1_q1` … `top1_q4`, that of each quarter
        of the timesteps, clean to noisy. A batch has few examples of a quarter: its correct ones
        are divided by the number that is expected, so the mean over many steps is right, though a
        single one may exceed 1.
        """
        del group
        z0 = self.latents(frozen, batch, keys(Purpose.POSTERIOR))
        t = randint(keys(Purpose.TIMESTEP), 0, self.schedule.num_timesteps)
        z_t = q_sample(self.schedule, z0, t, normal(keys(Purpose.NOISE), z0.shape[1:]))
        logits = self.model.apply(
            {"params": params["classifier"]},
            z_t,
            t.astype(jnp.float32),
            deterministic=False,
            rngs={"dropout": keys.shared(Purpose.DROPOUT)},
        )
        loss = -jnp.mean(_log_prob(logits, batch["class"]))
        return LossOutput(loss, self._metrics(logits, batch["class"], t), mutable)

    def _metrics(self, logits: Array, classes: Array, t: Array) -> dict[str, Array]:
        # The place of the true class; classes that tie with it come first, so that the uniform
        # answers of an untrained network count as wrong.
        score = jnp.take_along_axis(logits, classes[:, None], axis=-1)
        place = jnp.sum(logits >= score, axis=-1) - 1
        first = (place == 0).astype(jnp.float32)
        total = self.schedule.num_timesteps
        counts = np.bincount(_QUARTERS * np.arange(total) // total, minlength=_QUARTERS)
        shares = np.maximum(counts, 1).astype(np.float32) / np.float32(total)
        inside = (_QUARTERS * t // total)[None, :] == jnp.arange(_QUARTERS)[:, None]
        by_quarter = jnp.mean(first[None, :] * inside, axis=1) / shares
        return {
            "top1": jnp.mean(first),
            f"top{TOP}": jnp.mean(place < TOP),
            **{f"top1_q{k + 1}": by_quarter[k] for k in range(_QUARTERS)},
        }

    def log_prob(self, params: PyTree, z: Array, t: Array, classes: Array) -> Array:
        """Returns log p(y | z_t, t), [b] float32, whose gradient by `z` guides a sampler.

        Args:
          params: of the task, usually their averages.
          z: [b, h, w, c] noisy latents as the diffusion model has them: scaled, and at time t
            with the variance that the schedule keeps (alpha_bar + (1 - alpha_bar) = 1).
          t: [b] times in units of training steps, float.
          classes: [b] int32 in 0 .. num_classes - 1.
        """
        logits = self.model.apply({"params": params["classifier"]}, z, t.astype(jnp.float32))
        return _log_prob(logits, classes)


def _log_prob(logits: Array, classes: Array) -> Array:
    """Returns the logarithm of the softmax at the classes, [b] float32."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jnp.take_along_axis(log_probs, classes[:, None], axis=-1)[:, 0]
