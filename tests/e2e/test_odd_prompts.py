"""Prompts that are too long, empty, or of any characters, in training and in sampling."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli.main import main
from ldm_jax.pipeline import Pipeline

TINY = str(Path(__file__).parent / "tiny.py")
LONG = "a large red circle at the top left and a small blue cross at the bottom right"  # 16 words
ODD = [
    "\ud800 lone \udfff",
    "\u05e9\u05dc\u05d5\u05dd \u202e\u0645\u0631\u062d\u0628\u0627",
    "\U0001f469\u200d\U0001f680 \U0001f44b\U0001f3fd",
    "nul \x00 red",
    "cafe\u0301 e" + "\u0301" * 99,
    "x" * 2**20,
]


def ours(capfd):
    """Returns the lines on standard error that are ours and not the progress bar's."""
    lines = capfd.readouterr().err.splitlines()
    return [line for line in lines if line.startswith("ldm-jax: ")]


@pytest.fixture(scope="module")
def pipeline(runs):
    return Pipeline.from_checkpoint(runs.text)


def test_long_prompts_take_one_counted_line(runs, tmp_path, capfd):
    command = ["sample", "--workdir", str(runs.text), "--out", str(tmp_path / "out")]
    prompts = [LONG, LONG, f"{LONG} red", "a red cross"]
    command += [part for prompt in prompts for part in ("--prompt", prompt)]
    capfd.readouterr()
    assert main([*command, "--negative", f"{LONG} blue", "--sampler", "ddpm"]) == 0
    assert ours(capfd) == ["ldm-jax: prompts longer than 12 tokens are cut there: 3"]
    assert main([*command[:5], "--prompt", "a red cross", "--num_images", "2"]) == 0
    assert ours(capfd) == []


def test_a_pipeline_speaks_of_a_prompt_once(pipeline, monkeypatch):
    said = []
    monkeypatch.setattr(
        "ldm_jax.pipeline.pipeline.logging.warning", lambda text, *a: said.append(text % a)
    )
    cut = pipeline([LONG, "a red cross"], seed=1)
    np.testing.assert_array_equal(pipeline([LONG, "a red cross"], seed=1), cut)
    assert said == ["prompts longer than 12 tokens are cut there: 1"]
    same = pipeline([" ".join(LONG.split()[:12]), "a red cross"], seed=1)
    np.testing.assert_array_equal(same, cut)
    assert len(said) == 1


def test_white_space_is_no_prompt(pipeline):
    images = pipeline(["", " \n", "\u3000"], seed=[4, 4, 4], first_index=0, num_images=3)
    alone = [pipeline(prompt, seed=4) for prompt in ("", "  ")]
    np.testing.assert_array_equal(alone[0], alone[1])
    np.testing.assert_array_equal(images[0], alone[0][0])


def test_any_prompt_is_drawn_and_kept_in_its_file(runs, pipeline, tmp_path):
    images = pipeline(ODD, seed=2)
    assert images.shape == (len(ODD), 16, 16, 3)
    out = tmp_path / "out"
    command = ["sample", "--workdir", str(runs.text), "--out", str(out), "--seed", "2"]
    command += [f"--prompt={prompt}" for prompt in ODD]
    assert main(command) == 0
    record = json.loads((out / "samples.json").read_text())
    assert [row["prompt"] for row in record["images"]] == ODD
    for k, prompt in enumerate(ODD):
        with Image.open(out / f"{k:05d}.png") as image:
            assert json.loads(image.text["parameters"])["prompt"] == prompt
            np.testing.assert_array_equal(np.asarray(image), images[k])


def test_long_captions_take_one_counted_line_in_training(runs, tmp_path, capfd):
    command = ["train", "--config", f"{TINY}:text", "--workdir", str(tmp_path / "run")]
    command += [f"--config.task.first_stage.workdir={runs.autoencoder}"]
    command += ["--config.data.source.max_objects=3", "--config.sample.grid_images=0"]
    capfd.readouterr()
    assert main(command) == 0
    lines = [line for line in ours(capfd) if "captions" in line]
    assert "captions longer than 12 tokens are cut there: " in lines[0]
    count = int(lines[0].partition("there: ")[2].split()[0])
    assert 8 <= count <= 64
    # At most the final count comes after it.
    assert len(lines) <= 2
    assert all(line.startswith("ldm-jax: captions were cut ") for line in lines[1:])
