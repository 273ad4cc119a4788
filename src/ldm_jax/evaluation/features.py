"""What reads features of images, and how it is run over many of them, spread over devices.

To add an extractor: a file with a function that returns an `Extractor`, and its line in
`extractors.py`.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from ldm_jax.core.checks import UserError, check_in, check_shape
from ldm_jax.core.types import Array, PyTree
from ldm_jax.evaluation.row_program import RowProgram


class Extracted(NamedTuple):
    """What an extractor reads of images; None is what it does not know.

    Attributes:
      features: [b, d] float32, for distances between sets.
      logits: [b, classes] float32, whose softmax is p(y|x), for the inception score.
      spatial: [b, e] float32, features that tell where things are, for sFID.
    """

    features: Array
    logits: Array | None = None
    spatial: Array | None = None


OUTPUTS = Extracted._fields


@dataclasses.dataclass(frozen=True)
class Extractor:
    """What turns images into features, and all that a report must say of it.

    Attributes:
      name: in words, as it stands in the names of metrics: 'emoji classifier'.
      fingerprint: sha256 of what the features follow from beside the code, 64 hexadecimal digits:
        of the file of its weights, where there is one.
      resize: in words, how it brings images to its own size.
      params: its parameters; {} if it has none.
      apply: (params, images uint8 [b, h, w, c]) -> `Extracted`, pure; c is 3, or 1 for grey ones,
        which count as three equal channels.
    """

    name: str
    fingerprint: str
    resize: str
    params: PyTree
    apply: Callable[[PyTree, Array], Extracted]

    def features(self, images: Array) -> Array:
        """Returns [b, d] float32 of images uint8 [b, h, w, c]; for many of them, `Extraction`."""
        return self.apply(self.params, images).features


class Extraction:
    """Reads features of any number of images by one compiled program.

    Args:
      extractor: which.
      outputs: of `OUTPUTS`; the rest is not computed.
      batch_size: images at once, rounded up to a multiple of the devices that share a batch.
      mesh: of the devices; all of them by default.

    Raises:
      UserError: an output that the extractor does not have.
    """

    def __init__(
        self,
        extractor: Extractor,
        outputs: tuple[str, ...] = ("features",),
        batch_size: int = 64,
        mesh: Mesh | None = None,
    ):
        for output in outputs:
            check_in("extractor: outputs", output, OUTPUTS)

        def extract(params: PyTree, images: Array) -> dict[str, Array]:
            found = extractor.apply(params, images)._asdict()
            missing = [output for output in outputs if found[output] is None]
            if missing:
                raise UserError(f"extractor {extractor.name}: has no {missing[0]}.")
            return {output: found[output] for output in outputs}

        self._extract = RowProgram(extractor.params, extract, batch_size, mesh)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns each output, [n, …] float32, of images uint8 [n, h, w, c] of one size, n > 0.

        With several processes, each hands over all images and gets all features.

        Raises:
          UserError: for other images.
        """
        check_shape("extractor: images", images.shape, (None, None, None, None))
        check_in("extractor: channels of the images", images.shape[-1], (1, 3))
        if images.dtype != np.uint8 or not len(images):
            raise UserError(
                f"extractor: images: got {len(images)} of {images.dtype}. Legal: 1 or more of "
                "uint8, in [0, 255], as images are stored."
            )
        return self._extract(images)


def file_sha256(path: Path) -> str:
    """Returns the sha256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
