"""`ldm-jax evaluate`: what is measured, what is kept, and how it goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli.main import main
from ldm_jax.evaluation.pixel_features import pixels
from ldm_jax.evaluation.reconstruction import ssim
from ldm_jax.pipeline import Pipeline
from ldm_jax.train.checkpoint import read_config
from ldm_jax.train.evaluate import evaluate
from ldm_jax.train.evaluation_request import Wanted
from ldm_jax.train.feature_log import FeatureLog
from ldm_jax.train.reference_set import open_reference

TINY = str(Path(__file__).parent / "tiny.py")
# 20 samples are three buckets of 8, one image for each device.
SOME = ("--extractor", "pixels", "--num_samples", "20", "--num_reference", "24")


@pytest.fixture
def measure(capfd):
    """Runs the command with --json; returns the report and what was shown meanwhile."""

    def run(workdir, out, *arguments):
        command = ["evaluate", "--workdir", workdir, "--out", out, "--json", *arguments]
        capfd.readouterr()
        assert main([str(argument) for argument in command]) == 0
        printed, shown = capfd.readouterr()
        return json.loads(printed), shown

    return run


def refuse(capfd, *arguments):
    """Runs a command that must fail, and returns its one line of standard error."""
    capfd.readouterr()
    status = main(["evaluate", *map(str, arguments)])
    out, err = capfd.readouterr()
    assert (status, out) == (2, "")
    return err.splitlines()[-1].removeprefix("ldm-jax: ")


def log_of(folder):
    """Returns the log of pixel features in a folder of samples, as it is on disk."""
    (key,) = folder.glob("*/key.json")
    return FeatureLog(key.parent, json.loads(key.read_text()), {"features": (192,)})


def samples_in(out):
    """Returns the folders of samples."""
    return {path for path in out.iterdir() if path.is_dir() and "reference" not in path.name}


def test_a_report_is_made_once_and_tells_what_made_it(runs, tmp_path, measure):
    out = tmp_path / "out"
    report, shown = measure(runs.text, out, *SOME, "--metrics", "fid,pr", "--seed", 9)
    assert "20/20" in shown
    assert "24/24" in shown
    pins = report["samples"]
    assert (pins["count"], pins["seed"], pins["step"], pins["parameters"]) == (20, 9, 3, "ema")
    assert pins["sampler"] == {"name": "ddim", "eta": 0.0}
    assert (pins["steps"], pins["guidance_scale"], pins["spacing"]) == (2, 2.0, "trailing")
    pipeline = Pipeline.from_checkpoint(runs.text)
    assert pins["checkpoint_hash"] == pipeline.fingerprint()
    assert report["reference"]["set"] == "train"
    assert (report["reference"]["count"], report["reference"]["of"]) == (24, 64)
    assert report["preprocessing"]["resize"] == "Pillow's bicubic, antialiased"
    assert report["extractor"]["name"] == "pixels 8x8"
    assert [row["name"] for row in report["scores"]] == [
        *("Fréchet distance (pixels 8x8)", "precision (pixels 8x8)", "recall (pixels 8x8)")
    ]
    # Sample k is image k of the seed, with the caption of the reference's example k.
    reference = open_reference(read_config(runs.text), "train")
    images = pipeline(reference.captions(np.arange(20)), seed=9)
    (folder,) = samples_in(out)
    features = log_of(folder).read(20, "features")
    np.testing.assert_allclose(features, pixels().features(images), atol=2e-3)
    assert np.ptp(features, axis=0).max() > 0.01

    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    again, shown = measure(runs.text, out, *SOME, "--metrics", "fid,pr", "--seed", 9)
    assert again == report
    assert "image/s" not in shown
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before
    # Another metric needs no new sample; the run's configuration is no other run.
    config = ("--config", f"{TINY}:text")
    more, shown = measure(runs.text, out, *SOME, "--metrics", "dc,fid", "--seed", 9, *config)
    assert "image/s" not in shown
    assert more["scores"][2] == report["scores"][0]
    assert samples_in(out) == {folder}


def test_a_killed_run_goes_on_and_seeds_do_not_mix(runs, tmp_path):
    config = read_config(runs.text).lock()
    common = {"metrics": ("fid",), "num_samples": 20, "num_reference": 8, "extractor": "pixels"}

    def run(out, progress=None, **changes):
        wanted = Wanted(**{**common, **changes})
        path, report = evaluate(
            config, runs.text, wanted, out=out, images_per_file=8, progress=progress
        )
        return path, report["scores"], log_of(path.parent).read(20, "features")

    def kill(what, count, total):
        if (what, count) == ("sample", 8):
            raise KeyboardInterrupt

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", kill)
    (folder,) = samples_in(tmp_path / "killed")
    assert log_of(folder).has(20).sum() == 8
    done = []
    path, scores, features = run(tmp_path / "killed", lambda *report: done.append(report))
    assert done == [("sample", 8, 20), ("sample", 8, 20), ("sample", 4, 20)]
    assert scores == whole[1]
    np.testing.assert_array_equal(features, whole[2])
    other = run(tmp_path / "killed", seed=1)
    assert other[0].parent != path.parent
    assert np.abs(other[2] - features).max() > 0.01
    (path.parent / path.name).unlink()
    assert run(tmp_path / "killed")[1] == whole[1]  # from the features that are there


def test_a_first_stage_is_compared_with_its_images(runs, tmp_path, measure):
    flags = ("--metrics", "rfid,psnr,ssim", "--extractor", "pixels", "--num_samples", 12)
    report, shown = measure(runs.autoencoder, tmp_path, *flags)
    assert "reconstruct" in shown
    found = {row["metric"]: row["value"] for row in report["scores"]}
    x = open_reference(read_config(runs.autoencoder), "train").images(np.arange(12))
    y = Pipeline.from_checkpoint(runs.text).reconstruct(x)
    errors = np.square(x.astype(np.float64) - y).mean(axis=(1, 2, 3))
    assert found["psnr"] == pytest.approx(np.mean(10 * np.log10(255**2 / errors)), rel=1e-3)
    assert found["ssim"] == pytest.approx(float(ssim(x, y).mean()), rel=1e-3)
    assert found["rfid"] > 0


def test_the_bound_is_measured_on_real_images_and_draws_none(runs, tmp_path, measure):
    flags = ("--metrics", "bound", "--num_reference", 8, "--per_device_batch", 1, "--seed", 4)
    report, shown = measure(runs.text, tmp_path, *flags)
    assert "bound" in shown
    assert "sample" not in shown
    names = ["variational bound of latents' density", "rate of latents"]
    assert [row["name"] for row in report["scores"]] == [
        f"{name}, bits per dimension" for name in names
    ]
    assert report["samples"]["count"] == 0
    assert report["bound"] == {"variance": "posterior", "seed": 4}
    (file,) = tmp_path.glob("*/bound-*.npz")
    with np.load(file) as arrays:
        steps = Pipeline.from_checkpoint(runs.text).task.schedule.num_timesteps
        assert arrays["terms"].shape == arrays["rate"].shape == (steps,)
        total = arrays["prior"] + arrays["terms"].sum()
    assert report["scores"][0]["value"] == pytest.approx(total, rel=1e-6)
    again, shown = measure(runs.text, tmp_path, *flags, "--steps", 3)
    assert "image/s" not in shown  # how samples are drawn is nothing to it
    assert again["scores"] == report["scores"]


def test_a_folder_whose_classes_are_others_conditions_nothing(runs, tmp_path, capfd, measure):
    for name in ("cats", "dogs"):
        (tmp_path / "real" / name).mkdir(parents=True)
        for level in range(6):
            image = Image.new("RGB", (16, 16), (40 * level, 10, 200))
            image.save(tmp_path / "real" / name / f"{level}.png")
    flags = ("--extractor", "pixels", "--num_samples", 8, "--reference", tmp_path / "real")
    assert refuse(capfd, "--workdir", runs.classes, "--out", tmp_path / "out", *flags) == (
        f"--reference={tmp_path / 'real'}: its classes are not those of the training data, which "
        "this model reads. Legal: the same names of classes, or --conditions=train."
    )
    report, _ = measure(runs.classes, tmp_path / "out", *flags, "--conditions", "train")
    assert (report["reference"]["set"], report["reference"]["of"]) == ("folder", 12)
    assert report["samples"]["conditions"]["set"] == "train"


def test_mistakes_are_one_line(runs, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    base = ("--workdir", runs.text, "--out", tmp_path / "out")
    assert refuse(capfd, *base, "--num_samples", 4).startswith(
        f"extractor inception: no file {tmp_path}/ldm_jax/weights/pt_inception-2015-12-05-"
    )
    assert refuse(capfd, *base, *SOME, "--metrics", "is").startswith(
        "--metrics=is: needs logits, which --extractor=pixels does not have."
    )
    assert refuse(capfd, *base, "--metrics", "bound", "--num_samples", 4) == (
        "--num_samples=4: the metrics look at real images alone. Legal: --num_reference."
    )
    assert refuse(capfd, *base, "--config.train.steps=4") == (
        "--config.train.steps=4: a trained run keeps its configuration. Legal: "
        "--config.sample.FIELD, --config.data.FIELD, --config.train.lpips_weights, and the flags "
        "of 'ldm-jax evaluate --help'."
    )
    assert refuse(capfd, *base, "--config.data.image_size=32").startswith(
        "config.data.image_size=32, but "
    )
    assert refuse(capfd, *base, "--config", f"{TINY}:class").startswith("config.")
    assert not (tmp_path / "out").exists()
