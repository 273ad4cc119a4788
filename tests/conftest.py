"""A session with eight host devices, one compilation cache, and no network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import QUICK_FLAGS, as_users_compile

# Read when JAX is imported, here and in processes that tests start; what the shell says holds.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Programs that run for milliseconds, and compile for seconds.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Read when the first device is asked for; the later of two flags holds.
os.environ["XLA_FLAGS"] = " ".join(
    [QUICK_FLAGS, os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
)

import jax

from ldm_jax.parallel import compilation

ROOT = Path(__file__).parents[1]

jax.config.update("jax_numpy_rank_promotion", "raise")
# Programs have the options of a TPU's, with which JAX refuses one inside of another.
compilation._OPTIONS["cpu"] = compilation._OPTIONS["tpu"]


@pytest.fixture(scope="module")
def optimized():
    """For modules that hold programs to their last digits, or run for minutes."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory):
    """The folder of the quickstart's run; `LDM_JAX_QUICKSTART=DIR` takes an earlier one."""
    if "LDM_JAX_QUICKSTART" in os.environ:
        return Path(os.environ["LDM_JAX_QUICKSTART"])
    folder = tmp_path_factory.mktemp("quickstart")
    script = ROOT / "experiments" / "quickstart" / "run.py"
    command = [sys.executable, str(script), "--workdir", str(folder)]
    subprocess.run(command, check=True, env=as_users_compile())
    return folder
