"""Names of types."""

import re

import jax.numpy as jnp
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.core.precision import as_dtype


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_names(name):
    assert jnp.dtype(as_dtype(name)).name == name


def test_types_pass_through():
    assert as_dtype(jnp.bfloat16) is jnp.bfloat16
    assert as_dtype(None) is None


def test_an_unknown_name():
    text = "param_dtype: got 'fp16'. Legal: float32, bfloat16, float16."
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        as_dtype("fp16", "param_dtype")
