"""A small classifier of images, whose features stand for Inception's on small domains."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.core.checks import UserError, check_divides, check_positive, check_shape
from ldm_jax.core.types import Array
from ldm_jax.nn.normalization import EPS_UNET, group_norm

_GROUPS = 8
# Scores must not depend on the machine: TPUs and recent GPUs would round float32 factors.
_PRECISION = jax.lax.Precision.HIGHEST


class ClassifierOutput(NamedTuple):
    """What the network says of images.

    Attributes:
      features: [b, hidden] float32, not negative.
      logits: [b, num_classes] float32.
    """

    features: Array
    logits: Array


class ImageClassifier(nn.Module):
    """Returns features and logits of images: convolutions that halve the map, and a hidden layer.

    Attributes:
      num_classes: that it tells apart.
      image_size: edge that images are resized to, bilinearly with antialiasing.
      channels: width of each stage; multiples of 8. There is a pixel left after the last one.
      hidden: number of features.
    """

    num_classes: int
    image_size: int = 32
    channels: tuple[int, ...] = (32, 64, 128)
    hidden: int = 128

    def __post_init__(self) -> None:
        for field in ("num_classes", "image_size", "hidden"):
            check_positive(f"image_classifier.{field}", [getattr(self, field)])
        check_positive("image_classifier.channels", self.channels)
        for width in self.channels:
            check_divides("image_classifier: groups", _GROUPS, "channels", width)
        if self.image_size < 2 ** len(self.channels):
            raise UserError(
                f"image_classifier.image_size: got {self.image_size} for {len(self.channels)} "
                f"stages. Legal: {2 ** len(self.channels)} or more."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images_u8: Array) -> ClassifierOutput:
        """Classifies images, uint8 [b, h, w, 3] or [b, h, w, 1], squeezed where not square.

        Grey ones count as three equal channels.
        """
        check_shape("image_classifier: images", images_u8.shape, (None, None, None, None))
        shape = (len(images_u8), self.image_size, self.image_size, images_u8.shape[-1])
        x = jax.image.resize(images_u8.astype(jnp.float32) / 127.5 - 1, shape, "linear")
        x = jnp.broadcast_to(x, (*shape[:-1], 3))
        for i, width in enumerate(self.channels):
            x = nn.Conv(width, (3, 3), precision=_PRECISION, name=f"conv_{i}")(x)
            x = nn.relu(group_norm(_GROUPS, EPS_UNET, name=f"norm_{i}")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        x = nn.relu(nn.Dense(self.hidden, precision=_PRECISION, name="hidden_layer")(x))
        logits = nn.Dense(self.num_classes, precision=_PRECISION, name="logits")(x)
        return ClassifierOutput(x, logits)
