"""The files of a latent cache: whole or refused, and nothing in them executes."""

import concurrent.futures
import dataclasses
import json
import re

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.latent_cache import (
    LatentCache,
    Manifest,
    pack,
    read_manifest,
    unpack,
)
from ldm_jax.data.pipeline import load_examples, make_stream
from ldm_jax.data.shards import count_records, write_shard
from ldm_jax.data.tokenizers import WordTokenizer
from ldm_jax.data.transforms import choose_crop

SHAPE = (2, 3, 3, 4)
KEY = {"first_stage": "0" * 64, "num_examples": 7}
MANIFEST = Manifest(KEY, SHAPE, examples_per_shard=3, class_names=("a", "b"))
MOMENTS = np.random.default_rng(0).normal(size=(7, *SHAPE)).astype(np.float32)
LABELS = [{"class": index % 2, "text": f"ä\n{index}"} for index in range(7)]


@pytest.fixture
def folder(tmp_path):
    MANIFEST.write(tmp_path)
    for number in range(MANIFEST.num_shards):
        name, examples = MANIFEST.shard(number)
        write_shard(tmp_path / name, [pack(MOMENTS[i], LABELS[i]) for i in examples])
    return tmp_path


def test_examples_come_back_from_any_thread(folder):
    cache = LatentCache(str(folder))
    assert read_manifest(folder) == MANIFEST
    assert (len(cache), cache.class_names) == (7, ("a", "b"))
    assert repr(cache) == f"LatentCache(path={str(folder)!r})"
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for index, example in enumerate(pool.map(cache.__getitem__, list(range(7)))):
            assert example["moments"].dtype == np.float32
            np.testing.assert_array_equal(example.pop("moments"), MOMENTS[index])
            assert example == LABELS[index]


def test_shards_have_fixed_examples():
    assert MANIFEST.num_shards == 3
    assert MANIFEST.shard(0) == ("moments-00000-of-00003.array_record", range(3))
    assert MANIFEST.shard(2) == ("moments-00002-of-00003.array_record", range(6, 7))


def test_a_shard_that_is_cut_short_never_counts(tmp_path):
    path = tmp_path / "shard"

    def records():
        yield b"one"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(path, records())
    assert [file.name for file in tmp_path.iterdir()] == ["shard.part"]
    assert count_records(path) == 0
    write_shard(path, [b"one", b"two"])
    assert [file.name for file in tmp_path.iterdir()] == ["shard"]
    assert count_records(path) == 2
    path.write_bytes(path.read_bytes()[:-1000])
    assert count_records(path) == 0


def refused(folder):
    with pytest.raises(UserError) as error:
        LatentCache(str(folder))[0]
    return str(error.value)


def test_incomplete_and_damaged_caches_are_refused(folder):
    assert refused(folder / "none") == (
        f"{folder}/none/cache.json: not found; expected a folder that 'ldm-jax encode' wrote."
    )
    first, last = (folder / MANIFEST.shard(number)[0] for number in (0, 2))
    whole = first.read_bytes()
    write_shard(first, [pack(MOMENTS[0], {})] * 2)
    assert refused(folder) == (
        f"{folder}: a shard is damaged (6 records, expected 7). Legal: the command 'ldm-jax "
        "encode' that wrote it, again."
    )
    first.write_bytes(whole[:-100])
    assert f"{folder}: a shard is damaged (Corrupted" in refused(folder)
    for record in (b"", b"{}\n123", b"[]\n" + MOMENTS[0].tobytes(), pack(MOMENTS[0], {"x": 1})):
        write_shard(first, [record] * 3)
        assert f"{folder}: example 0 is damaged (" in refused(folder)
    spoilt = bytearray(whole)
    spoilt[whole.index(MOMENTS[0].tobytes()) + 8] ^= 255
    first.write_bytes(spoilt)
    assert f"{folder}: example 0 is damaged (" in refused(folder)
    last.unlink()
    assert refused(folder) == (
        f"{folder}: the cache is not complete, 2 of 3 shards are there. Legal: the command "
        "'ldm-jax encode' that began it, again."
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x: "{", "damaged"),
        (lambda x: "[]", "damaged"),
        (lambda x: json.dumps(x | {"format": 2}), "format 2. Legal: 1, by encoding into a new"),
        (lambda x: json.dumps(x | {"key": {}}), "damaged"),
        (lambda x: json.dumps(x | {"shape": [2, 0, 3, 4]}), "damaged (ValueError: a size below 1)"),
        (lambda x: json.dumps(x | {"strange": 1}), "damaged"),
    ],
)
def test_a_damaged_manifest(folder, change, text):
    path = folder / "cache.json"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(UserError, match=re.escape(f"{path}: ") + ".*" + re.escape(text)):
        read_manifest(folder)


def test_unpack_gives_back_what_pack_took():
    found = unpack(pack(MOMENTS[1], LABELS[1]), MANIFEST)
    np.testing.assert_array_equal(found.pop("moments"), MOMENTS[1])
    assert found == LABELS[1]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_conditioner_s_answers_lie_beside_the_moments(tmp_path, dtype):
    draw = np.random.default_rng(1)
    manifest = dataclasses.replace(
        MANIFEST,
        key={**KEY, "conditioning": dtype},
        conditioning={"context": (5, 3), "embedding": (4,)},
    )
    manifest.write(tmp_path)
    assert read_manifest(tmp_path) == manifest
    answers = [draw.normal(size=shape).astype(dtype) for shape in ((7, 5, 3), (7, 4))]
    for number in range(manifest.num_shards):
        name, examples = manifest.shard(number)
        rows = [pack(MOMENTS[i], LABELS[i], [x[i] for x in answers]) for i in examples]
        write_shard(tmp_path / name, rows)
    cache = LatentCache(str(tmp_path))
    for index in (0, 6):
        found = cache[index]
        assert found["text"] == LABELS[index]["text"]
        np.testing.assert_array_equal(found["moments"], MOMENTS[index])
        for route, expected in zip(("context", "embedding"), answers, strict=True):
            assert found[route].dtype == dtype
            np.testing.assert_array_equal(found[route], expected[index])
    with pytest.raises(ValueError, match="bytes, expected"):
        unpack(pack(MOMENTS[0], {}, [answers[0][0], answers[1][0], answers[1][0]]), manifest)


class Images:
    """The source of the cache above."""

    class_names = ("a", "b")

    def __len__(self):
        return 7

    def __getitem__(self, index):
        image = np.full((2, 2, 3), index, np.uint8)
        image[:, 0] += 100  # left is brighter, until it is mirrored
        return {"image": image, **LABELS[index]}


def test_a_stream_of_moments_is_that_of_the_images(folder):
    options = {"batch_size": 3, "image_size": 2, "seed": 5, "flip_probability": 0.4}
    options["tokenizer"] = WordTokenizer("shapes", 4)
    cached, plain = (make_stream(s, **options) for s in (LatentCache(str(folder)), Images()))
    assert cached.num_examples == plain.num_examples == 7
    mirrored = 0
    for _ in range(12):
        got, expected = next(cached), next(plain)
        assert list(got) == ["moments", "class", "tokens"]
        for name in ("class", "tokens"):
            np.testing.assert_array_equal(got[name], expected[name])
        for row, image in zip(got["moments"], expected["image"], strict=True):
            flip = int(image[0, 0, 0] < image[0, 1, 0])
            np.testing.assert_array_equal(row, MOMENTS[min(image[0, :, 0])][flip])
            mirrored += flip
    assert 5 < mirrored < 25
    state = json.loads(json.dumps(cached.get_state()))
    resumed = make_stream(LatentCache(str(folder)), **options)
    resumed.set_state(state)
    np.testing.assert_array_equal(next(resumed)["moments"], next(cached)["moments"])
    assert choose_crop(1, 1, np.random.default_rng(0), False, 1.0).flip
    with pytest.raises(UserError, match=r"Legal: tuples with moments"):
        make_stream(LatentCache(str(folder)), batch_size=3, image_size=2, keys=("class",))
    batch = load_examples(LatentCache(str(folder)), (4, 1), image_size=2)
    np.testing.assert_array_equal(batch["moments"], MOMENTS[[4, 1], 0])
    assert batch["text"] == [LABELS[4]["text"], LABELS[1]["text"]]
