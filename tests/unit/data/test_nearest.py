import sys

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data import embeddings as module
from ldm_jax.data.embeddings import Embeddings
from ldm_jax.data.nearest import ExactSearch, FaissSearch


@pytest.fixture
def saved(tmp_path):
    def save(rows):
        np.save(tmp_path / "rows.npy", rows)
        return Embeddings("rows", str(tmp_path / "rows.npy"))

    return save


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_have_length_one(saved, dtype):
    rows = (5 * np.random.default_rng(0).normal(size=(7, 3))).astype(dtype)
    found = saved(rows)
    expected = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None]
    assert (len(found), found.dim) == (7, 3)
    for numbers in ([2, 2, 0], slice(1, 4)):
        assert found.rows(numbers).dtype == np.float32
        np.testing.assert_allclose(found.rows(numbers), expected[numbers], atol=1e-3)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_exact_search_in_pieces_is_a_sort_of_the_whole(saved, monkeypatch, count):
    monkeypatch.setattr(module, "_BLOCK", 6)
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(40, 4)) * rng.uniform(0.1, 9, size=(40, 1))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    search = ExactSearch(saved(rows))
    for query in rng.normal(size=(5, 4)):
        expected = np.argsort(-(unit @ query))[:count]
        np.testing.assert_array_equal(search(query.astype(np.float32), count), expected)


def test_of_equally_near_rows_the_first_are_taken(saved, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", 4)
    rows = np.tile(np.eye(2), (5, 1))  # 0, 2, 4, 6, 8 are one vector, the odd ones another
    search = ExactSearch(saved(rows))
    assert search(np.array([1, 0], np.float32), 4).tolist() == [0, 2, 4, 6]
    assert search(np.array([1, 0], np.float32), 7).tolist() == [0, 2, 4, 6, 8, 1, 3]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.zeros((2, 3)), r"row 0 has length 0.0. Legal: rows of finite numbers, not all zero."),
        (np.array([[1.0, 0.0], [np.nan, 1.0]]), r"row 1 has length nan."),
        (np.zeros((0, 3)), r"got float64 \(0, 3\). Legal: floats \[n, d\]."),
        (np.zeros((2, 3), int), r"got int64 \(2, 3\). Legal: floats \[n, d\]."),
    ],
)
def test_what_is_no_embedding(saved, rows, text):
    with pytest.raises(UserError, match=rf"^rows=\S+rows.npy: {text}"):
        saved(rows)


def test_faiss_is_not_installed(saved, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError) as caught:
        FaissSearch(saved(np.eye(2)))
    assert str(caught.value) == (
        "neighbours search='faiss': faiss is not installed. Legal: search='exact', or pip install "
        "faiss-cpu."
    )


def test_faiss_finds_nearly_what_an_exact_search_finds(saved):
    pytest.importorskip("faiss", reason="needs faiss: pip install faiss-cpu")
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(30, 8))
    rows = centres[rng.integers(0, 30, 6000)] + 0.2 * rng.normal(size=(6000, 8))
    database = saved(rows)
    exact, search, again = ExactSearch(database), FaissSearch(database), FaissSearch(database)
    hits = []
    for query in database.rows(slice(0, 100)):
        found = search(query, 10)
        np.testing.assert_array_equal(found, again(query, 10))
        hits.append(len(set(found) & set(exact(query, 10))) / 10)
    assert np.mean(hits) > 0.8
    # More than the clusters searched at first can hold: it goes on until there are enough.
    assert sorted(search(database.rows([0])[0], 6000)) == list(range(6000))
