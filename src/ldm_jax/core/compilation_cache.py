"""Compiled programs are kept on disk, so that the second start is quick."""

import os
from pathlib import Path

import jax

_MINIMUM_SECONDS = 0.5


def keep_compiled_programs() -> Path | None:
    """Turns JAX's persistent compilation cache on, in the user's cache folder; returns where.

    A cache that is configured already (`JAX_COMPILATION_CACHE_DIR`) stays as it is, an empty
    `LDM_JAX_CACHE` turns ours off, another value moves it. None: there is none of ours.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return None
    chosen = os.environ.get("LDM_JAX_CACHE")
    if chosen == "":
        return None
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(chosen) if chosen else Path(base) / "ldm_jax" / "programs"
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MINIMUM_SECONDS)
    return path
