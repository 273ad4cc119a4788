"""The pytrees that cross the borders between packages."""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax

Array = jax.Array
Batch = Mapping[str, Array]
PyTree = Any


@flax.struct.dataclass
class Conditioning:
    """What a conditioner hands to a denoising network; every route may be absent.

    Paper section 3.3: tokens enter by cross-attention, maps by concatenation, and a global
    embedding by addition to the timestep embedding.

    Attributes:
      context:   [b, m, d] tokens for cross-attention.
      concat:    [b, h, w, c] maps, appended to `z_t` along the channels.
      embedding: [b, e] vector, added to the timestep embedding.
    """

    context: Array | None = None
    concat: Array | None = None
    embedding: Array | None = None
