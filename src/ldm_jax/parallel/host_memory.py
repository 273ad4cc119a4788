"""Arrays in the memory of the host beside an accelerator, split as they are on the devices.

In JAX a sharding carries a memory kind. Host memory that the accelerator may read by itself is
`pinned_host`; a program copies from it and into it part by part while it computes.
"""

from typing import Any

import jax
from jax.sharding import Mesh

from ldm_jax.core.checks import UserError

HOST, DEVICE = "pinned_host", "device"


def on_host(layout: Any) -> Any:
    """Returns a pytree of shardings whose arrays lie in host memory."""
    return jax.tree.map(lambda sharding: sharding.with_memory_kind(HOST), layout)


def on_device(tree: Any) -> Any:
    """Returns arrays in device memory; those that are there already are not copied."""
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind(DEVICE)), tree)


def check_host_memory(mesh: Mesh, field: str) -> None:
    """Raises UserError unless every device of this process can reach host memory.

    Args:
      mesh: of the run.
      field: of the configuration that asked for it.
    """
    for device in mesh.local_devices:
        kinds = [memory.kind for memory in device.addressable_memories()]
        if HOST not in kinds:
            raise UserError(
                f"{field}=True: {device.device_kind} has the memories {', '.join(kinds)} and no "
                f"{HOST}. Legal: False."
            )
