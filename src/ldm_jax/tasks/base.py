"""The protocol between a learning problem and the one train step."""

from typing import Any, NamedTuple, Protocol

from ldm_jax.core.rng import StepKeys
from ldm_jax.core.types import Array, Batch, PyTree


class LossOutput(NamedTuple):
    """What a loss returns.

    Attributes:
      loss: scalar float32.
      metrics: scalars for the log.
      mutable: updated non-parameter collections, such as BatchNorm statistics.
    """

    loss: Array
    metrics: dict[str, Array]
    mutable: PyTree


class Task(Protocol):
    """A learning problem.

    `groups` names the losses; each has its own optimizer. An adversarial first stage has two, most
    tasks one.
    """

    @property
    def model(self) -> Any:
        """The network that is trained."""
        ...

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The top-level entries of `params` that each loss trains."""
        ...

    def init(self, key: Array, batch: Any) -> tuple[PyTree, PyTree]:
        """Returns `(params, mutable)`; `batch` gives shapes and dtypes."""
        ...

    def loss(
        self,
        group: str,
        params: PyTree,
        mutable: PyTree,
        frozen: PyTree,
        batch: Batch,
        keys: StepKeys,
    ) -> LossOutput:
        """Returns the mean loss of one group over the batch."""
        ...

    def revise(
        self, group: str, params: PyTree, mutable: PyTree, step: Array
    ) -> tuple[PyTree, PyTree]:
        """Returns (params, mutable) after a group's update, changed beyond what gradients can.

        Most tasks return them as they are.
        """
        ...


def to_float_images(images_u8: Array) -> Array:
    """Returns uint8 images in [0, 255] as float32 in [-1, 1]: x / 127.5 - 1."""
    return images_u8.astype("float32") / 127.5 - 1.0


def to_uint8_images(images: Array) -> Array:
    """Returns float images in [-1, 1] as uint8, clipped and rounded to the nearest level.

    # Differs from the reference, which truncates and so darkens by half a level on average.
    """
    levels = (images.clip(-1.0, 1.0) + 1.0) * 127.5
    return levels.round().astype("uint8")
