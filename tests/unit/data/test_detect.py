"""Which source a path means."""

import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.data.detect import source_settings


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A place with data of every kind, and the working directory."""
    for name in ("images/cat", "named", "tars", "records", "nothing"):
        (tmp_path / name).mkdir(parents=True)
    Image.new("L", (2, 2)).save(tmp_path / "images" / "cat" / "a.png")
    for name in ("named/metadata.jsonl", "named/a.tar", "tars/a.tar", "records/dataset.json"):
        (tmp_path / name).write_text("{}")
    sets = ("tfds/mnist/3.0.1", "tfds/mnist/3.0.0", "one/huge/config/1.0.0")
    for name in (*sets, "many/a/1.0.0", "many/b/1.0.0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "dataset_info.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("images", {"name": "folder", "path": "images"}),
        ("nothing", {"name": "folder", "path": "nothing"}),  # which says what is missing
        ("named", {"name": "folder", "path": "named"}),
        ("named/metadata.jsonl", {"name": "folder", "path": "named"}),
        ("tars", {"name": "webdataset", "path": "tars"}),
        ("tars/a.tar", {"name": "webdataset", "path": "tars/a.tar"}),
        ("tars/*.tar", {"name": "webdataset", "path": "tars/*.tar"}),
        ("tars/{0..3}.tar", {"name": "webdataset", "path": "tars/{0..3}.tar"}),
        ("records", {"name": "records", "path": "records"}),
    ],
)
def test_paths(root, path, expected):
    assert source_settings(path) == expected


@pytest.mark.parametrize(
    ("path", "dataset", "folder"),
    [
        ("tfds/mnist/3.0.0", "mnist:3.0.0", "tfds"),
        ("tfds/mnist", "mnist", "tfds"),
        ("tfds", "mnist", "tfds"),
        ("one", "config", "one/huge"),
        ("one/huge/config/1.0.0", "config:1.0.0", "one/huge"),
    ],
)
def test_tfds(root, path, dataset, folder):
    expected = {"name": "tfds", "dataset": dataset, "path": str(root / folder)}
    assert source_settings(path) == {**expected, "split": "train"}
    assert source_settings(path, "test[:9]") == {**expected, "split": "test[:9]"}


@pytest.mark.parametrize(
    ("path", "split", "message"),
    [
        ("gone", None, "PATH=gone: no such folder. Legal: a folder of images, a folder or pattern"),
        ("records/dataset.json", None, "is a file of no known kind. Legal: a folder of images"),
        ("images", "train", "--split=train: images is no TFDS data set. Legal: without --split."),
        ("many", None, "PATH=many: holds several TFDS data sets. Legal: many/a, many/b."),
    ],
)
def test_mistakes(root, path, split, message):
    with pytest.raises(UserError) as error:
        source_settings(path, split)
    assert message in str(error.value)
