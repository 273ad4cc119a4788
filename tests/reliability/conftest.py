"""Programs of tests within one process are compiled with half the effort."""

import jax
import pytest


@pytest.fixture(scope="module")
def quick():
    """For modules that test what a run does, not how well it is compiled."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
