import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.evaluation.kid import kid, squared_mmd


def draw(seed, n, d=5, shift=0.0):
    return np.random.default_rng(seed).standard_normal((n, d)) + shift


def by_the_book(x, y):
    """Returns the U-statistic of Gretton et al., pair by pair."""

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    m, n = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    xy = sum(kernel(a, b) for a in x for b in y) / (m * n)
    return xx + yy - 2 * xy


@pytest.mark.parametrize(("n", "m"), [(2, 2), (9, 9), (7, 12)])
def test_distance_is_that_of_the_pairs(n, m):
    x, y = draw(0, n), draw(1, m, shift=0.5)
    assert squared_mmd(x, y) == pytest.approx(by_the_book(x, y), rel=1e-12)


def test_many_images_tell_the_difference_of_their_moments():
    # With one feature, k(a, b) = sum_j C(3, j) (a b)^j, hence the distance is
    # sum_j C(3, j) (E x^j - E y^j)^2. Here x = 0 or 2, y = 1 or 3 with equal chances.
    x, y = np.tile([[0.0], [2.0]], (500, 1)), np.tile([[1.0], [3.0]], (500, 1))
    moments = [(1, 2), (2, 5), (4, 14)]
    exact = sum(c * (a - b) ** 2 for c, (a, b) in zip((3, 3, 1), moments, strict=True))
    # What is left out of the means is a thousandth of their terms, which are 0 to 1000.
    assert squared_mmd(x, y) == pytest.approx(exact, abs=1)


def test_is_unbiased_where_the_sets_are_alike():
    found = [squared_mmd(draw(2 * k, 10), draw(2 * k + 1, 10)) for k in range(200)]
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 3 * error
    assert min(found) < 0 < max(found)


def test_subsets_are_drawn_one_after_the_other():
    x, y = draw(0, 30), draw(1, 40, shift=0.5)
    rng, expected = np.random.RandomState(7), []
    for _ in range(4):
        a, b = rng.choice(30, 6, replace=False), rng.choice(40, 6, replace=False)
        expected.append(by_the_book(x[a], y[b]))
    got = kid(x, y, subsets=4, size=6, seed=7)
    assert got.mean == pytest.approx(np.mean(expected), rel=1e-12)
    assert got.std == pytest.approx(np.std(expected), rel=1e-12)
    assert got == kid(x, y, subsets=4, size=6, seed=7)
    assert got.mean != kid(x, y, subsets=4, size=6, seed=8).mean


def test_float32_features_are_compared_in_float64():
    x, y = draw(0, 50).astype(np.float32), draw(1, 50).astype(np.float32)
    expected = squared_mmd(x.astype(np.float64), y.astype(np.float64))
    assert kid(x, y, subsets=1, size=50).mean == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 9}, "kid.size: got 9 for sets of 8 images. Legal: 2 to 8."),
        ({"size": 1}, "kid.size: got 1 for sets of 8 images. Legal: 2 to 8."),
        ({"size": 4, "subsets": 0}, "kid.subsets: got 0. Legal: 1 or more."),
        (
            {"second": np.zeros((8, 4))},
            "kid: second: got shape (8, 4), expected ('any', 5).",
        ),
        (
            {"second": np.full((8, 5), np.nan)},
            "kid: second has values that are not finite. Legal: finite numbers.",
        ),
    ],
)
def test_refuses_sets_that_do_not_fit(arguments, message):
    with pytest.raises(UserError) as caught:
        kid(**({"first": draw(0, 8), "second": draw(1, 9)} | arguments))
    assert str(caught.value) == message
