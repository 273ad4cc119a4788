"""Objects from configurations: the signature is the schema."""

import dataclasses
import re

import flax.linen as nn
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.core.config import build, call, fields_of


@dataclasses.dataclass(frozen=True)
class Block:
    width: int
    mult: tuple[int, ...] = (1, 2)
    rate: float = 0.0
    label: str = "x"
    heads: int | None = None
    dtype: object = jnp.float32


class Layer(nn.Module):
    features: int
    dtype: object = jnp.float32

    def __call__(self, x):
        return x


def ramp(peak: float, *, steps: int = 10):
    return peak, steps


REGISTRY = {"block": Block, "layer": Layer, "ramp": ramp}


def says(text):
    return pytest.raises(UserError, match=f"^{re.escape(text)}$")


def test_builds_classes_modules_and_functions():
    config = ConfigDict({"name": "block", "width": 4, "mult": (1, 2, 4), "dtype": "bfloat16"})
    assert build("c", REGISTRY, config) == Block(4, (1, 2, 4), dtype=jnp.bfloat16)
    assert build("c", REGISTRY, {"name": "layer", "features": 3}) == Layer(3)
    assert build("c", REGISTRY, {"name": "ramp", "peak": 1}) == (1, 10)


def test_lists_become_tuples():
    assert build("c", REGISTRY, {"name": "block", "width": 4, "mult": [3]}).mult == (3,)


def test_none_is_a_value_only_where_it_is_legal():
    built = build("c", REGISTRY, {"name": "block", "width": 4, "heads": None, "rate": None})
    assert (built.heads, built.rate) == (None, 0.0)


def test_extra_arguments_may_not_be_set_and_unknown_ones_are_dropped():
    config = {"name": "ramp"}
    assert build("c", REGISTRY, config, peak=2.0, steps=5, image_size=64) == (2.0, 5)
    with says("c.steps: cannot be set here; the rest of the config decides it."):
        build("c", REGISTRY, {"name": "ramp", "steps": 3}, peak=2.0, steps=5)


def test_flax_fields_of_its_own_are_not_configurable():
    assert list(fields_of(Layer)) == ["features", "dtype"]
    with says("c: unknown field 'parent' for Layer. Fields: features, dtype."):
        call("c", Layer, {"features": 3, "parent": None})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width": 4}, "c: needs a name. Legal: block, layer, ramp."),
        (
            {"name": "blok", "width": 4},
            "c.name: got 'blok'; did you mean 'block'? Legal: block, layer, ramp.",
        ),
        (
            {"name": "block", "widht": 4},
            "c: unknown field 'widht' for Block; did you mean 'width'? "
            "Fields: width, mult, rate, label, heads, dtype.",
        ),
        ({"name": "block"}, "c: Block needs width, as --c.width=VALUE."),
        ({"name": "block", "width": None}, "c: Block needs width, as --c.width=VALUE."),
        ({"name": "block", "width": 4.5}, "c.width: got 4.5, expected a whole number."),
        ({"name": "block", "width": True}, "c.width: got True, expected a whole number."),
        ({"name": "block", "width": 4, "rate": "a"}, "c.rate: got 'a', expected a number."),
        ({"name": "block", "width": 4, "label": 1}, "c.label: got 1, expected text."),
        (
            {"name": "block", "width": 4, "heads": "two"},
            "c.heads: got 'two', expected a whole number or none.",
        ),
        (
            {"name": "block", "width": 4, "mult": 2},
            "c.mult: got 2, expected a tuple (whole numbers).",
        ),
        (
            {"name": "block", "width": 4, "dtype": "float8"},
            "dtype: got 'float8'; did you mean 'float32'? Legal: float32, bfloat16, float16.",
        ),
    ],
)
def test_mistakes(config, message):
    with says(message):
        build("c", REGISTRY, config)
