"""Studies at their smallest, in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import QUICK_FLAGS

from ldm_jax.sweep.results import read_rows

ROOT = Path(__file__).parents[2]
TFDS = ROOT.parent / "shared" / "data" / "tfds"
needs_data = pytest.mark.skipif(
    not (TFDS / "fashion_mnist").is_dir(), reason="needs the TFDS directory of Fashion-MNIST"
)


def run(name, workdir, *more):
    environment = {**os.environ, "XLA_FLAGS": QUICK_FLAGS}
    command = [sys.executable, ROOT / "experiments" / name / "run.py", "--size", "smoke"]
    command += ["--workdir", workdir, *more]
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), read_rows(
        workdir / name / "smoke" / "results.jsonl"
    )


@pytest.mark.slow  # `make test` runs a made-up study in tests/unit/sweep and traces these models
def test_a_study_runs(tmp_path):
    scores, rows = run("inpainting_cost", tmp_path)
    assert [row["scores"] for row in rows] == list(scores.values())
    assert list(scores) == ["LDM-1, seed 0", "LDM-4, seed 0"]
    assert all(value > 0 for found in scores.values() for value in found.values())
    text = (tmp_path / "inpainting_cost" / "smoke" / "table.md").read_text()
    assert "| LDM-1 |" in text
    assert "- Latents are at least" in text


@pytest.mark.slow
@needs_data
def test_studies_share_what_they_train(tmp_path):
    """The judge, the first stage and the guided model are trained once."""
    guided, _ = run("guidance", tmp_path, "--data", TFDS)
    assert list(guided) == ["scale-1, seed 0", "scale-2, seed 0"]
    assert all(0 <= found["class as asked"] <= 1 for found in guided.values())
    models = sorted(path.name for path in (tmp_path / "models").iterdir())
    drawn, rows = run("samplers", tmp_path, "--data", TFDS)
    assert list(drawn) == ["ddim, seed 0", "dpmpp-2m, seed 0"]
    assert [x["steps"] for x in rows[0]["over_steps"]] == [4, 5]
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == models
    assert len(list(tmp_path.glob("*.safetensors"))) == 1


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", ["parameterization", "latent_scale", "kl_or_vq"])
def test_a_study_of_trained_models_runs(name, tmp_path):
    scores, rows = run(name, tmp_path, "--data", TFDS)
    assert len(scores) == len(rows) == 2
    metric = "Fréchet distance (Fashion-MNIST classifier)"
    first, second = (found[metric] for found in scores.values())
    assert first > 0
    assert second > 0
    assert first != second
    assert list((tmp_path / name / "smoke").glob("*.png"))


@pytest.mark.slow
def test_the_switch_runs_both_ways(tmp_path):
    scores, _ = run("conditioning", tmp_path)
    routes = ("map-concat", "map-attention", "class-concat", "class-attention")
    assert list(scores) == [f"{name}, seed 0" for name in routes]
    assert all(0 <= found["condition followed"] <= 1 for found in scores.values())
