"""Timing in turns, and what it was timed on."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any


def interleaved(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Returns median and quartiles of seconds by name; in each round everybody runs once."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):  # the first round warms up
        for name, run in runs.items():
            wall = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - wall)
    return {name: spread(values) for name, values in seconds.items()}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Returns median, quartiles and number of values."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "median": statistics.median(ordered),
        "quartile_1": ordered[last // 4],
        "quartile_3": ordered[last - last // 4],
        "repeats": len(ordered),
    }


def one_device(device: str) -> None:
    """Sets up the process, before JAX and PyTorch are imported, so that both share one device.

    Neither takes a GPU whole. Idle OpenMP threads sleep, for spinning they would take the cores
    from the contender whose turn is next.
    """
    os.environ["JAX_PLATFORMS"] = device
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def environment() -> dict[str, Any]:
    """Returns hardware and versions."""
    import jax

    versions = {}
    for package in ("jax", "jaxlib", "flax", "torch", "diffusers"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "device": jax.devices()[0].device_kind,
        "machine": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": versions,
    }
