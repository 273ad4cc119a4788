"""Costs of compiled programs, the roofline, and the search for the largest batch."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from ldm_jax.parallel.chips import CHIPS, Chip, chip_of
from ldm_jax.parallel.collectives import Traffic
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.plan import (
    Cost,
    TooLarge,
    largest_batch,
    measure,
    read_too_large,
    roofline,
)


def cost(peak=0, flops=0.0, bytes_accessed=0.0):
    return Cost(0, 0, 0, peak, flops, flops, bytes_accessed, {}, None, 0.0)


def test_measure_a_sharded_product():
    mesh = make_mesh((4, 2, 1))
    rows = jax.NamedSharding(mesh, P(("data", "fsdp")))
    x = jax.ShapeDtypeStruct((64, 16), jnp.float32, sharding=rows)
    w = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=jax.NamedSharding(mesh, P(None)))

    def f(x, w):
        return jnp.sum(x @ w, axis=0)

    found = measure(jax.jit(f, out_shardings=jax.NamedSharding(mesh, P())).trace(x, w), 8)
    assert found.argument_bytes == 4 * (8 * 16 + 16 * 32)
    assert found.output_bytes == 4 * 32
    assert found.flops == 2 * 8 * 16 * 32
    assert found.compiled_flops >= found.flops
    assert found.bytes_accessed >= found.argument_bytes
    assert found.collectives == {"all-reduce": Traffic(1, 4 * 32)}
    assert found.peak_bytes == found.argument_bytes + found.output_bytes + found.temporary_bytes


def test_donated_arguments_are_not_counted_twice():
    x = jax.ShapeDtypeStruct((1024,), jnp.float32)
    found = measure(jax.jit(lambda x: x + 1, donate_argnums=0).trace(x), 1)
    assert (found.argument_bytes, found.output_bytes) == (4096, 0)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total "
            "memory required for HLO temporaries (80.00G) exceeds available HBM (15.75G). HLO "
            "module: jit_f.",
            TooLarge(80 * 2**30, int(15.75 * 2**30)),
        ),
        (
            "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 512.50M "
            "of 256.00M hbm. Exceeded hbm capacity by 256.50M.",
            TooLarge(int(512.5 * 2**20), 256 * 2**20),
        ),
        ("INVALID_ARGUMENT: something else (1.0G)", None),
    ],
)
def test_what_the_compiler_says_of_memory(message, expected):
    assert read_too_large(message) == expected


def test_roofline():
    chip = Chip("made up", 1, 1, flops=10.0, bytes_per_second=2.0)
    assert roofline(cost(flops=100.0, bytes_accessed=10.0), chip) == (10.0, "arithmetic")
    assert roofline(cost(flops=10.0, bytes_accessed=10.0), chip) == (5.0, "memory traffic")


def test_chips_are_found_by_their_kind():
    v5e = chip_of("TPU v5 lite")
    assert (v5e.name, v5e.hbm_bytes, v5e.flops) == ("v5e", 16 * 2**30, 197e12)
    assert chip_of("NVIDIA H200").hbm_bytes == 141e9
    assert chip_of("cpu") is None
    for chip in CHIPS.values():
        # Programs get nearly all; the arithmetic of a byte is that of its time.
        assert 0.95 * chip.hbm_bytes < chip.program_bytes < 1.01 * chip.hbm_bytes
        assert 100 < chip.flops / chip.bytes_per_second < 1000


class TestLargestBatch:
    """Memory of 10 + 4 b + c b² for a batch of b."""

    def search(self, batch, memory, unit=1, curve=0, refuses_from=None):
        self.asked = []

        def measure_at(b):
            self.asked.append(b)
            peak = 10 + 4 * b + curve * b * b
            too_large = refuses_from is not None and b >= refuses_from
            return TooLarge(peak, memory) if too_large else cost(peak)

        return largest_batch(measure_at, batch, unit, memory)

    def test_the_line_meets_the_memory_and_is_confirmed(self):
        found = self.search(8, memory=131)
        assert (found.batch, found.predicted, self.asked) == (30, 30, [8, 16, 30])
        assert found.peak_bytes == {8: 42, 16: 74, 30: 130}

    def test_multiples_of_the_accumulation(self):
        assert self.search(8, memory=131, unit=4).batch == 28

    def test_a_batch_that_does_not_fit_is_halved(self):
        found = self.search(16, memory=60, refuses_from=13)
        assert (found.batch, found.predicted, self.asked) == (12, 12, [16, 8, 12])

    def test_a_curve_is_tried_again_below(self):
        # The line through 42 and 106 ends at 14, which needs 262; that through 106 and 262 at 11.
        found = self.search(4, memory=208, curve=1)
        assert found.predicted == 14
        assert (found.batch, self.asked) == (11, [4, 8, 14, 11])

    def test_nothing_fits(self):
        assert self.search(1, memory=5) == (0, None, {1: 14})
        found = self.search(8, memory=5)
        assert (found.batch, self.asked) == (0, [8, 4])

    def test_memory_that_does_not_grow(self):
        found = largest_batch(lambda b: cost(7), 4, 1, 100)
        assert (found.batch, found.predicted) == (128, None)
        assert list(found.peak_bytes) == [4, 8, 16, 32, 64, 128]

    def test_memory_that_grows_later(self):
        asked = []

        def measure_at(b):
            asked.append(b)
            return cost(max(50, 10 + 4 * b))

        assert largest_batch(measure_at, 4, 1, 131).batch == 30
        assert asked == [4, 8, 16, 35, 30]
