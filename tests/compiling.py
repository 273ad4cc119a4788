"""Compilation of programs that run for milliseconds."""

import contextlib
import os
from importlib import metadata
from pathlib import Path

import jax

_PINS = (Path(__file__).parents[1] / "constraints.txt").read_text().splitlines()
# XLA's older code generator compiles a gradient in a third of the time. A version that does not
# know a flag ends the process, so only the pinned one is told.
QUICK_FLAGS = (
    "--xla_cpu_use_fusion_emitters=false"
    if f"jaxlib=={metadata.version('jaxlib')}" in _PINS
    else ""
)
# For a process that must compile as users do: the later of two flags holds.
SHIPPED_FLAGS = QUICK_FLAGS.replace("=false", "=true")


def compiles_as_shipped() -> bool:
    """Returns whether this process was told SHIPPED_FLAGS, or knows no others."""
    return SHIPPED_FLAGS in os.environ["XLA_FLAGS"].split() or not QUICK_FLAGS


@contextlib.contextmanager
def quick_compilation():
    """While entered, JAX compiles with half the effort."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
