"""Shards of records: complete, resumable, without what is broken, and equal to their source."""

import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.core.lock import folder_lock
from ldm_jax.data.ahead import map_ahead
from ldm_jax.data.folder import Folder
from ldm_jax.data.image_files import Storage
from ldm_jax.data.pipeline import make_stream
from ldm_jax.data.prepare import prepare
from ldm_jax.data.record_format import Dataset, pack, read_dataset, split_record, unpack
from ldm_jax.data.records import Records
from ldm_jax.data.shapes import Shapes
from ldm_jax.data.shards import write_shard

SIZE = (9, 6)


@pytest.fixture
def folder(tmp_path):
    """Ten images with captions, classes, boxes, maps and masks, in several formats."""
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for k in range(10):
        image = Image.fromarray(rng.integers(0, 256, (*SIZE, 4 if k % 2 else 3), np.uint8))
        name = f"{k}.png" if k % 2 else f"{k}.jpg"
        image.save(root / name)
        Image.fromarray(rng.integers(0, 256, SIZE, np.uint8)).save(root / f"{k}.segmentation.png")
        Image.fromarray(rng.integers(0, 2, SIZE, np.uint8) * 255).save(root / f"{k}.mask.png")
        boxes = [[0, 0, 1 / 3, 0.7, k]] * (k % 3)
        rows.append({"file_name": name, "text": f"ä {k}\n", "kind": f"c{k % 2}", "boxes": boxes})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def open_folder(folder, **arguments):
    return Folder(str(folder), class_column="kind", **arguments)


def assert_same(example, other):
    assert set(example) == set(other)
    for name, value in example.items():
        np.testing.assert_array_equal(other[name], value, err_msg=name)
        assert np.asarray(other[name]).dtype == np.asarray(value).dtype, name


def test_records_are_the_examples_of_the_source(folder, tmp_path):
    source, out = open_folder(folder), tmp_path / "out"
    reports = []
    done = prepare(
        source, out, examples_per_shard=4, num_threads=3, progress=lambda *a: reports.append(a)
    )
    assert (done.written, done.examples, done.left_out) == (10, 10, 0)
    assert (done.shards, done.shards_before) == (3, 0)
    shards = [f"examples-{k:05d}-of-00003.array_record" for k in range(3)]
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["dataset.json", "lock", "quarantine.jsonl", *shards]
    )
    assert done.num_bytes == sum((out / name).stat().st_size for name in shards)
    assert (out / "quarantine.jsonl").read_text() == ""
    assert reports == [(0, 10)] + [(1, 10)] * 10
    records = Records(str(out))
    assert (len(records), records.class_names) == (10, ("c0", "c1"))
    for k in range(10):
        assert_same(source[k], records[k])
        assert records.image_bytes(k) == source.image_bytes(k)
    assert records.name(5) == f"{out / shards[1]}:1"
    assert repr(records) == repr(Records(str(out)))


def test_batches_of_records_are_those_of_the_folder(folder, tmp_path):
    prepare(open_folder(folder), tmp_path / "out", examples_per_shard=3)

    def batches(source):
        keys = ("image", "class", "segmentation", "boxes")
        options = {"random_crop": True, "flip_probability": 0.5, "keys": keys, "seed": 3}
        stream = make_stream(source, batch_size=4, image_size=8, num_threads=2, **options)
        return [next(stream) for _ in range(6)]

    for one, other in zip(
        batches(open_folder(folder)), batches(Records(str(tmp_path / "out"))), strict=True
    ):
        assert_same(one, other)


def test_records_of_records_are_the_same(folder, tmp_path):
    prepare(open_folder(folder), tmp_path / "a")
    prepare(Records(str(tmp_path / "a")), tmp_path / "b", examples_per_shard=4)
    a, b = Records(str(tmp_path / "a")), Records(str(tmp_path / "b"))
    for k in range(10):
        assert_same(a[k], b[k])
    assert a.fingerprint() != b.fingerprint()


def test_a_source_without_files(tmp_path):
    source = Shapes(image_size=16, num_examples=5)
    prepare(source, tmp_path / "out")
    records = Records(str(tmp_path / "out"))
    assert records.class_names == source.class_names
    for k in range(5):
        assert_same(source[k], records[k])


def test_images_are_resized_and_maps_with_them(folder, tmp_path):
    prepare(open_folder(folder), tmp_path / "out", Storage(max_side=4, image_format="webp"))
    example = Records(str(tmp_path / "out"))[1]
    assert example["image"].shape[:2] == (6, 4)
    assert example["mask"].shape == example["segmentation"].shape == (6, 4)
    np.testing.assert_array_equal(example["boxes"], open_folder(folder)[1]["boxes"])


def test_a_shard_without_any_record(folder, tmp_path):
    (folder / "4.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    for _ in range(2):
        done = prepare(open_folder(folder, max_bad_fraction=1.0), out, examples_per_shard=1)
        assert (done.examples, done.left_out) == (9, 1)
    assert done.shards_before == 10
    records = Records(str(out))
    assert [records[k]["text"] for k in (3, 4)] == ["ä 3\n", "ä 5\n"]
    assert records.name(4) == f"{out}/examples-00005-of-00010.array_record:0"


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_what_is_broken_is_left_out_and_listed(folder, tmp_path):
    for name in ("1.png", "7.png"):
        (folder / name).write_bytes(b"no image")
    (folder / "4.mask.png").unlink()
    out = tmp_path / "out"
    done = prepare(open_folder(folder, max_bad_fraction=1.0), out, examples_per_shard=4)
    assert (done.written, done.examples, done.left_out) == (7, 7, 3)
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    why = "UnidentifiedImageError: cannot identify image file"
    assert [(x["example"], x["path"]) for x in lines] == [
        (1, str(folder / "1.png")),
        (4, str(folder / "4.jpg")),
        (7, str(folder / "7.png")),
    ]
    assert lines[0]["reason"] == why
    assert lines[1]["reason"] == "4.mask.png: missing or no file"
    texts = [example["text"] for example in map(Records(str(out)).__getitem__, range(7))]
    assert texts == [f"ä {k}\n" for k in (0, 2, 3, 5, 6, 8, 9)]
    assert read_dataset(out).counts == (3, 2, 2)


def test_a_killed_call_goes_on_and_ends_with_the_same_bytes(folder, tmp_path):
    for name in ("1.png", "7.png"):
        (folder / name).write_bytes(b"no image")
    whole, out = tmp_path / "whole", tmp_path / "out"

    def run(target, **arguments):
        source = open_folder(folder, max_bad_fraction=1.0)
        return prepare(source, target, examples_per_shard=3, **arguments)

    run(whole)
    expected = contents(whole)

    class Killed(Exception):
        pass

    def kill(count, total, seen=[]):  # noqa: B006
        seen.append(count)
        if sum(seen) == 5:
            raise Killed

    with pytest.raises(Killed):
        run(out, num_threads=2, progress=kill)
    first = "examples-00000-of-00004.array_record"
    assert {first, "examples-00001-of-00004.array_record.part"} <= set(contents(out))
    with pytest.raises(UserError, match=r"not complete, 1 of 4 shards are there. Legal: the comm"):
        Records(str(out))
    stamp = (out / first).stat().st_mtime_ns
    reports = []
    done = run(out, progress=lambda *a: reports.append(a))
    assert reports[0] == (3, 10)
    assert (done.written, done.shards, done.shards_before) == (6, 3, 1)
    assert (out / first).stat().st_mtime_ns == stamp
    assert contents(out) == expected


@pytest.mark.parametrize("number", [0, 2])
def test_a_shard_that_is_lost_or_cut_is_written_again(folder, tmp_path, number):
    (folder / "1.png").write_bytes(b"no image")
    out = tmp_path / "out"

    def run():
        source = open_folder(folder, max_bad_fraction=1.0)
        return prepare(source, out, examples_per_shard=3)

    run()
    expected = contents(out)
    shard = out / f"examples-{number:05d}-of-00004.array_record"
    for content in (None, expected[shard.name][:-500], b""):
        shard.unlink()
        if content is not None:
            shard.write_bytes(content)
        with (out / "quarantine.jsonl").open("a") as file:
            file.write('{"example": 5, "pa')  # a line cut short
        assert run().shards == 1
        assert contents(out) == expected
    # A list that is lost says nothing of what is missing from its shard.
    (out / "quarantine.jsonl").unlink()
    assert run().shards == 1
    assert contents(out) == expected


def refused(source, out, *arguments, **settings):
    with pytest.raises(UserError) as error:
        prepare(source, out, *arguments, **settings)
    return str(error.value)


def test_a_folder_of_something_else_is_refused(folder, tmp_path):
    source, out = open_folder(folder), tmp_path / "out"
    assert refused(source, folder) == (
        f"--out={folder}: holds 0.jpg and no dataset.json. Legal: a new folder."
    )
    prepare(source, out)
    legal = "Legal: the same value, or a new folder."
    assert refused(source, out, Storage(quality=90)) == (
        f"--out={out}: holds data whose quality is 95, not 90. {legal}"
    )
    assert refused(source, out, examples_per_shard=5) == (
        f"--out={out}: holds data whose examples_per_shard is 2048, not 5. {legal}"
    )
    (folder / "metadata.jsonl").unlink()
    assert f"--out={out}: holds data whose content is '" in refused(Folder(str(folder)), out)
    assert refused(source, out, num_threads=0) == "--num_threads: got 0. Legal: 1 or more."
    with folder_lock(out, "x", "y"):
        assert refused(source, out) == (
            f"--out={out}: another run is preparing there. Legal: wait until it ends, or another "
            "--out."
        )


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no")
    message = refused(Folder(str(tmp_path), max_bad_fraction=1.0), tmp_path / "out")
    assert message.startswith(f"--out={tmp_path}/out: none of the 1 examples can be read, such as")


def test_records_execute_nothing_and_damage_is_seen():
    example = {"text": "a", "class": 3, "boxes": np.full((1, 5), -1, np.float32)}
    files = {"image": b"12345", "mask": b"678"}
    record = pack(example, files)
    labels, found = split_record(record)
    assert found == files
    assert_same(example, labels)
    header = json.dumps({"files": {"image": 5, "code": 1}}).encode()
    for damaged in (
        b"",
        record[:-1],
        record + b"x",
        b"[]\n",
        header + b"\n123456",
        json.dumps({"files": {"image": 5}, "pickle": "x"}).encode() + b"\n12345",
        json.dumps({"files": {"image": 5}, "class": "x"}).encode() + b"\n12345",
        json.dumps({"files": {"mask": 5}}).encode() + b"\n12345",
    ):
        with pytest.raises(ValueError, match=r"damaged record \("):
            unpack(damaged)


def test_a_record_that_is_damaged_later_is_quarantined(folder, tmp_path):
    out = tmp_path / "out"
    prepare(open_folder(folder), out, examples_per_shard=2)
    name, _ = read_dataset(out).shard(1)
    good = open_folder(folder)
    files = {"image": good.image_bytes(3)}
    write_shard(out / name, [b"rubbish", pack(good[3], files)])
    records = Records(str(out), max_bad_fraction=0.1)
    assert records[2]["text"] == "ä 3\n"
    assert list(records.quarantine) == [f"{out / name}:0"]
    assert records.quarantine[f"{out / name}:0"].startswith("damaged record (JSONDecodeError")
    with pytest.raises(UserError, match=r"1 of 10 images \(10.0%\) in .*max_bad_fraction=0.01"):
        Records(str(out))[2]
    write_shard(out / name, [b"rubbish"])
    with pytest.raises(UserError, match=r"a shard is damaged \(9 records, expected 10\). Legal"):
        Records(str(out))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda x: "{", "damaged"),
        (lambda x: json.dumps(x | {"format": 2}), "format 2. Legal: 1, by preparing a new folder"),
        (lambda x: json.dumps(x | {"counts": [1]}), r"damaged \(ValueError: 1 counts of 2 shard"),
        (lambda x: json.dumps(x | {"examples_per_shard": 0}), "damaged"),
        (lambda x: json.dumps(x | {"strange": 1}), "damaged"),
    ],
)
def test_a_damaged_description(tmp_path, change, text):
    Dataset({}, 4, 3, ("a",), (3, 1)).write(tmp_path)
    assert read_dataset(tmp_path) == Dataset({}, 4, 3, ("a",), (3, 1))
    path = tmp_path / "dataset.json"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(UserError, match=rf"dataset.json: .*{text}"):
        read_dataset(tmp_path)


def test_errors_about_the_path_of_records(tmp_path):
    with pytest.raises(UserError, match=r"path: not set. Expected a folder of 'ldm-jax data prep"):
        Records()
    with pytest.raises(UserError, match=r"dataset.json: not found; expected a folder that 'ldm-ja"):
        Records(str(tmp_path))


def test_work_ahead_is_ordered_and_bounded():
    started, lock = [], threading.Lock()

    def work(x):
        with lock:
            started.append(x)
        time.sleep(0.001 * (x % 3))
        return -x

    results = map_ahead(work, range(100), num_threads=2)
    assert [next(results) for _ in range(5)] == [0, -1, -2, -3, -4]
    assert len(started) <= 9
    assert list(results) == [-x for x in range(5, 100)]

    def fail(x):
        if x == 3:
            raise KeyError(x)
        return x

    with pytest.raises(KeyError, match="3"):
        list(map_ahead(fail, range(10), num_threads=4))
