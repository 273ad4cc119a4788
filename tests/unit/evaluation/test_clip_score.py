import math

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.evaluation.clip_score import clip_scores


def test_scores_are_cosines_of_each_pair_and_never_negative():
    images = np.array([[3.0, 0, 0], [1, 1, 0], [0, 2, 0], [0, 0, 5]])
    captions = np.array([[7.0, 0, 0], [4, 0, 0], [0, -1, 0], [0, 1, 0]])
    got = clip_scores(images, captions)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, [100, 100 * math.sqrt(0.5), 0, 0], rtol=1e-12)


def test_scores_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    images, captions = rng.standard_normal((2, 20, 6)).astype(np.float32)
    expected = []
    for a, b in zip(images.tolist(), captions.tolist(), strict=True):
        lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(x * x for x in b))
        expected.append(max(100 * sum(x * y for x, y in zip(a, b, strict=True)) / lengths, 0))
    np.testing.assert_allclose(clip_scores(images, captions), expected, rtol=1e-12)
    assert 0 < np.mean(np.array(expected) == 0) < 1


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (np.ones((2, 4)), "captions: got shape (2, 4), expected (2, 3)."),
        (
            np.array([[1.0, 0, 0], [0, 0, 0]]),
            "captions has embeddings that are zero or not finite. Legal: finite numbers.",
        ),
        (
            np.array([[1.0, 0, 0], [0, np.nan, 0]]),
            "captions has embeddings that are zero or not finite. Legal: finite numbers.",
        ),
    ],
)
def test_refuses_embeddings_that_do_not_fit(captions, message):
    with pytest.raises(UserError) as caught:
        clip_scores(np.ones((2, 3)), captions)
    assert str(caught.value) == f"clip score: {message}"
