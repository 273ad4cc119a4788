"""The images that a run was trained on, and those that it held out, by number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ldm_jax.train.assemble_data import build_examples, build_source


class ImageReader:
    """Reads images of a source at the size of training, cropped in the middle, never mirrored.

    Attributes:
      mirrored: whether training also saw their mirror images.
    """

    def __init__(self, config: ConfigDict, source: Any):
        self._config, self._source = config, source
        self.mirrored = bool(config.data.get("flip_probability"))

    def __len__(self) -> int:
        return len(self._source)

    def read(self, numbers: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns some images, uint8 [n, H, W, C]."""
        chosen = [int(number) for number in numbers]
        return build_examples(self._config, self._source, None, chosen, ("image",))["image"]

    def whole_number(self, number: int) -> int:
        """Returns an image's number in the whole source, of which this may be a part."""
        return int(self._source[int(number)].get("index", number))


def image_readers(config: ConfigDict) -> tuple[ImageReader, ImageReader | None]:
    """Returns the images of training, and those held out, if there are any.

    Raises:
      UserError: the source cannot be read.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.latent_cache = None  # its examples, in their order, as images
    train, held_out = build_source(config)
    return ImageReader(config, train), None if held_out is None else ImageReader(config, held_out)
