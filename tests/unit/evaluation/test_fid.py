import math

import numpy as np
import pytest
import scipy.linalg

from ldm_jax.core.checks import UserError
from ldm_jax.evaluation.fid import FeatureStatistics, fid, frechet_distance


def draw(seed, n, d=6):
    """Returns n correlated vectors about a mean that is not zero."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + rng.standard_normal(d)[None]


def gather(features, *sizes):
    """Returns the statistics of features that come in batches of these sizes, then the rest."""
    statistics = FeatureStatistics(features.shape[1])
    for batch in np.split(features, np.cumsum(sizes)):
        statistics.update(batch)
    return statistics


# Statistics.


@pytest.mark.parametrize("sizes", [(), (1,), (1, 1, 2), (0, 7, 0, 30)], ids=str)
@pytest.mark.parametrize("offset", [0, 1e6])
def test_batches_give_the_statistics_of_the_whole(sizes, offset):
    features = draw(0, 50) + offset
    got = gather(features, *sizes)
    assert got.count == 50
    np.testing.assert_allclose(got.mean, features.mean(0), rtol=1e-12)
    # The features themselves are rounded to 1e-10 where they are about 1e6.
    expected = np.cov(features, rowvar=False)
    np.testing.assert_allclose(got.covariance, expected, rtol=1e-9, atol=1e-9)


def test_float32_features_are_gathered_in_float64():
    features = (1000 + draw(0, 4000)).astype(np.float32)
    got = gather(features, *[16] * 200)
    assert got.mean.dtype == got.covariance.dtype == np.float64
    exact = features.astype(np.float64)
    np.testing.assert_allclose(got.mean, exact.mean(0), rtol=1e-13)
    np.testing.assert_allclose(got.covariance, np.cov(exact, rowvar=False), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("split", [0, 1, 20, 50])
def test_merged_statistics_are_those_of_the_whole(split):
    features = draw(0, 50)
    got, other = gather(features[:split]), gather(features[split:])
    got.merge(other)
    assert (got.count, other.count) == (50, 50 - split)
    np.testing.assert_allclose(got.mean, features.mean(0), rtol=1e-12)
    np.testing.assert_allclose(got.covariance, np.cov(features, rowvar=False), rtol=1e-10)


def test_statistics_do_not_change_with_later_batches():
    statistics = gather(draw(0, 50))
    mean, covariance = statistics.mean, statistics.covariance
    kept = mean.copy(), covariance.copy()
    statistics.update(draw(1, 50))
    np.testing.assert_array_equal(mean, kept[0])
    np.testing.assert_array_equal(covariance, kept[1])


@pytest.mark.parametrize("count", [0, 1])
def test_refuses_fewer_than_two_images(count):
    few = gather(draw(0, count))
    for compared in ((few, gather(draw(1, 9))), (gather(draw(1, 9)), few)):
        with pytest.raises(UserError) as caught:
            fid(*compared)
        assert str(caught.value) == (
            f"fid: images: got {count}. Legal: 2 or more; published figures mostly use 50000."
        )


def test_refuses_other_features():
    statistics = FeatureStatistics(3)
    with pytest.raises(UserError) as caught:
        statistics.update(np.zeros((2, 4)))
    assert str(caught.value) == "fid: features: got shape (2, 4), expected ('any', 3)."
    with pytest.raises(UserError) as caught:
        statistics.update(np.array([[0, 1, 2], [0, np.nan, np.inf]]))
    assert str(caught.value) == (
        "fid: features: 1 of 2 images have values that are not finite. Legal: finite numbers."
    )
    with pytest.raises(UserError) as caught:
        statistics.merge(FeatureStatistics(4))
    assert str(caught.value) == (
        "fid: mean of the other statistics: got shape (4,), expected (3,)."
    )
    assert statistics.count == 0


# Distances.


def test_known_distances():
    eye = np.eye(3)
    mu = np.array([1.0, 2, 3])
    assert frechet_distance(mu, eye, mu, eye) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(mu, eye, mu + 2, eye) == pytest.approx(12)
    # Of diagonal covariances: |mu1 - mu2|^2 + sum (sigma1 - sigma2)^2.
    first, second = np.diag([1.0, 4, 9]), np.diag([25.0, 0, 4])
    assert frechet_distance(mu, first, 0 * mu, second) == pytest.approx(14 + 16 + 4 + 1)


def test_one_feature():
    first, second = np.array([[0.0], [2]]), np.array([[1.0], [4], [7]])
    # Means 1 and 4; variances 2 and 9.
    assert fid(gather(first), gather(second)) == pytest.approx(9 + (math.sqrt(2) - 3) ** 2)


def test_samples_of_a_shifted_and_wider_gaussian_give_the_closed_form():
    first, second = (np.random.default_rng(seed).standard_normal((200_000, 4)) for seed in (0, 1))
    # |30 - 0|^2 of each feature, and (2 - 1)^2 of its deviations.
    found = fid(gather(first), gather(30 + 2 * second))
    assert found == pytest.approx(4 * 30**2 + 4, rel=1e-3)
    # Of the same samples, moved, the deviations are equal to the last digit.
    assert fid(gather(first), gather(first + 0.1)) == pytest.approx(4 * 0.1**2, rel=1e-6)


def test_rotation_changes_nothing():
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    a, b = draw(0, 50), draw(1, 50)
    expected = fid(gather(a), gather(b))
    assert fid(gather(a @ rotation), gather(b @ rotation)) == pytest.approx(expected)


@pytest.mark.parametrize("d", [2, 6, 64])
def test_full_rank_agrees_with_the_matrix_root(d):
    (mu1, cov1), (mu2, cov2) = (
        (x.mean(0), np.cov(x, rowvar=False)) for x in (draw(0, 500, d), draw(1, 500, d))
    )
    root = np.real(scipy.linalg.sqrtm(cov1 @ cov2))
    expected = ((mu1 - mu2) ** 2).sum() + np.trace(cov1 + cov2 - 2 * root)
    assert frechet_distance(mu1, cov1, mu2, cov2) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(mu2, cov2, mu1, cov1) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("n", [2, 20, 400], ids=lambda n: f"{n} images")
def test_equal_sets_have_distance_zero(n):
    # 64 features: singular covariances at 2 and 20 images.
    features = 30 * draw(0, n, 64)
    size = np.trace(gather(features).covariance)
    distance = fid(gather(features), gather(features[::-1], 1))
    assert 0 <= distance < 1e-9 * size


def test_singular_covariances():
    # Two images each: along a and b, cov = a a^T / 2 and b b^T / 2, and the root's trace is
    # |a . b| / 2.
    a, b = draw(0, 2, 64)
    first, second = np.stack([0 * a, a]), np.stack([0 * b, b])
    expected = ((a - b) ** 2).sum() / 4 + (a @ a + b @ b) / 2 - abs(a @ b)
    assert fid(gather(first), gather(second)) == pytest.approx(expected, rel=1e-9)


def test_fewer_images_than_features():
    # With cov = X^T X / (n - 1), X the centred features, the singular values of X1 X2^T do.
    first, second = draw(0, 12, 64), draw(1, 20, 64)
    a, b = ((x - x.mean(0)[None]) / math.sqrt(len(x) - 1) for x in (first, second))
    overlap = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    step = first.mean(0) - second.mean(0)
    expected = (step**2).sum() + (a**2).sum() + (b**2).sum() - 2 * overlap
    assert fid(gather(first), gather(second)) == pytest.approx(expected, rel=1e-10)


def test_images_that_are_all_equal():
    a, b = draw(0, 2)
    distance = fid(gather(np.stack([a, a])), gather(np.stack([b, b, b])))
    assert distance == pytest.approx(((a - b) ** 2).sum())


def test_refuses_statistics_that_do_not_fit():
    mu, cov = np.zeros(3), np.eye(3)
    odd = np.full(3, np.nan)
    for arguments, message in (
        ((cov, cov, mu, cov), "mu1: got shape (3, 3), expected ('any',)."),
        ((mu, cov[:2], mu, cov), "cov1: got shape (2, 3), expected (3, 3)."),
        ((mu, cov, mu[:2], cov), "mu2: got shape (2,), expected (3,)."),
        ((mu, cov, mu, cov[:2]), "cov2: got shape (2, 3), expected (3, 3)."),
        ((mu, cov, odd, cov), "mu2 has values that are not finite. Legal: finite numbers."),
    ):
        with pytest.raises(UserError) as caught:
            frechet_distance(*arguments)
        assert str(caught.value) == "fid: " + message
