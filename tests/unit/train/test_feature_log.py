"""Rows on disk: what is missing, what is whole, and what is stale."""

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.train.feature_log import KEY, FeatureLog, digest

SHAPES = {"features": (3,), "score": ()}
KEYED = {"seed": 1, "extractor": "pixels"}


def rows(numbers):
    """Rows that tell their image's number."""
    numbers = np.asarray(numbers, np.float32)
    return {"features": numbers[:, None] + np.zeros((1, 3)), "score": -numbers}


def filled(folder, *ranges, made_by="1"):
    log = FeatureLog(folder, KEYED, SHAPES)
    for numbers in ranges:
        log.append(np.asarray(numbers), rows(numbers), made_by)
    return log


def test_rows_come_back_in_any_order_and_by_any_batches(tmp_path):
    log = filled(tmp_path / "a", [4, 5, 6], [0, 1, 9], [2, 3, 7, 8])
    assert log.has(10).all()
    assert not log.has(12)[10:].any()
    for count in (1, 5, 10):
        found = log.read(count, "features")
        np.testing.assert_array_equal(found, rows(np.arange(count))["features"])
        assert found.dtype == np.float32
        np.testing.assert_array_equal(log.read(count, "score"), -np.arange(count))


def test_what_was_killed_goes_on(tmp_path):
    filled(tmp_path, range(4))
    (tmp_path / "rows-000000004-000000008.npz.1234.part").write_bytes(b"torn")
    log = FeatureLog(tmp_path, KEYED, SHAPES)
    np.testing.assert_array_equal(np.flatnonzero(~log.has(8)), [4, 5, 6, 7])
    with pytest.raises(UserError) as caught:
        log.read(8, "score")
    assert str(caught.value) == (
        f"{tmp_path}: 4 of 8 rows are missing, the first of them number 4. Legal: the same command "
        "again."
    )


@pytest.mark.parametrize("damage", ["cut", "flipped", "other shape", "other names"])
def test_a_damaged_file_counts_as_missing(tmp_path, damage):
    filled(tmp_path, range(4), range(4, 8))
    path = tmp_path / "rows-000000000-000000004.npz"
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-30])
    elif damage == "flipped":
        middle = whole.index(b"\x00\x00\x40\x40")  # 3.0, of the last image
        path.write_bytes(whole[:middle] + b"\x00\x00\x40\x41" + whole[middle + 4 :])
    elif damage == "other shape":
        np.savez(path, features=np.zeros((4, 2)), score=np.zeros(4), made_by="1")
    else:
        np.savez(path, features=np.zeros((4, 3)), made_by="1")
    log = FeatureLog(tmp_path, KEYED, SHAPES)
    np.testing.assert_array_equal(np.flatnonzero(~log.has(8)), range(4))
    log.append(np.arange(4), rows(range(4)), "2")
    np.testing.assert_array_equal(log.read(8, "score"), -np.arange(8))
    assert log.made_by(8) == ["1", "2"]
    assert log.made_by(4) == ["2"]


@pytest.mark.parametrize("content", ['{"seed": 2}', "{"])
def test_rows_of_something_else_are_refused(tmp_path, content):
    filled(tmp_path, range(2))
    (tmp_path / KEY).write_text(content)
    with pytest.raises(UserError) as caught:
        FeatureLog(tmp_path, KEYED, SHAPES)
    assert str(caught.value) == (
        f"{tmp_path / KEY}: stale, it is not the key of these features, or damaged. Legal: remove "
        "this folder, or give another."
    )


def test_a_name_follows_from_all_of_a_key_and_from_nothing_else():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    names = {digest(key) for key in ({"a": 1}, {"a": 2}, {"b": 1}, {"a": {"a": 1}})}
    assert len(names) == 4
    assert all(len(name) == 16 for name in names)
