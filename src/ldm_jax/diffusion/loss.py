"""Distances between the network's output and its target, one number per example."""

import jax.numpy as jnp

from ldm_jax.core.checks import check_shape
from ldm_jax.core.types import Array


def l1(output: Array, target: Array) -> Array:
    """Returns the mean absolute error of each example, [b] float32, from two [b, ...] arrays."""
    return _per_example_mean(jnp.abs(_difference(output, target)))


def l2(output: Array, target: Array) -> Array:
    """Returns the mean squared error of each example, [b] float32, from two [b, ...] arrays."""
    return _per_example_mean(jnp.square(_difference(output, target)))


LOSSES = {"l1": l1, "l2": l2}


def _difference(output: Array, target: Array) -> Array:
    check_shape("network output", output.shape, target.shape)  # broadcasting would hide a mistake
    return output.astype(jnp.float32) - target.astype(jnp.float32)


def _per_example_mean(x: Array) -> Array:
    return jnp.mean(x, axis=tuple(range(1, x.ndim)))
