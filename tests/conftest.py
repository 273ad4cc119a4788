"""A session with eight host devices, one compilation cache, and no network."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import pytest
from compiling import QUICK_FLAGS, quick_compilation

ROOT = Path(__file__).parents[1]

# Read when the first device is asked for. What the shell says comes after ours, and holds.
os.environ["XLA_FLAGS"] = " ".join(
    [QUICK_FLAGS, os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(ROOT / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="module")
def quick():
    """For modules that test what programs do, not how well they are compiled."""
    with quick_compilation():
        yield
