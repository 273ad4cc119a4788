"""Compilation of programs that run for milliseconds."""

import contextlib

import jax


@contextlib.contextmanager
def quick_compilation():
    """While entered, JAX compiles with half the effort."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
