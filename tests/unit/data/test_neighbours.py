import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.neighbours import Neighbours


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    own, other = rng.normal(size=(6, 4)), 3 * rng.normal(size=(9, 4))
    np.save(tmp_path / "own.npy", own)
    np.save(tmp_path / "other.npy", other.astype(np.float32))
    return tmp_path, own, other


def nearest(query, database, k):
    unit = database / np.linalg.norm(database, axis=1, keepdims=True)
    return unit[np.argsort(-(unit @ query), kind="stable")[:k]]


def test_another_database(files):
    folder, own, other = files
    make = Neighbours(str(folder / "own.npy"), str(folder / "other.npy"), k=3)
    assert make.shape(32) == ((3, 4), np.float32)
    for index in range(6):
        found = make({"index": index}, np.random.default_rng(0))
        np.testing.assert_allclose(found, nearest(own[index], other, 3), atol=1e-6)


def test_an_example_is_not_its_own_neighbour(files):
    folder, own, _ = files
    make = Neighbours(str(folder / "own.npy"), k=2)
    for index in range(6):
        found = make({"index": index}, np.random.default_rng(0))
        expected = nearest(own[index], np.delete(own, index, axis=0), 2)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_errors(files, tmp_path):
    folder, *_ = files
    np.save(tmp_path / "flat.npy", np.zeros(3))
    np.save(tmp_path / "wide.npy", np.zeros((2, 5)))
    own = str(folder / "own.npy")
    for arguments, text in (
        ((str(tmp_path / "none.npy"),), "no .npy file"),
        ((str(tmp_path / "flat.npy"),), r"got float64 \(3,\). Legal: floats \[n, d\]"),
        ((own, str(tmp_path / "wide.npy")), "embeddings have 4 numbers, those of the database 5"),
        ((own, None, 6), "neighbours k=6: legal is 1 to 5"),
    ):
        with pytest.raises(UserError, match=text):
            Neighbours(*arguments)
    with pytest.raises(UserError, match="neighbours: example 6, but 6 embeddings"):
        Neighbours(own)({"index": 6}, np.random.default_rng(0))
