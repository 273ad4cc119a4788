"""What made a result: versions, code and devices."""

import datetime
import functools
import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import ldm_jax

_PACKAGES = ("jax", "flax", "optax", "numpy")


def versions() -> dict[str, Any]:
    """Returns what made a result, as JSON; JAX is started for it."""
    device = jax.devices()[0]
    return {
        "ldm_jax": ldm_jax.__version__,
        "code_sha256": code_sha256()[:16],
        **{name: metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


@functools.cache
def code_sha256() -> str:
    """Returns the sha256 of the package's files as they are, committed or not."""
    root = Path(ldm_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
