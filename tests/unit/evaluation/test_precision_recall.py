import jax
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.evaluation import distances
from ldm_jax.evaluation.precision_recall import density_coverage, precision_recall
from ldm_jax.parallel.mesh import make_mesh


def draw(seed, n, d=6, scale=1.0, shift=0.0):
    return scale * np.random.default_rng(seed).standard_normal((n, d)) + shift


def radius(points, i, k):
    """Returns the distance of a point to its k-th nearest other one."""
    others = [np.linalg.norm(points[i] - points[j]) for j in range(len(points)) if j != i]
    return sorted(others)[k - 1]


def share_inside(balls, points, k):
    """Returns the share of points that lie in a ball, by equations 1 to 3 of Kynkäänniemi et al."""
    radii = [radius(balls, i, k) for i in range(len(balls))]
    inside = [
        any(np.linalg.norm(x - c) <= r for c, r in zip(balls, radii, strict=True)) for x in points
    ]
    return np.mean(inside)


def by_naeem(real, samples, k):
    """Returns density and coverage, by equations 5 and 7 of Naeem et al."""
    radii = [radius(real, i, k) for i in range(len(real))]
    inside = np.array(
        [[np.linalg.norm(x - c) < r for x in samples] for c, r in zip(real, radii, strict=True)]
    )
    return inside.sum() / (k * len(samples)), inside.any(axis=1).mean()


SETS = {
    "alike": (draw(0, 60), draw(1, 60)),
    "narrow": (draw(0, 60), draw(1, 41, scale=0.4)),
    "beside": (draw(0, 43), draw(1, 60, shift=1.5)),
    "far from zero": (draw(0, 60, shift=300.0), draw(1, 60, shift=300.0)),
}


@pytest.mark.parametrize("name", SETS)
def test_shares_are_those_of_the_definitions(name):
    real, samples = SETS[name]
    got = precision_recall(real, samples)
    assert got.precision == pytest.approx(share_inside(real, samples, 3), abs=1e-12)
    assert got.recall == pytest.approx(share_inside(samples, real, 3), abs=1e-12)
    assert density_coverage(real, samples) == pytest.approx(by_naeem(real, samples, 5), abs=1e-12)


@pytest.mark.parametrize("k", [1, 10])
def test_other_neighbourhoods(k):
    real, samples = SETS["narrow"]
    got = precision_recall(real, samples, k)
    expected = share_inside(real, samples, k), share_inside(samples, real, k)
    assert got == pytest.approx(expected, abs=1e-12)
    got = density_coverage(real, samples, k)
    assert got == pytest.approx(by_naeem(real, samples, k), abs=1e-12)


def test_blocks_and_devices_make_no_difference(monkeypatch):
    real, samples = SETS["narrow"]
    expected = precision_recall(real, samples), density_coverage(real, samples)
    # Blocks of 3 rows a device, the last one not full.
    monkeypatch.setattr(distances, "_MOST", 3 * len(samples))
    for mesh in (make_mesh((2, 2, 2)), make_mesh((1, 1, 1), jax.devices()[:1])):
        found = (
            precision_recall(real, samples, mesh=mesh),
            density_coverage(real, samples, mesh=mesh),
        )
        assert found == expected


def test_a_set_covers_itself():
    real = draw(0, 50)
    assert precision_recall(real, real) == (1, 1)
    density, coverage = density_coverage(real, real)
    # The image itself and its 4 nearer neighbours lie in each ball, the fifth on its border.
    assert density == pytest.approx(1, abs=0.02)
    assert coverage == 1


def test_samples_elsewhere_are_neither_precise_nor_recalled():
    real = draw(0, 50)
    assert precision_recall(real, real + 100) == (0, 0)
    assert density_coverage(real, real + 100) == (0, 0)


def test_samples_of_one_image_are_precise_and_recall_nothing():
    real = draw(0, 50)
    samples = np.repeat(real[:1], 20, axis=0)
    assert precision_recall(real, samples).precision == 1
    assert precision_recall(real, samples).recall <= 1 / 50
    assert density_coverage(real, samples).coverage < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 8}, "k=8 for sets of 8 images. Legal: 1 to 7, and more images than k."),
        ({"k": 0}, "k=0 for sets of 8 images. Legal: 1 to 7, and more images than k."),
        ({"samples": np.zeros((9, 4))}, "samples: got shape (9, 4), expected ('any', 6)."),
        ({"real": np.zeros(8)}, "real: got shape (8,), expected ('any', 'any')."),
        (
            {"samples": np.full((9, 6), np.nan)},
            "samples has values that are not finite. Legal: finite numbers.",
        ),
    ],
)
def test_refuses_sets_that_do_not_fit(change, message):
    for measure in (precision_recall, density_coverage):
        with pytest.raises(UserError) as caught:
            measure(**({"real": draw(0, 8), "samples": draw(1, 9)} | change))
        got = str(caught.value).removeprefix("precision and recall: ")
        assert got == message


def test_density_refuses_no_samples():
    with pytest.raises(UserError) as caught:
        density_coverage(draw(0, 8), np.zeros((0, 6)))
    assert str(caught.value) == "precision and recall: samples: got none. Legal: 1 or more."
