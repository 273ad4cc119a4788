"""Inception v3 as the FID uses it: the features by which sets of images are compared."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.core.checks import UserError, check_shape
from ldm_jax.core.types import Array

FEATURES = 2048
CLASSES = 1008
SPATIAL_BLOCK, SPATIAL_CHANNELS = "Mixed_6d", 7  # TensorFlow's mixed_6/conv, as ADM reads it
_EPS = 1e-3
_LEAST = 75  # below it, nothing is left of an image after the last stride
# Scores must not depend on the machine: TPUs and recent GPUs would round float32 factors.
_PRECISION = jax.lax.Precision.HIGHEST

# A layer: its width, and its kernels; of two kernels, both see the same map.
Layer = tuple[int, *tuple[tuple[int, int], ...]]
Branches = tuple[tuple[str, tuple[Layer, ...]], ...]
_ONE, _THREE, _FIVE = (1, 1), (3, 3), (5, 5)
_ROW_3, _COLUMN_3, _ROW_7, _COLUMN_7 = (1, 3), (3, 1), (1, 7), (7, 1)


def _block_a(pooled: int) -> Branches:
    return (
        ("branch1x1", ((64, _ONE),)),
        ("branch5x5", ((48, _ONE), (64, _FIVE))),
        ("branch3x3dbl", ((64, _ONE), (96, _THREE), (96, _THREE))),
        ("branch_pool", ((pooled, _ONE),)),
    )


def _block_c(width: int) -> Branches:
    short = ((width, _ONE), (width, _ROW_7), (192, _COLUMN_7))
    long = ((width, _ONE), (width, _COLUMN_7), (width, _ROW_7), (width, _COLUMN_7), (192, _ROW_7))
    return (
        ("branch1x1", ((192, _ONE),)),
        ("branch7x7", short),
        ("branch7x7dbl", long),
        ("branch_pool", ((192, _ONE),)),
    )


_BLOCK_B: Branches = (
    ("branch3x3", ((384, _THREE),)),
    ("branch3x3dbl", ((64, _ONE), (96, _THREE), (96, _THREE))),
)
_BLOCK_D: Branches = (
    ("branch3x3", ((192, _ONE), (320, _THREE))),
    ("branch7x7x3", ((192, _ONE), (192, _ROW_7), (192, _COLUMN_7), (192, _THREE))),
)
_BLOCK_E: Branches = (
    ("branch1x1", ((320, _ONE),)),
    ("branch3x3", ((384, _ONE), (384, _ROW_3, _COLUMN_3))),
    ("branch3x3dbl", ((448, _ONE), (384, _THREE), (384, _ROW_3, _COLUMN_3))),
    ("branch_pool", ((192, _ONE),)),
)
_BLOCKS = {
    "Mixed_5b": ("average", _block_a(32)),
    "Mixed_5c": ("average", _block_a(64)),
    "Mixed_5d": ("average", _block_a(64)),
    "Mixed_6a": ("stride", _BLOCK_B),
    "Mixed_6b": ("average", _block_c(128)),
    "Mixed_6c": ("average", _block_c(160)),
    "Mixed_6d": ("average", _block_c(160)),
    "Mixed_6e": ("average", _block_c(192)),
    "Mixed_7a": ("stride", _BLOCK_D),
    "Mixed_7b": ("average", _BLOCK_E),
    # The published network pools by maximum here, unlike the paper; every FID contains it.
    "Mixed_7c": ("max", _BLOCK_E),
}


class InceptionOutput(NamedTuple):
    """What the network says of images; under `jit`, what is not used is not computed.

    Attributes:
      features: [b, 2048] float32, the last map averaged over its pixels; for FID and KID.
      logits: [b, 1008] float32, without the bias, as the inception score takes them.
      spatial: [b, 17 * 17 * 7 = 2023] float32, the first channels of an inner map, pixel by pixel;
        for sFID (Nash et al. 2021, https://arxiv.org/abs/2103.03841, as Dhariwal & Nichol 2021,
        https://arxiv.org/abs/2105.05233, compute it). Fewer where `size` is not 299.
    """

    features: Array
    logits: Array
    spatial: Array


class Inception(nn.Module):
    """Returns what the network of 2015-12-05, which defines the FID, makes of images.

    Szegedy et al. 2015 (https://arxiv.org/abs/1512.00567), in the form of TensorFlow's published
    graph, which Heusel et al. 2017 (https://arxiv.org/abs/1706.08500) took for the FID. It is not
    torchvision's Inception v3: 1008 classes, average pools that do not count the padding, and a
    max pool in the last block. Layers have PyTorch's names, so that `interop.inception_weights`
    has nothing to translate. For inference only: batch statistics are parameters. All in float32.

    Attributes:
      size: edge that images are resized to. Scores are defined for 299.
    """

    size: int = 299

    def __post_init__(self) -> None:
        if self.size < _LEAST:
            raise UserError(f"inception.size: got {self.size}. Legal: {_LEAST} or more.")
        super().__post_init__()

    @nn.compact
    def __call__(self, images_u8: Array) -> InceptionOutput:
        """Describes each image.

        Args:
          images_u8: [b, H, W, 3] or [b, H, W, 1] uint8; grey ones count as three equal channels.
            Only uint8, since scores are defined for images as they are stored
            (`tasks.base.to_uint8_images`).

        Raises:
          UserError: for other shapes or types.
        """
        _check_images(images_u8)
        x = resize(images_u8.astype(jnp.float32), self.size)
        x = jnp.broadcast_to((x - 128) / 128, (*x.shape[:-1], 3))
        x = ConvBatchNorm(32, strides=2, padding="VALID", name="Conv2d_1a_3x3")(x)
        x = ConvBatchNorm(32, padding="VALID", name="Conv2d_2a_3x3")(x)
        x = ConvBatchNorm(64, name="Conv2d_2b_3x3")(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2))
        x = ConvBatchNorm(80, _ONE, name="Conv2d_3b_1x1")(x)
        x = ConvBatchNorm(192, padding="VALID", name="Conv2d_4a_3x3")(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2))
        for name, (pool, branches) in _BLOCKS.items():
            x = InceptionBlock(branches, pool, name=name)(x)
            if name == SPATIAL_BLOCK:
                spatial = x[..., :SPATIAL_CHANNELS].reshape(len(x), -1)
        features = x.mean((1, 2))
        logits = nn.Dense(CLASSES, use_bias=False, precision=_PRECISION, name="fc")(features)
        return InceptionOutput(features, logits, spatial)


class InceptionBlock(nn.Module):
    """Returns the outputs of parallel branches, joined along the channels.

    Attributes:
      branches: names and layers, in the order of the channels. 'branch_pool' sees the pooled map.
      pool: 'average' or 'max' over 3x3 pixels; 'stride' for a block that halves the map: the last
        layer of each branch has stride 2, and a max pool with stride 2 is one more branch.
    """

    branches: Branches
    pool: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps [b, h, w, c] to [b, h, w, c'], or to [b, (h - 1) // 2, (w - 1) // 2, c']."""
        halves = self.pool == "stride"
        outputs = []
        for branch, layers in self.branches:
            h = _pool(x, self.pool) if branch == "branch_pool" else x
            for i, (width, *kernels) in enumerate(layers, 1):
                stem = branch if len(layers) == 1 else f"{branch}_{i}"
                names = [stem] if len(kernels) == 1 else [f"{stem}a", f"{stem}b"]
                step = (2, "VALID") if halves and i == len(layers) else (1, "SAME")
                maps = [
                    ConvBatchNorm(width, kernel, *step, name=name)(h)
                    for name, kernel in zip(names, kernels, strict=True)
                ]
                h = jnp.concatenate(maps, axis=-1)
            outputs.append(h)
        if halves:
            outputs.append(nn.max_pool(x, (3, 3), strides=(2, 2)))
        return jnp.concatenate(outputs, axis=-1)


class ConvBatchNorm(nn.Module):
    """Returns relu(batch_norm(conv(x))) with stored statistics, [b, h, w, c] -> [b, h', w', n]."""

    features: int
    kernel_size: Sequence[int] = _THREE
    strides: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps a batch of maps."""
        x = nn.Conv(
            self.features,
            self.kernel_size,
            self.strides,
            self.padding,
            use_bias=False,
            precision=_PRECISION,
            name="conv",
        )(x)
        return nn.relu(FrozenBatchNorm(name="bn")(x))


class FrozenBatchNorm(nn.Module):
    """Returns scale (x - mean) / sqrt(var + 1e-3) + bias, all of them parameters of width c."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises the last axis."""
        start = {"scale": 1, "bias": 0, "mean": 0, "var": 1}
        scale, bias, mean, var = (
            self.param(name, nn.initializers.constant(value), x.shape[-1:]).reshape(1, 1, 1, -1)
            for name, value in start.items()
        )
        return (x - mean) * (scale / jnp.sqrt(var + _EPS)) + bias


def resize(x: Array, size: int) -> Array:
    """Returns [b, H, W, c] float maps at [b, size, size, c], as TensorFlow 1.x resizes them.

    Output pixel i takes its value at input position i * H / size, linearly between the two
    neighbours. There are neither half-pixel centres nor antialiasing: `jax.image.resize` differs,
    and so does the FID of images that it has resized.
    """
    for axis in (2, 1):  # the reference's order
        low, high, weight = _neighbours(x.shape[axis], size)
        shape = [1] * 4
        shape[axis] = size
        below, above = jnp.take(x, low, axis), jnp.take(x, high, axis)
        x = below + (above - below) * weight.reshape(shape)
    return x


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the pixels left and right of each position, and the weight of the right one."""
    position = np.arange(new, dtype=np.float32) * np.float32(old / new)
    low = position.astype(np.int32)
    return low, np.minimum(low + 1, old - 1), position - low.astype(np.float32)


def _pool(x: Array, kind: str) -> Array:
    if kind == "max":
        return nn.max_pool(x, (3, 3), padding="SAME")
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _check_images(images: Array) -> None:
    check_shape("inception: images", images.shape, (None, None, None, None))
    if images.shape[-1] not in (1, 3):
        raise UserError(
            f"inception: images: got {images.shape[-1]} channels, expected 3. Legal: 1, 3."
        )
    if 0 in images.shape:
        raise UserError(f"inception: images: got shape {images.shape}, which has no pixels.")
    if images.dtype != jnp.uint8:
        raise UserError(
            f"inception: images: got {images.dtype}. Legal: uint8, in [0, 255], as images are "
            "stored."
        )
