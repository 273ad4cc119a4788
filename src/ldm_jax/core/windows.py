"""Functions of images of one size, applied to larger ones by overlapping windows."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, PyTree

Size = tuple[int, int]


def over_windows(
    function: Callable[[PyTree], PyTree],
    inputs: PyTree,
    window: Size,
    overlap: Size,
    zoom: Fraction | int = 1,
) -> PyTree:
    """Returns function(inputs) for inputs larger than the function should see, in bounded memory.

    It is computed in windows, one after the other, whose results are blended: each counts by a
    tent that falls off over the overlap, so that none ends abruptly (MultiDiffusion, Bar-Tal et al.
    2023, arXiv 2302.08113, eq. 5, with weights).

    Args:
      function: one window of `inputs`, cut along axes 1 and 2, to arrays whose heights and widths
        are `zoom` times as large.
      inputs: arrays [b, H, W, ...] of one height and width.
      window: height and width of the windows; along an axis not larger than that there is one.
      overlap: of two neighbours along each axis, at least 0 and less than the window.
      zoom: size of a result over that of its window.

    Raises:
      UserError: an illegal overlap, or a window, overlap or size that zoom does not keep whole.
    """
    for edge, shared in zip(window, overlap, strict=True):
        if not 0 <= shared < edge:
            raise UserError(f"overlap={shared} of windows of {edge}: legal is 0 to {edge - 1}.")
    whole: Size = jax.tree.leaves(inputs)[0].shape[1:3]
    size = (min(window[0], whole[0]), min(window[1], whole[1]))
    corners = [
        (top, left)
        for top in _starts(whole[0], size[0], window[0] - overlap[0])
        for left in _starts(whole[1], size[1], window[1] - overlap[1])
    ]
    if len(corners) == 1:
        return function(inputs)
    tent = _tent(_zoomed(size, zoom), _zoomed(overlap, zoom))
    places = [_zoomed(corner, zoom) for corner in corners]
    weight = _sum_of(tent, places, _zoomed(whole, zoom))

    def at(corner: Array) -> PyTree:
        return function(jax.tree.map(lambda x: _cut(x, corner, size), inputs))

    def add(k: Array, total: PyTree) -> PyTree:
        place = jnp.array(places, jnp.int32)[k]
        found = at(jnp.array(corners, jnp.int32)[k])
        return jax.tree.map(lambda sums, x: _added(sums, x * _spread(tent, x), place), total, found)

    shapes = jax.eval_shape(at, jnp.zeros((2,), jnp.int32))
    total = jax.tree.map(
        lambda x: jnp.zeros((x.shape[0], *weight.shape, *x.shape[3:]), x.dtype), shapes
    )
    total = jax.lax.fori_loop(0, len(corners), add, total)
    return jax.tree.map(lambda x: x / _spread(weight, x), total)


def _starts(size: int, window: int, stride: int) -> list[int]:
    """Returns where windows begin that cover `size`, the last one moved back to end with it."""
    return [*range(0, size - window, stride), size - window]


def _zoomed(size: Size, zoom: Fraction | int) -> Size:
    height, width = (Fraction(int(edge)) * zoom for edge in size)
    if height.denominator != 1 or width.denominator != 1:
        raise UserError(
            f"windows, overlaps and places {size}: legal are multiples of {1 / Fraction(zoom)}."
        )
    return int(height), int(width)


def _tent(size: Size, overlap: Size) -> np.ndarray:
    """Returns weights [h, w] in (0, 1] that rise over the overlap from each border."""

    def ramp(length: int, shared: int) -> np.ndarray:
        inside = np.minimum(np.arange(length), np.arange(length)[::-1]) + 1
        return np.minimum(inside / (shared + 1), 1.0)

    return ramp(size[0], overlap[0])[:, None] * ramp(size[1], overlap[1])[None, :]


def _sum_of(tent: np.ndarray, places: list[Size], size: Size) -> np.ndarray:
    """Returns the sum of all windows' weights, [H, W]."""
    total = np.zeros(size)
    for top, left in places:
        total[top : top + tent.shape[0], left : left + tent.shape[1]] += tent
    return total


def _spread(weights: np.ndarray, x: Array) -> Array:
    """Returns weights [h, w] in the type of `x` [b, h, w, ...], to multiply it."""
    return jnp.asarray(weights, x.dtype).reshape(1, *weights.shape, *[1] * (x.ndim - 3))


def _cut(x: Array, corner: Array, size: Size) -> Array:
    start: list[Any] = [0, corner[0], corner[1], *[0] * (x.ndim - 3)]
    return jax.lax.dynamic_slice(x, start, (x.shape[0], *size, *x.shape[3:]))


def _added(total: Array, part: Array, place: Array) -> Array:
    start: list[Any] = [0, place[0], place[1], *[0] * (part.ndim - 3)]
    before = jax.lax.dynamic_slice(total, start, part.shape)
    return jax.lax.dynamic_update_slice(total, before + part, start)
