"""Argument checks whose messages say what was got, what was expected and what is legal."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """A mistake in configuration, data or arguments; the commands print it as one line."""


def did_you_mean(name: str, legal: Iterable[str]) -> str:
    """Returns the end of a sentence: '; did you mean 'x'?' for a near miss, otherwise '.'."""
    close = difflib.get_close_matches(str(name), list(legal), n=1)
    return f"; did you mean {close[0]!r}?" if close else "."


def shortened(text: str, most: int = 300) -> str:
    """Returns a text for a message: with … for its middle if it is longer than `most`."""
    half = most // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"


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


def read_text(path: Path, what: str) -> str:
    """Returns a text file's contents.

    Raises:
      UserError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{what}={path}: byte {error.start} is not UTF-8. Legal: text saved as UTF-8."
        ) from error


def check_positive(name: str, values: Iterable[int]) -> None:
    """Raises UserError unless there are values and each is 1 or more."""
    values = tuple(values)
    if not values:
        raise UserError(f"{name}=(): legal is at least one whole number.")
    if min(values) < 1:
        raise UserError(f"{name}: got {min(values)}. Legal: 1 or more.")


def check_range(what: str, value: float, minimum: float, maximum: float) -> None:
    """Raises UserError unless `value` lies between both, inclusive."""
    if not minimum <= value <= maximum:
        raise UserError(f"{what}: got {value}. Legal: {minimum} to {maximum}.")


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
