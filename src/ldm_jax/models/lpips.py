"""LPIPS, the learned perceptual distance between two images."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from ldm_jax.core.checks import UserError, check_shape
from ldm_jax.core.types import Array
from ldm_jax.nn.linear import Conv, Dense

# VGG16 up to conv5_3: (width, convolutions) of each block. A tap follows the last ReLU of each.
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# Of the images that the pretrained VGG16 has seen, on a scale of [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPS = 1e-10
_LEAST = 2 ** (len(BLOCKS) - 1)


class LPIPS(nn.Module):
    """Returns the perceptual distance between images, [b] float32; equal ones have 0 or nearly so.

    Zhang et al. 2018 (https://arxiv.org/abs/1801.03924, equation 1), on VGG16:

        d(x, y) = sum_l mean_hw w_l . (u_l(x) - u_l(y))^2,  u = f / (||f||_2 + 1e-10)

    with f_l the features after relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, the norm over
    channels, and w_l the weights of `head_l`. It measures something only with the published
    weights (`interop.lpips_weights`), which the caller passes and does not train.

    Attributes:
      dropout: rate on the squared differences before each head; randomness from the 'dropout'
        stream. Differs from the reference: 0 here, because a distance should not be noise. The
        reference has 0.5 and means it to be off, but its trainer puts this frozen module back
        into train mode; 0.5 with `deterministic=False` is what it trains with.
      dtype: type of the features; normalisation, differences and distances are float32.
      param_dtype: type of the parameters.
    """

    dropout: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise UserError(f"lpips.dropout: got {self.dropout}. Legal: at least 0 and below 1.")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, y: Array, *, deterministic: bool = True) -> Array:
        """Compares images pair by pair.

        Args:
          x: [b, H, W, 3] or [b, H, W, 1] images in [-1, 1]; grey ones count as three equal
            channels. Both sides at least 16.
          y: as x.
          deterministic: no dropout.

        Raises:
          UserError: for shapes that differ, too small images or other numbers of channels.
        """
        _check_images(x.shape, y.shape)
        shared = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        widths = [width for width, depth in BLOCKS for _ in range(depth)]
        convs = [Conv(width, name=f"conv_{k}", **shared) for k, width in enumerate(widths)]
        distance = jnp.zeros(x.shape[0], jnp.float32)
        # One pass for each: where one of the two is an image, not a reconstruction, no gradient
        # goes back through it, which would be a quarter of the work.
        taps = zip(_taps(convs, _standardize(x)), _taps(convs, _standardize(y)), strict=True)
        for k, (u, v) in enumerate(taps):
            difference = jnp.square(u - v)
            difference = nn.Dropout(self.dropout)(difference, deterministic=deterministic)
            head = Dense(1, use_bias=False, param_dtype=self.param_dtype, name=f"head_{k}")
            # The head is linear, so that the spatial mean may come first; there is less to read.
            distance += head(difference.mean((1, 2)))[:, 0]
        return distance


def _taps(convs: Sequence[Conv], h: Array) -> Iterator[Array]:
    """Yields the normalised features after each block of VGG16, [b, h, w, c] float32."""
    remaining = iter(convs)
    for block, (_, depth) in enumerate(BLOCKS):
        if block:
            h = nn.max_pool(h, (2, 2), strides=(2, 2))
        for conv in itertools.islice(remaining, depth):
            h = nn.relu(conv(h))
        yield normalize(h.astype(jnp.float32))


def normalize(features: Array) -> Array:
    """Returns f / (||f||_2 + 1e-10) over the last axis, with a finite gradient for f = 0.

    Differs from the reference: its sqrt(sum f^2) has an infinite slope at 0, which makes the
    gradient NaN wherever all features of a pixel are zero.
    """
    squares = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    is_zero = squares == 0
    norm = jnp.where(is_zero, 0.0, jnp.sqrt(jnp.where(is_zero, 1.0, squares)))
    return features / (norm + _EPS)


def _standardize(x: Array) -> Array:
    """Returns images as VGG16 expects them, with three channels."""
    x = jnp.broadcast_to(x.astype(jnp.float32), (*x.shape[:-1], 3))
    shift, scale = (jnp.array(values).reshape(1, 1, 1, 3) for values in (_SHIFT, _SCALE))
    return (x - shift) / scale


def _check_images(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    check_shape("lpips: images", shape, (None, None, None, None))
    check_shape("lpips: second images", other, shape)
    if shape[-1] not in (1, 3):
        raise UserError(f"lpips: images: got {shape[-1]} channels, expected 3. Legal: 1, 3.")
    if min(shape[1:3]) < _LEAST:
        raise UserError(
            f"lpips: images: got {shape[1]}x{shape[2]}, too small for VGG16's {_LEAST}-fold "
            f"downsampling. Legal: {_LEAST} or more on both sides."
        )
