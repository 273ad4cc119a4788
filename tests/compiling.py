"""Compilation of programs that run for milliseconds."""

import os
from importlib import metadata
from pathlib import Path

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


def as_users_compile() -> dict[str, str]:
    """Returns the environment of a process that works for minutes, or speaks to a person."""
    return {**os.environ, "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}


def compiles_as_shipped() -> bool:
    """Returns whether this process compiles as `as_users_compile`, and was told SHIPPED_FLAGS."""
    flags = os.environ["XLA_FLAGS"].split()
    optimized = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "0"
    return optimized and set(SHIPPED_FLAGS.split()) <= set(flags)
