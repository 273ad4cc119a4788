import json
import os
import pathlib

import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.tfds_source import Tfds, _as_text

ROOT = pathlib.Path(__file__).parents[3]
DATA = pathlib.Path(os.environ.get("LDM_JAX_TEST_DATA", ROOT.parent / "shared" / "data")) / "tfds"

needs_data = pytest.mark.skipif(
    not (DATA / "fashion_mnist").is_dir(),
    reason=f"needs Fashion-MNIST as ArrayRecord in {DATA}; set LDM_JAX_TEST_DATA to its parent",
)


@pytest.fixture
def prepared(tmp_path):
    """Two versions of a data set that has an index and no records."""
    for version in ("1.9.0", "1.10.0"):
        folder = tmp_path / "toys" / version
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text(json.dumps({"name": "toys"}))
    return tmp_path


@needs_data
def test_fashion_mnist():
    source = Tfds("fashion_mnist", str(DATA), split="test")
    assert len(source) == 10_000
    example = source[0]
    assert example["image"].shape == (28, 28, 1)
    assert example["image"].dtype.name == "uint8"
    assert source.class_names is not None
    assert len(source.class_names) == 10
    assert 0 <= example["class"] < 10
    assert len(Tfds("fashion_mnist:3.0.1", str(DATA), split="train[:10%]")) == 6_000


@needs_data
def test_a_wrong_split_names_the_legal_ones():
    with pytest.raises(UserError, match=r"got 'tset' for .*3.0.1. Legal: train, test, and slices"):
        Tfds("fashion_mnist", str(DATA), split="tset")
    with pytest.raises(UserError, match=r"split: got 'train\[:x\]' for .*3.0.1"):
        Tfds("fashion_mnist", str(DATA), split="train[:x]")


@needs_data
def test_captions_of_classes():
    names = [[f"name {label}"] for label in range(10)]
    source = Tfds("fashion_mnist", str(DATA), "test", {"names": names, "templates": ["a {}"]})
    for index in (0, 1, 2):
        assert source[index]["text"] == f"a name {source[index]['class']}"
    assert "captions of classes" in repr(source)
    assert "text" not in Tfds("fashion_mnist", str(DATA), "test")[0]
    with pytest.raises(
        UserError, match=r"names of 9 classes. Legal: of 10, in this order: T-shirt"
    ):
        Tfds("fashion_mnist", str(DATA), "test", {"names": names[:9]})
    with pytest.raises(UserError, match=r"data.source.captions: unknown field 'name'"):
        Tfds("fashion_mnist", str(DATA), "test", {"name": names})


def test_a_missing_folder():
    with pytest.raises(UserError, match=r"no folder '/no/such'.*--config.data.source.path=DIR"):
        Tfds("toys", "/no/such")


def test_a_missing_data_set_or_version_names_what_is_there(prepared):
    there = r"Prepared data sets in .*: toys:1.10.0, toys:1.9.0"
    with pytest.raises(UserError, match=rf"looked for .*/boys/\*/dataset_info.json. {there}"):
        Tfds("boys", str(prepared))
    with pytest.raises(UserError, match=rf"looked for .*/toys/2.0.0/dataset_info.json. {there}"):
        Tfds("toys:2.0.0", str(prepared))
    with pytest.raises(UserError, match=r"Prepared data sets in .*: none"):
        Tfds("boys", str(prepared / "toys" / "1.9.0"))


def test_captions():
    assert _as_text(b"caf\xc3\xa9") == "café"
    assert _as_text([b"one", b"two"]) == "one"
    assert _as_text({"id": [1], "text": [b"a dog"]}) == "a dog"
    assert _as_text([]) == ""
