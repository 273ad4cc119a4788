"""Scores of features whose answers are known."""

import numpy as np
import pytest

from ldm_jax.evaluation.kid import squared_mmd
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.train.scores import METRICS, Features, least_images

DRAW = np.random.default_rng(0)
REAL = DRAW.standard_normal((24, 4)).astype(np.float32)


def compute(metric, samples=REAL, reference=REAL, name="inception", **settings):
    """Returns the scores by name; every output of the extractor is the same rows."""
    features = Features(
        samples=lambda output: samples,
        reference=lambda output: reference,
        captions=lambda: (samples, reference),
        pairs=lambda metric: samples[:, 0],
        extractor=name,
        clip="CLIP tiny",
        mesh=make_mesh(),
    )
    found = METRICS[metric].compute(metric, features, {**METRICS[metric].settings, **settings})
    assert {score.metric for score in found} == {metric}
    return {score.name: score for score in found}


@pytest.mark.parametrize(
    ("metric", "names"),
    [
        ("fid", ("FID", "Fréchet distance (emoji classifier)")),
        ("sfid", ("sFID", "spatial Fréchet distance (emoji classifier)")),
        ("rfid", ("rFID", "Fréchet distance of reconstructions (emoji classifier)")),
    ],
)
def test_a_shift_is_the_square_of_its_length(metric, names):
    shift = np.array([[1.0, 2.0, 0.0, -1.0]], np.float32)
    for name, extractor in zip(names, ("inception", "emoji classifier"), strict=True):
        found = compute(metric, samples=REAL + shift, name=extractor)
        assert list(found) == [name]
        assert found[name].value == pytest.approx(6.0, rel=1e-5)
        assert found[name].std is None
    (same,) = compute(metric).values()
    assert same.value < 1e-5


def test_a_subset_of_all_is_the_whole_kernel_distance():
    samples = REAL * 1.5 + 0.2
    found = compute("kid", samples=samples, size=24, subsets=3)["KID"]
    assert found.value == pytest.approx(
        squared_mmd(REAL.astype(np.float64), samples.astype(np.float64)), rel=1e-9
    )
    assert found.std == pytest.approx(0, abs=1e-9)


def test_a_classifier_that_knows_nothing_scores_one():
    found = compute("is", samples=np.zeros((24, 4)), splits=2)["Inception Score"]
    assert found.value == pytest.approx(1, abs=1e-12)
    sure = compute("is", samples=np.tile(40 * np.eye(4), (6, 1)), splits=1)["Inception Score"]
    assert sure.value == pytest.approx(4, rel=1e-6)


def test_equal_sets_have_all_of_each_other():
    assert {name: x.value for name, x in compute("pr", name="a").items()} == {
        "precision (a)": 1.0,
        "recall (a)": 1.0,
    }
    found = compute("dc", samples=REAL + 100)
    assert {name: x.value for name, x in found.items()} == {"density": 0.0, "coverage": 0.0}


def test_means_of_pairs_and_of_captions():
    assert compute("psnr")["PSNR"].value == pytest.approx(REAL[:, 0].mean(dtype=np.float64))
    assert compute("clip")["CLIP score (CLIP tiny)"].value == pytest.approx(100)


def test_how_many_images_a_metric_needs():
    found = {name: least_images(name, x.settings) for name, x in METRICS.items()}
    assert found == {
        **{"fid": 2, "sfid": 2, "kid": 1000, "is": 10, "pr": 4, "dc": 6, "clip": 1, "bound": 1},
        **{"rfid": 2, "psnr": 1, "ssim": 1, "lpips": 1},
    }
