import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data import DERIVED
from ldm_jax.data.neighbours import Neighbours
from ldm_jax.data.pipeline import load_examples, make_stream
from ldm_jax.data.split import split


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


def test_the_own_embedding_comes_first(files):
    folder, own, other = files
    make = Neighbours(str(folder / "own.npy"), str(folder / "other.npy"), k=3, own=True)
    assert make.shape(32) == ((4, 4), np.float32)
    found = make({"index": 5}, np.random.default_rng(0))
    np.testing.assert_allclose(found[0], own[5] / np.linalg.norm(own[5]), atol=1e-6)
    np.testing.assert_allclose(found[1:], nearest(own[5], other, 3), atol=1e-6)
    assert (found.shape, found.dtype) == ((4, 4), np.float32)


def test_an_example_is_not_its_own_neighbour_among_paired_rows(files):
    folder, _, other = files
    np.save(folder / "images.npy", other[:6])
    arguments = (str(folder / "own.npy"), str(folder / "images.npy"))
    alone, paired = Neighbours(*arguments, k=5), Neighbours(*arguments, k=5, paired=True)
    for index in range(6):
        assert index not in paired.nearest(index)
        expected = [j for j in Neighbours(*arguments, k=6).nearest(index) if j != index]
        assert paired.nearest(index).tolist() == expected
    assert any(index in alone.nearest(index) for index in range(6))


def test_neighbours_are_drawn_among_the_nearest(files):
    folder, own, other = files
    make = Neighbours(str(folder / "own.npy"), str(folder / "other.npy"), k=2, among=4)
    assert make.shape(32) == ((2, 4), np.float32)
    candidates = nearest(own[1], other, 4)
    seen = set()
    for seed in range(40):
        found = make({"index": 1}, np.random.default_rng(seed))
        again = make({"index": 1}, np.random.default_rng(seed))
        np.testing.assert_array_equal(found, again)
        gaps = np.abs(found[:, None] - candidates[None]).max(axis=2)
        assert gaps.min(axis=1).max() < 1e-6
        seen.add(tuple(gaps.argmin(axis=1).tolist()))
    assert seen == {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}


def test_a_search_is_remembered(files):
    folder, *_ = files
    make = Neighbours(str(folder / "own.npy"), k=2)
    first, asked = make.nearest(3).copy(), []
    make._search = lambda *arguments: asked.append(arguments)  # would be asked again
    np.testing.assert_array_equal(make.nearest(3), first)
    assert not asked


def test_the_embedding_of_the_example_itself(files):
    folder, own, _ = files
    make = DERIVED["image_embedding"](str(folder / "own.npy"))
    assert make.shape(32) == ((1, 4), np.float32)
    found = make({"index": 2}, np.random.default_rng(0))
    np.testing.assert_allclose(found, own[2:3] / np.linalg.norm(own[2]), atol=1e-6)
    with pytest.raises(UserError, match="image_embedding: example 6, but 6 embeddings"):
        make({"index": 6}, np.random.default_rng(0))


class Numbered:
    """Images that tell their number."""

    class_names = None

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"image": np.full((4, 4, 3), index, np.uint8)}


def test_what_is_held_out_keeps_its_row(files):
    folder, own, _ = files
    unit = own / np.linalg.norm(own, axis=1, keepdims=True)
    derive = {"image_embedding": DERIVED["image_embedding"](str(folder / "own.npy"))}
    for part in split(Numbered(), 2):
        stream = make_stream(
            part, batch_size=2, image_size=4, num_threads=0, prefetch=0, derive=derive
        )
        for _ in range(3):
            batch = next(stream)
            numbers = batch["image"][:, 0, 0, 0]
            np.testing.assert_allclose(batch["image_embedding"][:, 0], unit[numbers], atol=1e-6)
        fixed = load_examples(part, range(2), image_size=4, derive=derive)
        numbers = fixed["image"][:, 0, 0, 0]
        np.testing.assert_allclose(fixed["image_embedding"][:, 0], unit[numbers], atol=1e-6)


def test_errors(files, tmp_path):
    folder, *_ = files
    np.save(tmp_path / "flat.npy", np.zeros(3))
    np.save(tmp_path / "wide.npy", np.ones((2, 5)))
    own, other = str(folder / "own.npy"), str(folder / "other.npy")
    for arguments, text in (
        ((str(tmp_path / "none.npy"),), "no .npy file"),
        ((str(tmp_path / "flat.npy"),), r"got float64 \(3,\). Legal: floats \[n, d\]"),
        ((own, str(tmp_path / "wide.npy")), "embeddings have 4 numbers, those of the database 5"),
        ((own, None, 6), "neighbours k=6: legal is 1 to 5"),
        ((own, None, 3, 2), "neighbours among=2: legal is k=3 to 5"),
        ((own, None, 3, 6), "neighbours among=6: legal is k=3 to 5"),
        ((own, other, 3, None, False, True), "paired=True: 6 embeddings, 9 in the database"),
        ((own, None, 3, None, False, False, "tree"), "got 'tree'.* Legal: exact, faiss"),
    ):
        with pytest.raises(UserError, match=text):
            Neighbours(*arguments)
    with pytest.raises(UserError, match="neighbours: example 6, but 6 embeddings"):
        Neighbours(own)({"index": 6}, np.random.default_rng(0))
