"""What compiled programs need and cost, per device; where they come from is no matter here."""

import dataclasses
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ldm_jax.parallel.chips import Chip
from ldm_jax.parallel.collectives import Traffic, collectives
from ldm_jax.parallel.matrix_flops import device_flops

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"\(?([\d.]+)([KMGT]?)i?B?\)?"
# libtpu: "… required for HLO temporaries (80.00G) exceeds available HBM (15.75G)", or
# "Used 20.11G of 15.75G hbm".
_TOO_LARGE = (
    re.compile(rf"{_SIZE} exceeds available HBM {_SIZE}"),
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
)


@dataclasses.dataclass(frozen=True)
class Cost:
    """One program on one device.

    Attributes:
      argument_bytes: of what it is called with.
      output_bytes: of its results, but for those that take the place of an argument.
      temporary_bytes: of everything in between.
      peak_bytes: what must be free for it to run, the sum of these.
      flops: of matrix products and convolutions, loops and Pallas kernels included.
      compiled_flops: of all operations, as the compiler counts: a loop's body once.
      bytes_accessed: of memory that is read and written, likewise.
      collectives: what it sends, by kind.
      optimal_seconds: the compiler's estimate; None where it has none that is positive.
      compile_seconds: that it took to compile here.
    """

    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    peak_bytes: int
    flops: float
    compiled_flops: float
    bytes_accessed: float
    collectives: dict[str, Traffic]
    optimal_seconds: float | None
    compile_seconds: float


class TooLarge(NamedTuple):
    """What the compiler says of a program that does not fit, in bytes of one device."""

    needed_bytes: int
    available_bytes: int


class Bound(NamedTuple):
    """The least seconds that a program could take, and what holds it up."""

    seconds: float
    limited_by: str


class Largest(NamedTuple):
    """The largest batch per device that fits.

    Attributes:
      batch: that was compiled and fits; 0 if none does.
      predicted: where the line through two batch sizes meets the memory's end; None where nothing
        was left to predict.
      peak_bytes: of every batch size that was compiled.
    """

    batch: int
    predicted: int | None
    peak_bytes: dict[int, int]


def measure(traced: Any, devices: int) -> Cost | TooLarge:
    """Returns what a program costs; compiling it takes minutes where it is large.

    Args:
      traced: of `jax.jit(f).trace(...)`, whose arguments say which devices it is for.
      devices: of the mesh.
    """
    start = time.monotonic()
    lowered = traced.lower()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if (found := read_too_large(str(error))) is None:
            raise
        return found
    seconds = time.monotonic() - start
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = memory.argument_size_in_bytes + outputs + memory.temp_size_in_bytes
    optimal = costs.get("optimal_seconds", -1.0)
    return Cost(
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=outputs,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=total,
        flops=device_flops(traced.jaxpr, devices),
        compiled_flops=costs.get("flops", 0.0),
        bytes_accessed=costs.get("bytes accessed", 0.0),
        collectives=collectives(compiled.as_text()),
        optimal_seconds=optimal if optimal > 0 else None,
        compile_seconds=seconds,
    )


def read_too_large(message: str) -> TooLarge | None:
    """Returns what a compiler's error says of memory; None if it is about something else."""
    for pattern in _TOO_LARGE:
        if match := pattern.search(message):
            needed, needed_unit, available, available_unit = match.groups()
            return TooLarge(
                round(float(needed) * _UNITS[needed_unit]),
                round(float(available) * _UNITS[available_unit]),
            )
    return None


def roofline(cost: Cost, chip: Chip) -> Bound:
    """Returns the least time that a chip could take.

    The longer of arithmetic and memory traffic at the published peaks (Williams et al. 2009,
    https://doi.org/10.1145/1498765.1498785). What is sent between devices is not in it.
    """
    arithmetic = cost.flops / chip.flops
    traffic = cost.bytes_accessed / chip.bytes_per_second
    if arithmetic >= traffic:
        return Bound(arithmetic, "arithmetic")
    return Bound(traffic, "memory traffic")


_FLAT = 6  # batch sizes, each twice the last, of which one should take more memory


def largest_batch(
    measure_at: Callable[[int], Cost | TooLarge], batch: int, unit: int, memory: int
) -> Largest:
    """Returns the largest batch per device that fits, from a few compilations.

    Memory is a line through two batch sizes, the first two that differ in it; where it ends, one
    more compilation confirms. If it does not, the line through that and the best so far is tried
    once.

    Args:
      measure_at: of a batch size.
      batch: the first to measure.
      unit: that batch sizes are multiples of.
      memory: bytes of a device that programs can have.
    """
    peaks: dict[int, int] = {}
    fits: set[int] = set()

    def look(size: int) -> bool:
        if size not in peaks:
            found = measure_at(size)
            peaks[size] = found.peak_bytes if isinstance(found, Cost) else found.needed_bytes
            if isinstance(found, Cost) and found.peak_bytes <= memory:
                fits.add(size)
        return size in fits

    other = 2 * batch if look(batch) else batch // 2 // unit * unit
    if not other:
        return Largest(0, None, peaks)
    rising = look(other)
    while rising and batch < other and peaks[other] <= peaks[batch] and len(peaks) < _FLAT:
        batch, other = other, 2 * other  # what the batch takes is still hidden by something larger
        rising = look(other)
    first = predicted = _meets(peaks, batch, other, unit, memory)
    if predicted is not None and predicted >= unit and not look(predicted) and fits:
        best = max(fits)
        again = _meets(peaks, best, predicted, unit, memory)
        if again is not None and best < again < predicted:
            look(again)
    return Largest(max(fits, default=0), first, peaks)


def _meets(peaks: dict[int, int], a: int, b: int, unit: int, memory: int) -> int | None:
    """Returns the multiple of `unit` where the line through two sizes meets the memory's end."""
    slope = (peaks[b] - peaks[a]) / (b - a)
    if slope <= 0:
        return None
    return int((a + (memory - peaks[a]) / slope) // unit * unit)
