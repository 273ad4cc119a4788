"""The exact words of the argument checks."""

import re

import pytest

from ldm_jax.core.checks import (
    UserError,
    check_divides,
    check_in,
    check_shape,
    did_you_mean,
    lookup,
    shortened,
)


def says(text):
    return pytest.raises(UserError, match=f"^{re.escape(text)}$")


def test_did_you_mean_ends_a_sentence():
    assert did_you_mean("dim", ("ddpm", "ddim")) == "; did you mean 'ddim'?"
    assert did_you_mean("euler", ("ddpm", "ddim")) == "."
    assert did_you_mean("x", ()) == "."


def test_shortened_keeps_both_ends():
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abc…efg"
    assert shortened("x" * 300) == "x" * 300
    assert shortened("x" * 5000) == "x" * 150 + "…" + "x" * 150


def test_check_in():
    assert check_in("loss", "l2", ("l1", "l2")) == "l2"
    with says("loss: got 'l22'; did you mean 'l2'? Legal: l1, l2."):
        check_in("loss", "l22", ("l1", "l2"))
    with says("loss: got 'huber'. Legal: l1, l2."):
        check_in("loss", "huber", iter(("l1", "l2")))
    with says("config.task.name: got None. Legal: a."):
        check_in("config.task.name", None, ("a",))


def test_lookup():
    assert lookup("sampler", {"ddim": 1}, "ddim") == 1
    with says("sampler: got 'dim'; did you mean 'ddim'? Legal: ddim, ddpm."):
        lookup("sampler", {"ddim": 1, "ddpm": 2}, "dim")


@pytest.mark.parametrize("divisor", [5, 0, -3, 24])
def test_check_divides_lists_the_divisors(divisor):
    check_divides("num_groups", 4, "width", 12)
    with says(f"num_groups={divisor} must divide width=12. Legal: 1, 2, 3, 4, 6, 12."):
        check_divides("num_groups", divisor, "width", 12)


def test_check_shape():
    check_shape("z", (2, 8, 8, 4), (None, 8, 8, 4))
    check_shape("scalar", (), ())
    with says("z: got shape (2, 8, 8, 3), expected ('any', 8, 8, 4)."):
        check_shape("z", (2, 8, 8, 3), (None, 8, 8, 4))
    with says("t: got shape (2, 1), expected (2,)."):
        check_shape("t", (2, 1), (2,))


def test_user_error_is_a_value_error():
    assert issubclass(UserError, ValueError)
