"""What a compiled program sends between devices, read from its text."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")

# A computation starts with `%name (parameters) -> type {`, ENTRY before the first to run.
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
# `%name = type kind(operands), …`. Async forms do their work once, at the -start.
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|true_computation|false_computation|async_execution_thread_body)"
    r"=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+)")
_KNOWN_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CONSTANT = re.compile(r"%?([\w.\-]+) = [su]\d+\[\]\S* constant\((\d+)\)")
_UNTIL = re.compile(
    r"^\s*ROOT .* compare\([^,]*%?\b[\w.\-]+, ?(?:\S+ )?%?([\w.\-]+)\), direction=LT"
)


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Collectives of one kind in one run of a program.

    Attributes:
      count: how many are executed; one that moves several arrays counts once.
      bytes: of their results on one device, as the program has them in memory.
    """

    count: int
    bytes: int


def collectives(text: str) -> dict[str, Traffic]:
    """Returns what is sent by kind, for the kinds that occur.

    What stands in a loop counts as often as the loop runs; in one whose length is an input, once.

    Args:
      text: of a compiled program, `compiled.as_text()`.
    """
    computations, entry = _split(text)
    found: dict[str, Traffic] = {}
    for line, times in _executed(computations, entry, 1):
        match = _COLLECTIVE.search(line)
        if match:
            result, kind, start = match.groups()
            size = _result_bytes(result, kind, started=bool(start))
            old = found.get(kind, Traffic(0, 0))
            found[kind] = Traffic(old.count + times, old.bytes + times * size)
    return {kind: found[kind] for kind in KINDS if kind in found}


def _split(text: str) -> tuple[dict[str, list[str]], str]:
    """Returns the lines of each computation by its name, and the name of the first to run."""
    computations: dict[str, list[str]] = {}
    entry, lines = "", []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            lines = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        else:
            lines.append(line)
    return computations, entry


def _executed(
    computations: Mapping[str, list[str]], name: str, times: int
) -> Iterator[tuple[str, int]]:
    """Yields every line that a computation runs, and how often."""
    for line in computations.get(name, ()):
        yield line, times
        called = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            called += re.findall(r"[\w.\-]+", branches)
        inside = times * _trip_count(computations, line)
        for other in called:
            yield from _executed(computations, other, inside)


def _trip_count(computations: Mapping[str, list[str]], line: str) -> int:
    """Returns how often a `while` runs: as the compiler notes it, or by its `counter < constant`.

    1 for other lines, and for loops that end otherwise.
    """
    loop, known = _WHILE.search(line), _KNOWN_COUNT.search(line)
    if not loop:
        return 1
    if known:
        return int(known[1])
    condition = computations.get(loop[1], [])
    constants = {m[1]: int(m[2]) for x in condition if (m := _CONSTANT.search(x))}
    limits = [constants[m[1]] for x in condition if (m := _UNTIL.search(x)) and m[1] in constants]
    return limits[0] if limits else 1


def _result_bytes(result: str, kind: str, *, started: bool) -> int:
    """Returns the bytes of a collective's result.

    That of a -start is (operands, results, …) but for all-reduce, whose results alone it is.
    """
    sizes = [_array_bytes(*match) for match in _ARRAY.findall(result)]
    if not started or kind == "all-reduce":
        return sum(sizes)
    parts = _top_level(result)
    return sum(_array_bytes(*match) for match in _ARRAY.findall(parts[1]))


def _top_level(result: str) -> list[str]:
    """Returns the parts of a tuple's type, which may be tuples themselves."""
    parts, depth = [""], 0
    for character in result.removeprefix("(").removesuffix(")"):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _array_bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
    count = math.prod(int(size) for size in shape.split(",") if size)
    return -(-count * bits // 8)
