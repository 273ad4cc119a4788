"""The compression study at its smallest, in a process of its own; its report on made-up rows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from compiling import QUICK_FLAGS
from ml_collections import ConfigDict
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.evaluation.pixel_features import pixels
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.sweep.judge import Judge
from ldm_jax.sweep.page import fill_page
from ldm_jax.sweep.results import read_rows

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "compression"
TFDS = ROOT.parent / "shared" / "data" / "tfds"
METRIC = "Fréchet distance (Fashion-MNIST classifier)"


@pytest.fixture(scope="module")
def study():
    """The modules of the experiment, which find each other as its script does."""
    names = ("points", "measure", "report")
    sys.path.insert(0, str(FOLDER))
    try:
        modules = [__import__(name) for name in names]
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:  # another experiment may have files of these names
            sys.modules.pop(name, None)
    return dict(zip(names, modules, strict=True))


@pytest.fixture(scope="module")
def report(study):
    return study["report"]


def make_row(name, seed, last, speed, judge="judge 1"):
    """A run that ends after 4e12 FLOPs, or twice that for LDM-1, at a score of `last`."""
    flops = (1e12, 4e12) if name != "LDM-1" else (2e12, 8e12)
    way = [
        {"training_flops": x, "seconds": x / 1e11, "step": 10, "scores": {METRIC: last + extra}}
        for x, extra in zip(flops, (2.0, 0.0), strict=True)
    ]
    sampling = [
        {"steps": steps, "images_per_second": speed / steps, "scores": {METRIC: last}}
        for steps in (10, 200)
    ]
    return {
        "name": name,
        "seed": seed,
        "overrides": {},
        "settings": {"judge": judge, "images": 500, "reference": 10_000, "scored_with": 50},
        "made_by": {"device": "cpu", "devices": 2, "jax": "1", "date": "d", "code_sha256": "c"},
        "scores": {METRIC: last},
        "checkpoint_step": 2000,
        "seconds": 1234.5,
        "parameters": 2_900_000,
        "flops_per_step": 2e9,
        "real": {METRIC: 0.25},
        "reconstructed": {METRIC: 0.5},
        "over_training": way,
        "over_sampling": sampling,
    }


def test_a_table_says_what_the_rows_say(report, tmp_path):
    rows = [
        make_row(name, seed, last + seed, speed)
        for seed in (0, 1)
        for name, last, speed in (("LDM-1", 3.0, 100), ("LDM-2", 1.0, 300), ("LDM-4", 2.0, 900))
    ]
    text = report.write_report(rows, tmp_path)
    lines = text.splitlines()
    assert lines[0].endswith("| at 4 TFLOP | images/s, 10 steps | images/s, 200 steps |")
    # LDM-1 is half-way between its checkpoints there, at 1 above its last; the errors of
    # two scores that are 1 apart are 1 / sqrt(2) / sqrt(2).
    assert lines[2] == (
        "| LDM-1 | 2.90 M | 2.0 | 2,000 | 1,234 | 0.25 | 0.50 | 3.50 ± 0.50 | 4.50 ± 0.50 "
        "| 10.00 | 0.50 |"
    )
    assert lines[3].endswith("| 1.50 ± 0.50 | 1.50 ± 0.50 | 30.00 | 1.50 |")
    assert "Means over 2 seeds, ± one standard error" in text
    assert "- At equal compute LDM-2 is best, a middle factor, as in the paper." in text
    assert "- Throughput rises with f." in text
    with Image.open(tmp_path / "quality.png") as image:
        assert image.size == (1080, 256)
    stale = make_row("LDM-1", 0, 9.0, 1, judge="judge 0")
    assert report.write_report([stale, *rows], tmp_path) == text


def test_a_table_says_what_was_found_instead(report, tmp_path):
    rows = [make_row("LDM-1", 0, 1.0, 100), make_row("LDM-2", 0, 3.0, 90)]
    text = report.write_report([*rows, make_row("LDM-4", 0, 5.0, 200)], tmp_path)
    assert "- At equal compute LDM-1 is best, which is not in the middle." in text
    assert "- Throughput does not always rise with f." in text
    assert "One seed: there are no error bars" in text
    assert "±" not in text


def test_rows_of_two_judges_do_not_compare(report, tmp_path):
    rows = [make_row("LDM-1", 0, 1.0, 1), make_row("LDM-2", 0, 1.0, 1, judge="judge 2")]
    with pytest.raises(UserError) as told:
        report.write_report(rows, tmp_path)
    assert str(told.value) == (
        "compression: results with 2 kinds of judge: judge 1, judge 2. Legal: one; measure the "
        "others again, or keep another --out."
    )


def test_the_page_shows_what_was_measured(report, tmp_path):
    """Holds once there are results: the table of the page is that of the file."""
    page, results = FOLDER / "README.md", FOLDER / "results.jsonl"
    rows = read_rows(results)
    text = report.write_report(rows, tmp_path) if rows else ""
    copy = tmp_path / "README.md"
    copy.write_text(page.read_text())
    fill_page(copy, "small", text)
    assert copy.read_text() == page.read_text()


class Stub:
    """A pipeline of a model whose images are as bright as it has steps."""

    def __init__(self, workdir):
        self.step = int((workdir / "steps").read_text())
        conditioner = ConfigDict({"num_classes": 10})
        self.config = ConfigDict(
            {"task": {"conditioner": conditioner}, "sample": {"per_device_batch": 2}}
        )
        self.task = SimpleNamespace(inputs=("class",))
        self.mesh = make_mesh((1, 1, 1), jax.devices()[:1])

    @classmethod
    def from_checkpoint(cls, workdir):
        return cls(workdir)

    def __call__(self, *, classes, steps, seed, sampler):
        assert sampler == {"name": "ddim", "eta": 0.0}
        return np.full((len(classes), 4, 4, 1), self.step, np.uint8) + noise(len(classes))

    def reconstruct(self, images):
        return images + np.uint8(10)


def noise(count):
    return np.random.default_rng(count).integers(0, 9, (count, 4, 4, 1), dtype=np.uint8)


def test_a_point_goes_on_from_what_it_has_scored(study, tmp_path, monkeypatch):
    measure, (_, point) = study["measure"], study["points"].make_points("smoke", [0], "j", "data")
    trained = []

    def train(config, workdir):
        trained.append((workdir.name, config.train.steps))
        if len(trained) == 3:
            raise KeyboardInterrupt
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "steps").write_text(str(config.train.steps))
        row = {"step": config.train.steps, "useful_seconds": 1.5 * config.train.steps}
        with (workdir / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    monkeypatch.setattr(measure, "train", train)
    monkeypatch.setattr(measure, "Pipeline", Stub)
    monkeypatch.setattr(measure, "_costs", lambda _: {"parameters": 9, "flops_per_step": 100.0})
    monkeypatch.setattr(measure, "real_images", lambda *_: {"image": noise(16)})
    judge = Judge(pixels(4), [noise(16)])
    monkeypatch.setattr(measure, "open_judge", lambda *_: judge)
    monkeypatch.setattr("ldm_jax.sweep.models.train", train)
    arguments = {"extractor": {}}
    folder = tmp_path / "point"
    folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        measure.measure_point(point, folder, **arguments)
    found = measure.measure_point(point, folder, **arguments)
    # The first checkpoint was scored before the cut, so only the second is trained for.
    assert [steps for _, steps in trained] == [2, 1, 2, 2, 2]
    assert [name for name, _ in trained[1:]][:2] == ["diffusion"] * 2
    assert [x["step"] for x in found["over_training"]] == [1, 2]
    assert [x["training_flops"] for x in found["over_training"]] == [100.0, 200.0]
    assert [x["seconds"] for x in found["over_training"]] == [1.5, 3.0]
    assert [x["steps"] for x in found["over_sampling"]] == [2, 3]
    assert found["checkpoint_step"] == 2
    metric = "Fréchet distance (pixels 4x4)"
    assert found["scores"] == found["over_training"][-1]["scores"]
    assert found["real"][metric] < 1e-6 < found["scores"][metric] < found["reconstructed"][metric]
    assert all(x["images_per_second"] > 0 for x in found["over_sampling"])


@pytest.mark.slow
@pytest.mark.skipif(
    not (TFDS / "fashion_mnist").is_dir(), reason="needs the TFDS directory of Fashion-MNIST"
)
def test_two_factors_are_trained_scored_and_not_run_again(tmp_path):
    environment = {**os.environ, "XLA_FLAGS": QUICK_FLAGS}
    arguments = ("--size", "smoke", "--data", TFDS, "--workdir", tmp_path)
    command = [sys.executable, FOLDER / "run.py", *arguments]
    for _ in range(2):
        done = subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        scores = json.loads(done.stdout.splitlines()[-1])
        assert list(scores) == ["LDM-1, seed 0", "LDM-4, seed 0"]
        assert all(found[METRIC] > 0 for found in scores.values())
    rows = read_rows(tmp_path / "compression" / "smoke" / "results.jsonl")
    assert [row["name"] for row in rows] == ["LDM-1", "LDM-4"]
    for row in rows:
        assert [x["step"] for x in row["over_training"]] == [1, 2]
        assert [x["steps"] for x in row["over_sampling"]] == [2, 3]
        assert "data" not in json.dumps(row["overrides"])
        assert str(tmp_path) not in json.dumps(row)
    pixels, latents = rows
    assert pixels["real"] == pixels["reconstructed"]  # there is no first stage
    assert latents["real"] != latents["reconstructed"]
    assert pixels["flops_per_step"] > 2 * latents["flops_per_step"]
    assert (tmp_path / "compression" / "smoke" / "quality.png").stat().st_size < 100_000
