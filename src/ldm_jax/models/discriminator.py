"""The patch discriminator of the adversarial first stage."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ldm_jax.core.checks import UserError, check_in, check_positive, check_shape
from ldm_jax.core.types import Array
from ldm_jax.nn.init import fan_in_uniform

NORMS = ("batch", "group", "none")
_KERNEL, _SLOPE, _MAX_MULTIPLIER = 4, 0.2, 8
# PyTorch's running statistics keep 0.9 of the past; Flax's default is 0.99.
_MOMENTUM, _EPS, _GROUP_SIZE = 0.9, 1e-5, 16


class PatchDiscriminator(nn.Module):
    """Returns a map of logits, one per patch, large where it looks real, [b, h, w, 1] float32.

    Isola et al. 2017 (https://arxiv.org/abs/1611.07004, section 3.2.2) as taming-transformers has
    it: 4x4 convolutions, leaky ReLU, widths c, 2c, 4c, 8c, 8c, …; `num_layers` of them halve the
    resolution, two more take a pixel off. 256 x 256 images and 3 layers give 30 x 30 logits.

    Attributes:
      channels: c, the width of the first layer.
      num_layers: convolutions with stride 2.
      norm: of all layers but the first and the last: 'batch' (the reference), whose running
        statistics are in the collection 'batch_stats', 'group' (16 channels a group) or 'none'.
        Differs from the reference: a batch is the whole batch, not that of one device.
      spectral: divide every kernel by its largest singular value (Miyato et al. 2018,
        https://arxiv.org/abs/1802.05957), by one power iteration for real and one for generated
        images, in 'batch_stats' too.
      dtype: type of the computation; logits and statistics are float32.
      param_dtype: type of the parameters.
    """

    channels: int = 64
    num_layers: int = 3
    norm: str = "batch"
    spectral: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_positive("discriminator.channels", [self.channels])
        check_positive("discriminator.num_layers", [self.num_layers])
        check_in("discriminator.norm", self.norm, NORMS)
        widths = [self.channels * min(2**n, _MAX_MULTIPLIER) for n in range(1, self.num_layers + 1)]
        if self.norm == "group" and any(width % min(_GROUP_SIZE, width) for width in widths):
            raise UserError(
                f"discriminator.channels={self.channels}: norm='group' takes groups of "
                f"{_GROUP_SIZE}. Legal: multiples of {_GROUP_SIZE // 2}, or 1, 2, 4."
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Judges images [b, H, W, c] in [-1, 1].

        Args:
          x: the images, at least 3 · 2^num_layers on each side.
          train: normalise by the batch's statistics and, where 'batch_stats' is mutable, fold
            them into the running ones; otherwise by the running ones.

        Raises:
          UserError: images too small to give a patch.
        """
        check_shape("images", x.shape, (None, None, None, None))
        least = 3 * 2**self.num_layers
        if min(x.shape[1:3]) < least:
            raise UserError(
                f"discriminator.num_layers={self.num_layers}: images of {x.shape[1]}x{x.shape[2]} "
                f"are too small. Legal: fewer layers, or images of {least} pixels and more."
            )
        for layer in range(self.num_layers + 1):
            width = self.channels * min(2**layer, _MAX_MULTIPLIER)
            normed = layer > 0 and self.norm != "none"
            strides = 2 if layer < self.num_layers else 1
            x = self._conv(x, width, strides, not normed, f"conv_{layer}", train)
            if normed:
                x = self._norm(x, f"norm_{layer}", train)
            x = nn.leaky_relu(x, _SLOPE)
        return self._conv(x, 1, 1, True, "conv_out", train).astype(jnp.float32)

    def _conv(
        self, x: Array, width: int, strides: int, use_bias: bool, name: str, train: bool
    ) -> Array:
        conv = nn.Conv(
            width,
            (_KERNEL, _KERNEL),
            strides=strides,
            padding=1,
            use_bias=use_bias,
            kernel_init=jax.nn.initializers.normal(0.02),
            bias_init=fan_in_uniform(_KERNEL**2 * x.shape[-1]),
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )
        if not self.spectral:
            return conv(x)
        return nn.SpectralNorm(conv, name=f"spectral_{name}")(x, update_stats=train)

    def _norm(self, x: Array, name: str, train: bool) -> Array:
        shared: dict[str, Any] = {
            "epsilon": _EPS,
            "scale_init": lambda *args: 1.0 + jax.nn.initializers.normal(0.02)(*args),
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "use_fast_variance": False,
            "name": name,
        }
        if self.norm == "group":
            size = min(_GROUP_SIZE, x.shape[-1])
            return nn.GroupNorm(num_groups=None, group_size=size, **shared)(x)
        return nn.BatchNorm(use_running_average=not train, momentum=_MOMENTUM, **shared)(x)
