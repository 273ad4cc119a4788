"""The contract of samplers, and the one loop that runs them all.

Every sampler here is linear in what it knows: the latent, the network's answer, a few earlier
answers and fresh noise. So a sampler is a table of numbers, one row per model evaluation, built on
the host in float64 from the noise levels; `step` applies one row. The loop takes the table as an
argument, so that another sampler, other steps or another eta are other numbers for one compiled
program, and running the rows in pieces gives the same bits as running them at once.

The network is seen through `predict(z, t) -> Prediction` alone: guidance, clipping and masks are
wrappers of `predict` and know nothing of samplers. Randomness comes from one key per image and row:
image k of a run depends on (seed, k), not on the batch that it is drawn in.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.core import rng
from ldm_jax.core.types import Array
from ldm_jax.diffusion.parameterization import Prediction

Predict = Callable[[Array, Array], Prediction]


@flax.struct.dataclass
class Rows:
    """What a sampler does after each model evaluation, as numbers [R].

    With `x0` and `eps` of the network's answer to (z, t), and h1, h2, h3 of the last three answers
    that were kept, newest first, a row is

      base <- from_z z + from_base base + from_x0 x0 + from_h1 h1 + from_h2 h2 + from_h3 h3
      z    <- base' base + x0' x0 + eps' eps + h1' h1 + h2' h2 + h3' h3 + noise' N(0, I)
      h1, h2, h3 <- keep_x0 x0 + keep_eps eps, h1, h2       unless both are 0

    where a prime marks a column. `base` is where a step starts: z itself, or for later evaluations
    of one step the z of the first, or for a corrector the z that it corrects.

    Attributes:
      t: the timestep that the network is asked at.
      index: number of the row, which its noise depends on; int.
      noise_upper: where not 0 and the model predicts its variance, the noise's standard deviation
        lies between `noise` and this, on a logarithmic scale.
    """

    t: Any
    index: Any
    from_z: Any
    from_base: Any
    from_x0: Any
    from_h1: Any
    from_h2: Any
    from_h3: Any
    base: Any
    x0: Any
    eps: Any
    h1: Any
    h2: Any
    h3: Any
    noise: Any
    noise_upper: Any
    keep_x0: Any
    keep_eps: Any

    def __len__(self) -> int:
        return len(self.t)


@flax.struct.dataclass
class State:
    """What a sampler carries from row to row, each [b, ...] float32.

    Attributes:
      z: the noisy latent.
      x0: the clean latent last predicted, to look at while sampling.
      base: where the present step starts.
      history: the last three answers that were kept, newest first.
    """

    z: Array
    x0: Array
    base: Array
    history: tuple[Array, Array, Array]


_COLUMNS = tuple(Rows.__dataclass_fields__)


def make_rows(t: np.ndarray, **columns: np.ndarray | float) -> Rows:
    """Returns a table in float64; columns that are not given are 0, but `from_z`, which is 1.

    Args:
      t: [R] timesteps.
      **columns: of Rows, [R] or one number for all rows.
    """
    given = {"from_z": 1.0, **columns, "t": t}
    whole = {name: np.zeros(np.shape(t)) + given.get(name, 0.0) for name in _COLUMNS}
    return Rows(**{**whole, "index": np.arange(len(t))})


def interleave(first: Rows, second: Rows) -> Rows:
    """Returns the first row of one, of the other, the second of one, and so on.

    For methods of two evaluations per step; `second` may be shorter, where the last steps need one.
    """
    order = np.argsort([*(2 * np.arange(len(first))), *(2 * np.arange(len(second)) + 1)])
    rows = jax.tree.map(lambda a, b: np.concatenate([a, b])[order], first, second)
    return rows.replace(index=np.arange(len(order)))


def padded(rows: Rows, capacity: int) -> Rows:
    """Returns the table with zeros after it, so that tables of any length have one shape."""
    return jax.tree.map(lambda x: np.pad(x, (0, capacity - len(x))), rows)


def initial_state(z_T: Array) -> State:
    """Returns the state before the first row, from z_T [b, ...]."""
    zeros = jnp.zeros_like(z_T)
    return State(z=z_T, x0=zeros, base=zeros, history=(zeros, zeros, zeros))


def step(state: State, prediction: Prediction, row: Rows, keys: Array) -> State:
    """Returns the state after one row; the equations stand at Rows.

    Args:
      state: before the row.
      prediction: of the network at (state.z, row.t).
      row: one row, all scalars.
      keys: [b] typed keys of this row.
    """
    h1, h2, h3 = state.history
    x0, eps = prediction.x0, prediction.eps
    base = (
        row.from_z * state.z
        + row.from_base * state.base
        + row.from_x0 * x0
        + (row.from_h1 * h1 + row.from_h2 * h2 + row.from_h3 * h3)
    )
    noise = _deviation(row, prediction) * rng.normal(keys, state.z.shape[1:], state.z.dtype)
    z = (
        row.base * base
        + row.x0 * x0
        + row.eps * eps
        + (row.h1 * h1 + row.h2 * h2 + row.h3 * h3)
        + noise
    )
    kept = row.keep_x0 * x0 + row.keep_eps * eps
    keeps = (row.keep_x0 != 0) | (row.keep_eps != 0)
    history = (jnp.where(keeps, kept, h1), jnp.where(keeps, h1, h2), jnp.where(keeps, h2, h3))
    return State(z=z, x0=x0, base=base, history=history)


def advance(
    predict: Predict,
    state: State,
    rows: Rows,
    keys: Array,
    start: int | Array = 0,
    stop: int | Array | None = None,
) -> State:
    """Returns the state after the rows from `start` up to but without `stop`.

    With Python integers this is one `lax.scan`; with arrays the bounds are inputs of the compiled
    program, and any number of rows runs through the same one.

    Args:
      predict: (z [b, ...], t [b] float32) -> Prediction.
      state: before the first of these rows; see `initial_state`.
      rows: the whole table, [R] each.
      keys: [b] typed keys of the whole run; see `image_keys`.
      start: first row.
      stop: row after the last, by default R.
    """
    # In the type of the latents: float32, but for tests that look at rounding.
    rows = jax.tree.map(lambda x: jnp.asarray(x, state.z.dtype), rows).replace(
        index=jnp.asarray(rows.index, jnp.int32)
    )

    def body(i: Array, state: State) -> State:
        row = jax.tree.map(lambda x: x[i], rows)
        prediction = predict(state.z, jnp.full(state.z.shape[:1], row.t))
        row_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, row.index)
        return step(state, prediction, row, row_keys)

    return jax.lax.fori_loop(start, len(rows) if stop is None else stop, body, state)


def sample(predict: Predict, z_T: Array, rows: Rows, keys: Array) -> Array:
    """Returns z_0, shaped like `z_T`, after one model evaluation per row of `rows`.

    Args:
      predict: (z [b, ...], t [b] float32) -> Prediction.
      z_T: [b, ...] float32 noise; see `initial_noise`.
      rows: the table of one of SAMPLERS.
      keys: [b] typed keys; see `image_keys`.
    """
    return advance(predict, initial_state(z_T), rows, keys).z


def initial_noise(seed: int | Array, indices: Array, shape: Sequence[int]) -> Array:
    """Returns standard normal z_T, [b, *shape] float32; row k depends on (seed, indices[k]) alone.

    Args:
      seed: the run's seed, or [b] with one per image.
      indices: [b] int32, the global numbers of the images.
      shape: of one latent, such as (h, w, c).
    """
    return rng.normal(_keys(seed, indices, rng.Purpose.SAMPLE_INIT), shape)


def image_keys(seed: int | Array, indices: Array) -> Array:
    """Returns the keys of the noise that samplers add, [b] typed, from global image numbers [b].

    `seed` is the run's, or [b] with one per image.
    """
    return _keys(seed, indices, rng.Purpose.SAMPLE_STEP)


def _keys(seed: int | Array, indices: Array, purpose: rng.Purpose) -> Array:
    if jnp.ndim(seed) == 0:
        return rng.example_keys(rng.step_key(seed, 0, purpose), indices)
    keys = jax.vmap(lambda seed: rng.step_key(seed, 0, purpose))(jnp.asarray(seed))
    return jax.vmap(jax.random.fold_in)(keys, indices)


def _deviation(row: Rows, prediction: Prediction) -> Array:
    """Returns the noise's standard deviation, a scalar or shaped like the latent."""
    fraction = prediction.variance_fraction
    if fraction is None:
        return row.noise
    between = row.noise ** (1 - fraction) * row.noise_upper**fraction
    return jnp.where(row.noise_upper > 0, between, row.noise)
