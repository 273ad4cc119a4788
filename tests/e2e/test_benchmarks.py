"""The benchmark's own functions, on the smallest model."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("sampling")
    for name in ("sampling", "ours", "peers", "presets"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_ours_makes_images_and_is_measured(benchmarks):
    from presets import PRESETS

    preset = PRESETS["tiny"]
    contenders = benchmarks.make_contenders(preset, "float32", "cpu", [])
    images = np.asarray(contenders[0].sample(2)())
    assert images.shape == (2, 16, 16, 3)
    assert np.isfinite(images).all()
    assert images.std() > 0
    (record,) = benchmarks.measure(contenders, 2, 2, ["forward"])
    assert record["forward_batch_2_s"]["repeats"] == 2
    assert 0 < record["forward_batch_2_s"]["quartile_1"] <= record["forward_batch_2_s"]["median"]
    assert record["peak_process_bytes"] > 0
    assert record["compile_s"].keys() == {"sample", "forward"}
    assert "| ldm_jax |" in benchmarks.markdown([record])


@pytest.mark.skipif(
    not importlib.util.find_spec("diffusers"), reason="needs diffusers: pip install -e .[parity]"
)
def test_the_peer_has_as_many_parameters(benchmarks):
    import jax
    from presets import PRESETS

    ours, theirs = benchmarks.make_contenders(PRESETS["tiny"], "float32", "cpu", ["eager"])
    count = sum(x.size for x in jax.tree.leaves(ours.params["unet"]))
    assert count == sum(p.numel() for p in theirs.unet.parameters())
    assert theirs.sample(1)().shape == (1, 3, 16, 16)


def test_turns_are_taken_in_rounds(benchmarks):
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    spread = benchmarks.interleaved(runs, 3)
    assert calls == list("abababab")  # a round to warm up, and three
    assert spread["a"]["repeats"] == 3
