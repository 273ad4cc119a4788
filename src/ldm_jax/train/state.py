"""What a training run carries from step to step: arrays only."""

import flax.struct
import jax.numpy as jnp

from ldm_jax.core.types import Array, PyTree


@flax.struct.dataclass
class TrainState:
    """Parameters, their moving average, and optimizer state.

    There is no random key: keys are functions of (seed, step). There is no optimizer and no apply
    function either: the step closes over them.

    Attributes:
      step: scalar int32, completed updates.
      params: trained parameters, by top-level module.
      ema_params: exponential moving average of `params`, for sampling; of modules that are not
        averaged, the parameters themselves.
      opt_state: optax state by loss group.
      mutable: other collections, such as BatchNorm statistics.
    """

    step: Array
    params: PyTree
    ema_params: PyTree
    opt_state: PyTree
    mutable: PyTree


def ema_decay(updates: Array, maximum: float) -> Array:
    """Returns min(maximum, (1 + n) / (10 + n)) after n updates: fast at first, then slow.

    Latent-diffusion `ldm/modules/ema.py`; n counts the present update, so the first decay is 2/11.
    """
    n = updates.astype(jnp.float32)
    return jnp.minimum(maximum, (1.0 + n) / (10.0 + n))
