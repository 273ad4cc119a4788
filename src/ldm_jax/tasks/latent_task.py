"""What tasks in the latent space of a frozen first stage share."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ldm_jax.core.rng import StepKeys
from ldm_jax.core.types import Array, Batch, PyTree
from ldm_jax.diffusion.schedule import Schedule
from ldm_jax.tasks.base import LossOutput, to_float_images
from ldm_jax.tasks.first_stage import FirstStage, Frozen


class LatentTask:
    """A `Task` on noised latents; subclasses add its `groups`, `init` and `loss`.

    Attributes:
      model: the network that is trained.
      first_stage: encodes images; its parameters are in `frozen`.
      schedule: noise levels.
      image_size: pixels of the square training images.
    """

    model: Any
    first_stage: FirstStage
    schedule: Schedule
    image_size: int

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """See `Task`."""
        raise NotImplementedError

    def init(self, key: Array, batch: Any) -> tuple[PyTree, PyTree]:
        """See `Task`."""
        raise NotImplementedError

    def loss(
        self,
        group: str,
        params: PyTree,
        mutable: PyTree,
        frozen: Frozen,
        batch: Batch,
        keys: StepKeys,
    ) -> LossOutput:
        """See `Task`."""
        raise NotImplementedError

    @property
    def inputs(self) -> tuple[str, ...]:
        """The entries of a batch that it reads besides the image."""
        raise NotImplementedError

    def input_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns shape and type of one example of each of `inputs`."""
        raise NotImplementedError

    def input_limits(self) -> dict[str, int]:
        """Returns the exclusive maximum of each of `inputs` that is looked up in a table.

        An index beyond it would not fail on an accelerator; it would read the last row.
        """
        raise NotImplementedError

    @property
    def has_frozen_conditioner(self) -> bool:
        """Whether `frozen` holds a conditioner too."""
        return False

    @property
    def moments_shape(self) -> tuple[int, int, int]:
        """(h, w, m) of the moments of a training image."""
        return self.first_stage.moments_shape(self.image_size, self.image_size)

    def latents(self, frozen: Frozen, batch: Batch, keys: Array) -> Array:
        """Returns scaled latents [b, h, w, c], samples of the posteriors, without a gradient.

        They come from the batch's `image`, or from its `moments`, [b, h, w, m], where the images
        were encoded beforehand; both give the same latents but for rounding.

        Args:
          frozen: the first stage and the scale of its latents.
          batch: of images or moments.
          keys: [b], which draw the samples.
        """
        if "moments" not in batch:
            z = self.first_stage.encode(frozen, to_float_images(batch["image"]), keys)
        else:
            z = self.first_stage.sample_unscaled(batch["moments"], keys)
            z = self.first_stage.scaled(frozen, z)
        return jax.lax.stop_gradient(z)

    def revise(
        self, group: str, params: PyTree, mutable: PyTree, step: Array
    ) -> tuple[PyTree, PyTree]:
        """Returns everything as it is."""
        del group, step
        return params, mutable


def table_limits(shapes: Mapping[str, jax.ShapeDtypeStruct], reader: Any) -> dict[str, int]:
    """Returns the exclusive maximum of the whole numbers among the entries of a batch.

    Args:
      shapes: of one example of each entry.
      reader: what looks them up. Sequences are held against its field `vocab_size`, single numbers
        and maps against `num_classes`; without that field they have no maximum.
    """
    whole = {name: len(x.shape) for name, x in shapes.items() if np.dtype(x.dtype).kind == "i"}
    fields = {name: "vocab_size" if rank == 1 else "num_classes" for name, rank in whole.items()}
    return {name: getattr(reader, x) for name, x in fields.items() if hasattr(reader, x)}
