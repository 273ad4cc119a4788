"""Images in tar files: found by header, read at random, set aside when broken."""

import concurrent.futures
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.data.tar_index import find_tars, index_tar
from ldm_jax.data.webdataset import WebDataset

MASK = np.eye(4, 6, dtype=np.uint8) * 255


def png(level, size=(6, 4)):
    file = io.BytesIO()
    Image.new("L", size, level).save(file, "PNG")
    return file.getvalue()


def as_png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """Two shards of three samples with caption, class, map and mask."""
    for shard in range(2):
        members = []
        for k in range(3):
            level = 10 * (3 * shard + k)
            members += [
                (f"part/{k:03d}.png", png(level)),
                (f"part/{k:03d}.txt", f"Größe {level}\n".encode()),
                (f"part/{k:03d}.cls", b"7\n"),
                (f"part/{k:03d}.seg.png", png(level + 1)),
                (f"part/{k:03d}.mask.png", as_png(MASK)),
            ]
        write_tar(tmp_path / f"train-{shard:02d}.tar", members)
    return tmp_path


def test_samples_in_order_of_files_and_members(shards):
    source = WebDataset(str(shards))
    assert len(source) == 6
    assert source.class_names is None
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        examples = list(pool.map(source.__getitem__, list(range(6)) * 4))
    for k, example in enumerate(examples):
        level = 10 * (k % 6)
        assert list(example) == ["image", "text", "class", "segmentation", "mask"]
        assert example["image"].shape == (4, 6, 1)
        assert (example["image"] == level).all()
        assert (example["segmentation"] == level + 1).all()
        np.testing.assert_array_equal(example["mask"], MASK // 255)
        assert (example["text"], example["class"]) == (f"Größe {level}", 7)
    assert source.name(4) == f"{shards / 'train-01.tar'}/part/001"
    assert source.image_bytes(2) == png(20)
    assert repr(source) == repr(WebDataset(str(shards)))


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("train-*.tar", 6), ("train-{00..01}.tar", 6), ("train-{01..05}.tar", 3), ("train-01.tar", 3)],
)
def test_patterns(shards, pattern, count):
    assert len(WebDataset(str(shards / pattern))) == count


def test_json_serves_for_what_has_no_member(tmp_path):
    fields = [
        {"caption": "a", "label": 3, "boxes": [[0, 0, 1, 1, 2]]},
        {"caption": None, "label": 0},
    ]
    members = [(f"{k}.json", json.dumps(fields[k]).encode()) for k in range(2)]
    write_tar(tmp_path / "a.tar", [*members, ("0.png", png(1)), ("1.jpg", png(2))])
    source = WebDataset(str(tmp_path), text_column="caption", class_column="label", num_boxes=2)
    assert [(source[k]["text"], source[k]["class"]) for k in (0, 1)] == [("a", 3), ("", 0)]
    np.testing.assert_array_equal(source[0]["boxes"], [[0, 0, 1, 1, 2], [-1] * 5])
    np.testing.assert_array_equal(source[1]["boxes"], np.full((2, 5), -1))
    assert list(WebDataset(str(tmp_path))[0]) == ["image"]


def test_no_caption_is_overlooked(tmp_path):
    """The first json has none, the second is broken: the others have captions all the same."""
    contents = [b'{"other": 1}', b"{bad", b'{"text": "hello"}', b'{"text": null}']
    for k, content in enumerate(contents):
        write_tar(tmp_path / f"{k}.tar", [("a.png", png(k)), ("a.json", content)])
    source = WebDataset(str(tmp_path), max_bad_fraction=0.3)
    assert [source[k]["text"] for k in (0, 2, 3)] == ["", "hello", ""]
    assert source.read(1) is None
    assert source.quarantine[f"{tmp_path}/1.tar/a"].startswith("JSONDecodeError: Expecting prop")
    (tmp_path / "2.tar").unlink()
    (tmp_path / "3.tar").unlink()
    assert list(WebDataset(str(tmp_path))[0]) == ["image"]


@pytest.mark.parametrize("content", [b"{bad", b"[1]", b"\xff", b"1" * 5000, b"[" * 100_000])
def test_a_first_json_that_is_broken_is_quarantined(tmp_path, content):
    members = [("a.png", png(1)), ("a.json", content)]
    write_tar(tmp_path / "a.tar", [*members, ("b.png", png(2)), ("b.json", b'{"text": "b"}')])
    source = WebDataset(str(tmp_path), max_bad_fraction=0.5)
    assert [source[k]["text"] for k in (0, 1)] == ["b", "b"]
    assert list(source.quarantine) == [f"{tmp_path}/a.tar/a"]


def test_very_long_names_are_cut_in_messages(tmp_path):
    long = "x" * 5000
    write_tar(tmp_path / "a.tar", [("a.png", png(1)), (f"a.{long}", b""), (f"{long}.txt", b"a")])
    with pytest.raises(
        UserError, match=r"x…x+ \(no image among its members .txt\). Legal"
    ) as error:
        WebDataset(str(tmp_path))[1]
    assert len(str(error.value)) < 1000
    write_tar(tmp_path / "a.tar", [(f"a.{long}", b"")])
    assert len(refused(tmp_path)) < 600


def test_broken_samples_are_set_aside(tmp_path):
    def sample(key, **members):
        return [(f"{key}.{name}", content) for name, content in members.items()]

    members = [
        *sample("good", png=png(5), cls=b"1", json=b"{}"),
        *sample("broken", png=png(5)[:40], cls=b"1"),
        *sample("named", png=png(5), cls=b"cat"),
        *sample("lacking", png=png(5)),
        *sample("text", txt=b"no image"),
        *sample("small", png=png(5), cls=b"1", **{"mask.png": png(5, (2, 2))}),
        *sample("listed", png=png(5), cls=b"1", json=b"[]"),
    ]
    write_tar(tmp_path / "a.tar", members)
    source = WebDataset(str(tmp_path), max_bad_fraction=1.0)
    with pytest.raises(UserError, match=r"none of the images in .* can be read"):
        source[0]  # a mask is missing everywhere but in one, where it has another size
    reasons = {name.rpartition("/")[2]: why for name, why in source.quarantine.items()}
    assert reasons["good"] == "no mask among its members .png, .cls, .json"
    assert reasons["broken"] == "UnidentifiedImageError: cannot identify image file"
    assert reasons["named"] == "class 'cat', expected a whole number"
    assert reasons["lacking"] == "no class among its members .png"
    assert reasons["text"] == "no image among its members .txt"
    assert reasons["small"] == "mask.png: 2 × 2 pixels, but the image has 6 × 4"
    assert reasons["listed"] == "its json is no object"


def test_a_neighbour_stands_in(tmp_path):
    write_tar(tmp_path / "a.tar", [("0.png", png(5)), ("1.png", b"no"), ("2.png", png(9))])
    source = WebDataset(str(tmp_path), max_bad_fraction=0.5)
    assert [int(source[k]["image"][0, 0, 0]) for k in range(3)] == [5, 9, 9]
    assert list(source.quarantine) == [f"{tmp_path}/a.tar/1"]
    assert source.read(1) is None
    with pytest.raises(UserError, match=r"1 of 3 images \(33.3%\) .*a.tar/1 \(Unidentified"):
        WebDataset(str(tmp_path))[1]


def test_only_files_count_and_nothing_is_unpacked(tmp_path):
    outside = tmp_path / "outside.png"
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            archive.addfile(info)
        for name in ("../outside.png", "._hidden.png", "noextension", "B.PNG"):
            info = tarfile.TarInfo(name)
            info.size = len(png(4))
            archive.addfile(info, io.BytesIO(png(4)))
    assert [sample.key for sample in index_tar(tmp_path / "a.tar")] == ["../outside", "B"]
    source = WebDataset(str(tmp_path))
    assert [int(source[k]["image"].max()) for k in range(len(source))] == [4, 4]
    assert not outside.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]


def refused(path):
    with pytest.raises(UserError) as error:
        WebDataset(str(path))
    return str(error.value)


def test_what_is_no_whole_plain_tar_file(shards):
    whole = (shards / "train-00.tar").read_bytes()
    assert len(whole) > 3000
    cut = shards / "train-02.tar"
    cuts = (whole[: 512 + 100], whole[:1024], whole[:2048])
    for content in (*cuts, whole[:1024] + b"rubbish" * 100, b"no tar", b""):
        cut.write_bytes(content)
        assert f"data.source.path: {cut} is no whole, plain tar file (" in refused(shards)
    cut.unlink()
    write_tar(shards / "x.tar", [("a.png", png(1)), ("a.png", png(2))])
    assert refused(shards) == (
        f"data.source.path: {shards / 'x.tar'} holds a.png twice. Legal: names that differ, in "
        "each tar file."
    )


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst"])
def test_compressed_files_are_refused_by_name(shards, name):
    (shards / name).write_bytes(b"")
    for path in (shards, shards / name):
        assert refused(path) == (
            f"data.source.path: {shards / name} is compressed, so its members cannot be read one "
            "by one. Legal: plain .tar files; the images in them are compressed already."
        )


def test_errors_about_the_path(tmp_path):
    assert refused("").startswith("data.source.path: not set. Expected a folder of .tar files")
    assert refused(tmp_path).startswith(f"data.source.path: no tar files in '{tmp_path}'. Expected")
    write_tar(tmp_path / "a.tar", [("0.txt", b"a"), ("0.xyz", b"b")])
    assert refused(tmp_path).endswith("gif, .tif, .tiff; found: .txt, .xyz.")
    with pytest.raises(UserError, match=r"num_boxes: got -1. Legal: 0 or more"):
        WebDataset(str(tmp_path), num_boxes=-1)


def test_half_written_shards_are_left_alone(shards):
    (shards / "train-02.tar.part").write_bytes(b"")
    assert [file.name for file in find_tars(str(shards))] == ["train-00.tar", "train-01.tar"]


def test_the_fingerprint_follows_the_members(shards):
    before = WebDataset(str(shards)).fingerprint()
    assert WebDataset(str(shards / "train-*.tar")).fingerprint() == before
    write_tar(shards / "train-01.tar", [("a.png", png(1))])
    assert WebDataset(str(shards)).fingerprint() != before


def test_the_fingerprint_follows_labels_of_one_size_and_times(tmp_path):
    def fingerprint(txt=b"a cat", cls=b"1", json=b'{"text": "a"}', mtime=0.0):
        with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
            for name, content in {"png": png(1), "txt": txt, "cls": cls, "json": json}.items():
                info = tarfile.TarInfo(f"a.{name}")
                info.size, info.mtime = len(content), mtime
                archive.addfile(info, io.BytesIO(content))
        return WebDataset(str(tmp_path)).fingerprint()

    assert fingerprint() == fingerprint()
    changed = [{}, {"txt": b"a dog"}, {"cls": b"2"}, {"json": b'{"text": "b"}'}, {"mtime": 1.5}]
    assert len({fingerprint(**change) for change in changed}) == len(changed)
