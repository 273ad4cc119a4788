"""Initialisers with the distributions that the reference inherits from PyTorch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ldm_jax.core.types import Array

Initializer = Callable[..., Array]


def fan_in_uniform(fan_in: int) -> Initializer:
    """Returns an initialiser that draws U(-b, b) with b = 1 / sqrt(fan_in).

    PyTorch uses it for weights and biases of linear and convolutional layers alike
    (Kaiming uniform with a = sqrt(5)), whereas Flax would draw LeCun normal weights and zero
    biases.

    Args:
      fan_in: inputs that feed one output; kernel area times input channels for a convolution.
    """
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def layer_init(fan_in: int, zero: bool) -> Initializer:
    """Returns zeros for the last layer of a residual branch, `fan_in_uniform` for any other."""
    return jax.nn.initializers.zeros if zero else fan_in_uniform(fan_in)
