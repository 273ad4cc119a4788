"""Conditioning on a map of labels at the resolution of the image."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.conditioning.base import Conditioner
from ldm_jax.core.checks import check_divides, check_positive, check_shape
from ldm_jax.core.types import Array, Batch, Conditioning
from ldm_jax.nn.init import fan_in_uniform
from ldm_jax.nn.resample import downsample_average


class SpatialRescaler(Conditioner):
    """Returns a label map, shrunk and embedded, concat [b, H / 2^n, W / 2^n, out_channels].

    The reference's `SpatialRescaler` (paper, section 4.3.2): n times bilinear halving without
    antialiasing, which for even sizes is the mean of 2x2 cells, then a 1x1 convolution without
    bias. Both are linear, so labels are embedded first and averaged afterwards: one-hot maps are
    not built.

    Attributes:
      num_classes: labels are 0 .. num_classes - 1.
      image_size: edge of the training maps in pixels, for the null condition.
      num_stages: n; 2^n is the first stage's downsampling factor.
      out_channels: of the result.
      key: the entry of the batch that holds the map.
      dtype: type of the result.
      param_dtype: type of the kernel.
    """

    num_classes: int
    image_size: int
    num_stages: int = 2
    out_channels: int = 3
    key: str = "segmentation"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    uniform_null = True

    def __post_init__(self) -> None:
        for field in ("num_classes", "image_size", "num_stages", "out_channels"):
            check_positive(f"spatial_rescaler.{field}", [getattr(self, field)])
        check_divides("2^num_stages", 2**self.num_stages, "image_size", self.image_size)
        super().__post_init__()

    def input_shapes(self, image_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Reads the map."""
        return {self.key: jax.ShapeDtypeStruct((image_size, image_size), jnp.int32)}

    @nn.compact
    def __call__(self, batch: Batch, *, deterministic: bool = True) -> Conditioning:
        """Embeds batch[key], [b, H, W] int32; 2^n divides H and W."""
        labels: Array = batch[self.key]
        check_shape(f"batch['{self.key}']", labels.shape, (None, None, None))
        for side in labels.shape[1:]:
            check_divides("2^num_stages", 2**self.num_stages, f"a side of {self.key}", side)
        init = fan_in_uniform(self.num_classes)
        shape = (self.num_classes, self.out_channels)
        x = self.param("kernel", init, shape, self.param_dtype)[labels]
        for _ in range(self.num_stages):
            x = downsample_average(x)
        return Conditioning(concat=x.astype(self.dtype))

    def null(self, batch_size: int) -> Conditioning:
        """Returns zeros."""
        edge = self.image_size // 2**self.num_stages
        return Conditioning(
            concat=jnp.zeros((batch_size, edge, edge, self.out_channels), self.dtype)
        )
