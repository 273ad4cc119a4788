"""Devices to compile for: those that are here, or those of a TPU slice that is not."""

import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any

import jax

from ldm_jax.core.checks import UserError

LOCAL = "local"
_EXAMPLES = "local, or a slice as v5e:16x16, v5p:2x4x4, v6e:16x16"
# What libtpu would ask a TPU machine's metadata server for, and what it would write to the screen.
# Nothing here opens a device, so several processes may have it loaded.
_ENVIRONMENT: Mapping[str, str] = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-256",  # any that exists
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def topology_devices(topology: str) -> list[Any]:
    """Returns devices that programs can be compiled for, though perhaps not run on.

    Args:
      topology: 'local', the devices of this machine; or a TPU slice, as 'v5e:16x16', which needs
        libtpu and no TPU. It is best called before JAX has started.

    Raises:
      UserError: there is no such slice, or libtpu is missing.
    """
    if topology == LOCAL:
        return list(jax.devices())
    if not re.fullmatch(r"v(5e|6e):[1-9]\d*x[1-9]\d*|v5p:[1-9]\d*x[1-9]\d*x[1-9]\d*", topology):
        # Of a v4 slice the compiler shows two devices a chip, where JAX on a TPU v4 shows one.
        raise UserError(f"--topology={topology}: no such topology. Legal: {_EXAMPLES}.")
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology={topology}: needs the compiler for TPUs. Legal: "
            'pip install "ldm-jax[tpu-plan]", or --topology local.'
        )
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # A program for another machine is made by the host; on a TPU machine its chips stay free.
    jax.config.update("jax_platforms", "cpu")
    # JAX writes programs for devices that are not here to its cache, and cannot read them again.
    jax.config.update("jax_enable_compilation_cache", False)
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0].partition(": ")[2]
        raise UserError(
            f"--topology={topology}: libtpu does not know it ({reason}). Legal: {_EXAMPLES}."
        ) from error
    return list(found.devices)
