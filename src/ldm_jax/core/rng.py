"""Random keys as pure functions of (seed, step, purpose, global example index).

No key is ever stored: a resumed run, another batch size and another mesh all meet the same
keys again. The randomness of example k depends on `(seed, step, purpose, k)` alone.
"""

import enum
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp

from ldm_jax.core.types import Array


class Purpose(enum.IntEnum):
    """What a key is spent on. Values are part of the reproducibility promise: append only."""

    PARAMS = 0
    POSTERIOR = 1
    TIMESTEP = 2
    NOISE = 3
    DROPOUT = 4
    CONDITION_DROP = 5
    SAMPLE_INIT = 6
    SAMPLE_STEP = 7
    LATENT_STATISTICS = 8
    LPIPS_DROPOUT = 9
    DISCRIMINATOR_POSTERIOR = 10
    CODE_REVIVAL = 11
    LIKELIHOOD = 12


def step_key(seed: int | Array, step: int | Array, purpose: Purpose) -> Array:
    """Returns the scalar key of one purpose at one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), int(purpose))


def example_keys(key: Array, indices: Array) -> Array:
    """Returns one key per example, [b], from a scalar key and global indices, [b] int32."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)


def normal(keys: Array, shape: Sequence[int], dtype=jnp.float32) -> Array:
    """Draws standard normal noise, [b, *shape], row k from `keys[k]` alone."""
    return jax.vmap(lambda key: jax.random.normal(key, tuple(shape), dtype))(keys)


def uniform(keys: Array) -> Array:
    """Draws one number in [0, 1) per key, [b]."""
    return jax.vmap(lambda key: jax.random.uniform(key))(keys)


def randint(keys: Array, minimum: int, maximum: int) -> Array:
    """Draws one int32 in [minimum, maximum) per key, [b]."""
    return jax.vmap(lambda key: jax.random.randint(key, (), minimum, maximum))(keys)


@flax.struct.dataclass
class StepKeys:
    """The keys of one batch at one step; `keys(Purpose.NOISE)` gives one per example.

    Attributes:
      seed: of the run.
      step: scalar int32.
      indices: [b] int32, each example's position in the global batch.
    """

    step: Array
    indices: Array
    seed: int = flax.struct.field(pytree_node=False, default=0)

    def __call__(self, purpose: Purpose) -> Array:
        """Returns one key per example, [b]."""
        return example_keys(step_key(self.seed, self.step, purpose), self.indices)

    def shared(self, purpose: Purpose) -> Array:
        """Returns one key for the whole (micro-)batch, for draws such as dropout masks."""
        return jax.random.fold_in(step_key(self.seed, self.step, purpose), self.indices[0])
