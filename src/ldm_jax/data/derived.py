"""What a derived entry of a batch is."""

from typing import Any, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Derived(Protocol):
    """Makes one more entry of an example, after it is cropped, resized and mirrored.

    Attributes:
      reads: the entries of the source that it needs; `index`, the example's number in the whole
        source, always exists.
    """

    reads: tuple[str, ...]

    def shape(self, image_size: int) -> tuple[tuple[int | None, ...], Any]:
        """Returns shape and type of the entry; None stands for the channels of the image."""
        ...

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> np.ndarray:
        """Returns the entry.

        Args:
          example: with image, boxes and segmentation as they go into the batch; `crop`: the `Crop`
            and the height and width of the whole image; and, if there are boxes,
            `boxes_of_image`: the same rows in the whole image, mirrored as it is.
          rng: of this example in this epoch.
        """
        ...
