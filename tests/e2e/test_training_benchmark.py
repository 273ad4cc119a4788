"""The training benchmark's own functions, on the smallest model."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODULES = ("training", "rounds", "ours", "ours_training", "peers_training", "presets")

needs_diffusers = pytest.mark.skipif(
    not importlib.util.find_spec("diffusers"), reason="needs diffusers: pip install -e .[parity]"
)


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield __import__("training")
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def ours(benchmark):
    from presets import TRAINING

    (ours,) = benchmark.make_contenders(TRAINING["smoke"], "float32", "cpu", 2, [])
    return ours


def test_ours_learns_and_is_measured(benchmark, ours):
    start = jax.device_get(ours.state)
    (record,) = benchmark.measure([ours], batch=2, steps=3, repeats=2, peak=1e9)
    assert int(ours.state.step - start.step) == 3 * 3  # a turn to warm up, and two
    assert record["update_s"]["repeats"] == 2
    seconds = record["update_s"]["median"]
    assert 0 < record["update_s"]["quartile_1"] <= seconds
    assert record["images_per_s"] == pytest.approx(2 / seconds)
    assert record["mfu"] == pytest.approx(record["flops_lowered"] / seconds / 1e9)
    assert np.isfinite(record["loss"])
    assert record["compile_s"] > 0
    # Four copies of every parameter, and what is computed on the way.
    assert record["program_bytes"] > 16 * record["parameters"]
    # An update does at least a product forward and two backward for every weight and image.
    assert record["flops_lowered"] > 3 * 2 * 2 * record["parameters"]
    for part in ("params", "ema_params"):
        moved = [
            np.abs(a - b).max()
            for a, b in zip(
                *map(jax.tree.leaves, (getattr(ours.state, part), getattr(start, part))),
                strict=True,
            )
        ]
        assert min(moved) > 0
    table = benchmark.markdown([record])
    assert f"| ldm_jax | {seconds:.4g} (1.00x) |" in table
    json.dumps(record)


@needs_diffusers
def test_the_peer_trains_the_same_network(benchmark, ours):
    from peers_training import DiffusersTraining
    from presets import TRAINING

    theirs = DiffusersTraining(TRAINING["smoke"], "float32", 2, "cpu", compiled=False)
    records = benchmark.measure([ours, theirs], batch=2, steps=1, repeats=1, peak=1e9)
    assert [record["name"] for record in records] == ["ldm_jax", "diffusers, eager"]
    assert records[0]["parameters"] == records[1]["parameters"]
    assert np.isfinite(records[1]["loss"])
    distance = [
        float((average - weight.detach()).abs().max())
        for average, weight in zip(theirs.average, theirs.weights, strict=True)
    ]
    assert min(distance) > 0  # AdamW moves every weight, and the average follows slowly
    assert max(distance) < 5e-4
    assert "(1.00x)" in benchmark.markdown(records).splitlines()[-1]


def test_the_peak_is_that_of_a_product(benchmark):
    assert 1e7 < benchmark.matmul_peak("cpu", "float32", False, size=256) < 1e15


def test_settings_of_the_network_are_read(benchmark):
    assert benchmark._setting("remat=blocks") == ("remat", "blocks")
    assert benchmark._setting("num_groups=4") == ("num_groups", 4)
