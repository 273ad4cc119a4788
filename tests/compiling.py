"""Compilation of programs that run for milliseconds."""

import contextlib
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


@contextlib.contextmanager
def quick_compilation():
    """While entered, JAX compiles with half the effort."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
