"""Names of floating-point types, as configurations spell them."""

from typing import Any

import jax.numpy as jnp

from ldm_jax.core.checks import check_in

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def as_dtype(name: Any, what: str = "dtype") -> Any:
    """Returns the JAX type for 'float32', 'bfloat16' or 'float16'; types pass through."""
    if not isinstance(name, str):
        return name
    return DTYPES[check_in(what, name, DTYPES)]
