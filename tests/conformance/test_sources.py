"""Every source in the registry keeps the promises of `ldm_jax.data.source.Source`."""

import concurrent.futures
import inspect
import io
import json
import os
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.config import build
from ldm_jax.data import SOURCES, TOKENIZERS
from ldm_jax.data.pipeline import make_stream
from ldm_jax.data.prepare import prepare
from ldm_jax.data.shapes import Shapes
from ldm_jax.data.source import Source

ROOT = pathlib.Path(__file__).parents[2]
DATA = pathlib.Path(os.environ.get("LDM_JAX_TEST_DATA", ROOT.parent / "shared" / "data"))

SHAPES = Shapes(image_size=16, num_examples=40)

# A new source needs a line here only if it cannot be built from its defaults.
ARGUMENTS = {
    "shapes": {"image_size": 16, "num_examples": 40},
    "folder": {"path": str(DATA / "emoji"), "class_column": "category"},
    "tfds": {"dataset": "fashion_mnist", "path": str(DATA / "tfds"), "split": "test"},
}


def write_tar(folder):
    """Writes shapes as members of a tar file, and returns arguments of `WebDataset`."""
    with tarfile.open(folder / "a.tar", "w") as archive:
        for k, example in enumerate(map(SHAPES.__getitem__, range(len(SHAPES)))):
            image = io.BytesIO()
            Image.fromarray(example["image"]).save(image, "PNG")
            members = {"png": image.getvalue(), "txt": example["text"].encode()}
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{k:04d}.{ending}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return {"path": str(folder)}


def write_records(folder):
    """Prepares shapes, and returns arguments of `Records`."""
    prepare(SHAPES, folder, examples_per_shard=16)
    return {"path": str(folder)}


@pytest.fixture(scope="module", autouse=True)
def written(tmp_path_factory):
    """What can be written here is written here."""
    for name, write in (("webdataset", write_tar), ("records", write_records)):
        ARGUMENTS[name] = write(tmp_path_factory.mktemp(name))


@pytest.fixture(scope="module", params=SOURCES)
def name(request, written):
    path = ARGUMENTS.get(request.param, {}).get("path")
    if path is not None and not pathlib.Path(path).is_dir():
        pytest.skip(f"needs {path}; set LDM_JAX_TEST_DATA to a folder with tfds/ and emoji/")
    return request.param


@pytest.fixture(scope="module")
def source(name):
    return build("data.source", SOURCES, {"name": name, **ARGUMENTS.get(name, {})})


def test_examples_are_as_promised(source):
    assert isinstance(source, Source)
    assert len(source) > 0
    keys = set(source[0])
    for index in range(0, len(source), max(len(source) // 20, 1)):
        example = source[index]
        assert set(example) == keys
        image = example["image"]
        assert image.dtype == np.uint8
        assert image.ndim == 3
        assert image.shape[2] in (1, 2, 3, 4)
        assert isinstance(example.get("text", ""), str)
        if "class" in example and source.class_names is not None:
            assert 0 <= example["class"] < len(source.class_names)
        for key in ("segmentation", "mask"):
            if key in example:
                assert example[key].shape == image.shape[:2]
                assert example[key].dtype == np.uint8


def test_a_source_is_deterministic_and_safe_under_threads(source, name):
    again = build("data.source", SOURCES, {"name": name, **ARGUMENTS.get(name, {})})
    assert repr(again) == repr(source)
    assert "0x" not in repr(source)
    indices = [i % min(len(source), 16) for i in range(64)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(again.__getitem__, indices))
    for index, example in zip(indices, threaded, strict=True):
        for key, value in source[index].items():
            np.testing.assert_array_equal(example[key], value)


def test_a_stream_of_any_source_resumes_and_splits(source):
    options = {"batch_size": 8, "image_size": 16, "seed": 5, "random_crop": True}
    stream = make_stream(source, **options)
    batches = [next(stream) for _ in range(4)]
    assert batches[0]["image"].shape == (8, 16, 16, 3)
    half = make_stream(source, **options, process_index=1, process_count=2)
    next(half)
    half.set_state(json.loads(json.dumps(half.get_state())))
    for key, value in next(half).items():
        np.testing.assert_array_equal(value, batches[1][key][4:])


@pytest.mark.parametrize("registry", [SOURCES, TOKENIZERS], ids=["sources", "tokenizers"])
def test_every_argument_has_a_plain_name_and_the_class_a_docstring(registry):
    for entry in registry.values():
        assert inspect.getdoc(entry)
        assert "name" not in inspect.signature(entry).parameters
