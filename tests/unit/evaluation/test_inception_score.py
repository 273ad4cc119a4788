import math

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.evaluation.inception_score import InceptionScore


def draw(n, classes=7, scale=3.0):
    return scale * np.random.default_rng(0).standard_normal((n, classes))


def by_the_book(logits, splits, seed):
    """Returns the scores of the splits, by exp(mean KL(p(y|x) || p(y)))."""
    n = len(logits)
    shuffled = logits[np.random.RandomState(seed).permutation(n)]
    scores = []
    for k in range(splits):
        part = shuffled[k * n // splits : (k + 1) * n // splits]
        p = np.exp(part) / np.exp(part).sum(axis=1, keepdims=True)
        marginal = p.mean(axis=0)
        divergences = [
            sum(a * math.log(a / b) for a, b in zip(x, marginal, strict=True)) for x in p
        ]
        scores.append(math.exp(sum(divergences) / len(part)))
    return scores


def gather(logits, batches, **settings):
    score = InceptionScore(*logits.shape, **settings)
    for indices in batches:
        score.update(indices, logits[indices])
    return score


@pytest.mark.parametrize(("n", "splits"), [(1, 1), (10, 10), (43, 4), (43, 10)])
def test_score_is_that_of_the_definition(n, splits):
    logits = draw(n)
    got = gather(logits, [np.arange(n)], splits=splits, seed=3).score()
    expected = by_the_book(logits, splits, 3)
    assert got.mean == pytest.approx(np.mean(expected), rel=1e-12)
    assert got.std == pytest.approx(np.std(expected), rel=1e-12, abs=1e-14)


def test_neither_batches_nor_order_nor_hosts_make_a_difference():
    logits = draw(43)
    whole = gather(logits, [np.arange(43)]).score()
    order = np.random.default_rng(1).permutation(43)
    first = gather(logits, [order[:5], order[5:5], order[5:20]])
    first.merge(gather(logits, [order[20:21], order[21:]]))
    assert first.score() == pytest.approx(whole, rel=1e-12)


def test_sure_and_different_images_score_the_number_of_classes():
    logits = 1000.0 * np.tile(np.eye(4), (25, 1))
    assert gather(logits, [np.arange(100)], splits=1).score() == pytest.approx((4, 0))


def test_images_that_look_the_same_score_1():
    logits = np.tile(draw(1), (20, 1))
    assert gather(logits, [np.arange(20)], splits=5).score() == pytest.approx((1, 0), abs=1e-12)


def test_refuses_what_is_no_whole_set():
    logits = draw(6)

    def refusal(act):
        with pytest.raises(UserError) as caught:
            act()
        return str(caught.value).removeprefix("inception score: ")

    score = gather(logits, [np.array([0, 2])], splits=2)
    assert refusal(score.score) == "4 of 6 images are missing, the first of them number 1."
    twice = "an image came twice. Legal: each of them once."
    assert refusal(lambda: score.update(np.array([2]), logits[:1])) == twice
    assert refusal(lambda: score.update(np.array([4, 4]), logits[:2])) == twice
    assert refusal(lambda: score.merge(gather(logits, [np.array([2])], splits=2))) == twice
    assert refusal(lambda: score.update(np.array([6]), logits[:1])) == (
        "images 6 to 6. Legal: 0 to 5."
    )
    assert refusal(lambda: score.update(np.array([4]), logits[:1, :3])) == (
        "logits: got shape (1, 3), expected (1, 7)."
    )
    assert refusal(lambda: score.update(np.array([4]), np.full((1, 7), np.inf))) == (
        "logits have values that are not finite. Legal: finite numbers."
    )
    assert refusal(lambda: score.merge(InceptionScore(6, 7, splits=3))) == (
        "the other one has other images, classes, splits or another seed."
    )
    assert refusal(lambda: InceptionScore(6, 7)) == "got 10 splits of 6 images. Legal: 1 to 6."
    score.update(np.array([1, 3, 4, 5]), logits[[1, 3, 4, 5]])
    expected = by_the_book(logits, 2, 2020)
    assert score.score().mean == pytest.approx(np.mean(expected), rel=1e-12)
