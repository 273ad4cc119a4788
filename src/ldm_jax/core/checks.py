"""Argument checks whose messages say what was got, what was expected and what is legal."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class UserError(ValueError):
    """A mistake in configuration, data or arguments; the commands print it as one line."""


def did_you_mean(name: str, legal: Iterable[str]) -> str:
    """Returns the end of a sentence: '; did you mean 'x'?' for a near miss, otherwise '.'."""
    close = difflib.get_close_matches(str(name), list(legal), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def check_in(what: str, value: Any, legal: Iterable[Any]) -> Any:
    """Returns `value` if it is legal.

    Raises:
      UserError: naming `what`, the value and everything that would be legal.
    """
    legal = list(legal)
    if value not in legal:
        choices = ", ".join(str(choice) for choice in legal)
        hint = did_you_mean(str(value), map(str, legal))
        raise UserError(f"{what}: got {value!r}{hint} Legal: {choices}.")
    return value


def lookup(what: str, registry: Mapping[str, Any], name: str) -> Any:
    """Returns `registry[name]`, or raises UserError that lists the registry."""
    check_in(what, name, registry)
    return registry[name]


def check_divides(divisor_name: str, divisor: int, name: str, value: int) -> None:
    """Raises UserError unless `divisor` divides `value`."""
    if divisor < 1 or value % divisor:
        legal = ", ".join(str(d) for d in range(1, value + 1) if value % d == 0)
        raise UserError(f"{divisor_name}={divisor} must divide {name}={value}. Legal: {legal}.")


def check_shape(what: str, shape: tuple[int, ...], expected: tuple[int | None, ...]) -> None:
    """Raises UserError unless `shape` matches `expected`, in which None matches any size."""
    same = len(shape) == len(expected) and all(
        want is None or got == want for got, want in zip(shape, expected, strict=True)
    )
    if not same:
        legend = tuple("any" if size is None else size for size in expected)
        raise UserError(f"{what}: got shape {tuple(shape)}, expected {legend}.")
