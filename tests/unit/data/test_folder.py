import concurrent.futures
import json
import logging
import os
import socket

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.data import transforms
from ldm_jax.data.folder import Folder
from ldm_jax.data.pipeline import make_stream


def write_image(file, level, size=(6, 4)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(file)


def write_rows(folder, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")


@pytest.fixture
def broken(tmp_path):
    """Eight images, of which 2 and 3 are broken in two ways."""
    for k in range(8):
        write_image(tmp_path / f"{k}.png", 10 * k)
    (tmp_path / "2.png").write_bytes(b"not an image")
    whole = (tmp_path / "3.png").read_bytes()
    (tmp_path / "3.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def test_bare_images_in_sorted_order(tmp_path):
    for name in ("b.png", "a.JPG", "c.webp"):
        write_image(tmp_path / name, 5)
    (tmp_path / "notes.txt").write_text("")
    source = Folder(str(tmp_path))
    assert len(source) == 3
    assert source.class_names is None
    assert list(source[0]) == ["image"]
    assert source[0]["image"].shape == (4, 6, 1)
    assert repr(source) == repr(Folder(str(tmp_path)))


def test_class_folders(tmp_path):
    write_image(tmp_path / "dogs" / "x.png", 1)
    write_image(tmp_path / "cats" / "deep" / "y.png", 2)
    source = Folder(str(tmp_path))
    assert source.class_names == ("cats", "dogs")
    assert [(int(source[i]["image"][0, 0, 0]), source[i]["class"]) for i in (0, 1)] == [
        (2, 0),
        (1, 1),
    ]
    write_image(tmp_path / "stray.png", 3)
    with pytest.raises(UserError, match=r"1 images lie in .* itself and 2 in its sub-folders"):
        Folder(str(tmp_path))


def test_metadata_captions_and_classes(tmp_path):
    for name in ("x.png", "sub/y.png"):
        write_image(tmp_path / name, 1)
    write_rows(
        tmp_path,
        [
            {"file_name": "x.png", "text": "ein Größer", "kind": "b"},
            {"file_name": "sub/y.png", "kind": "a"},
        ],
    )
    source = Folder(str(tmp_path), class_column="kind")
    assert source.class_names == ("a", "b")
    assert (source[0]["text"], source[0]["class"]) == ("ein Größer", 1)
    assert (source[1]["text"], source[1]["class"]) == ("", 0)
    assert "class" not in Folder(str(tmp_path))[0]
    with pytest.raises(UserError, match=r"class_column: .* no 'king' .* Columns: kind, text"):
        Folder(str(tmp_path), class_column="king")
    with pytest.raises(UserError, match=r"text_column: .* no 'caption' .* Columns: kind, text"):
        Folder(str(tmp_path), text_column="caption")


def test_errors_about_the_path(tmp_path):
    with pytest.raises(UserError, match=r"path: not set.*--config.data.source.path=DIR"):
        Folder()
    with pytest.raises(UserError, match=r"path: no folder .*gone.*--config.data.source.path=DIR"):
        Folder(str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"no images in .*metadata.jsonl, or files ending in .png"):
        Folder(str(tmp_path))
    write_rows(tmp_path, ["{nonsense"])
    with pytest.raises(UserError, match=r"metadata.jsonl:1: not a JSON object"):
        Folder(str(tmp_path))
    write_rows(tmp_path, [{"text": "x"}])
    with pytest.raises(UserError, match=r"metadata.jsonl:1: expected .* with file_name"):
        Folder(str(tmp_path))


def test_broken_files_are_replaced_by_the_next_readable_one(broken, caplog):
    source = Folder(str(broken), max_bad_fraction=0.25)
    with caplog.at_level(logging.WARNING):
        levels = [int(source[i]["image"][0, 0, 0]) for i in (3, 2, 2, 7)]
    assert levels == [40, 40, 40, 70]
    # By its own number, so that embeddings and the like are looked up for what is shown.
    assert [source[k].get("index", k) for k in (1, 2, 3)] == [1, 4, 4]
    assert set(source.quarantine) == {str(broken / "2.png"), str(broken / "3.png")}
    assert source.quarantine[str(broken / "2.png")].startswith("UnidentifiedImageError")
    assert sum("quarantined" in record.getMessage() for record in caplog.records) == 2


@pytest.mark.parametrize("buckets", [None, ((4, 4),)])
def test_a_number_beyond_the_table_is_set_aside(tmp_path, buckets):
    """For good: whatever is drawn before, what stands in is the same."""
    for k in range(8):
        write_image(tmp_path / f"{k}" / "a.png", 10 * k)
    source = Folder(str(tmp_path), max_bad_fraction=0.25)
    sizes = {"batch_size": 8, "image_size": 4, "shuffle": False, "buckets": buckets, "prefetch": 0}
    stream = make_stream(source, limits={"class": 6}, **sizes)
    batch = next(stream)
    assert batch["class"].tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert batch["image"][:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50, 0, 0]
    assert stream.indices.tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert source.quarantine == {
        str(tmp_path / f"{k}" / "a.png"): f"class {k}, but the model has a table of 6"
        for k in (6, 7)
    }
    with pytest.raises(UserError, match=r"3 of 8 images .*class 5, but the model has a table of 5"):
        next(
            make_stream(Folder(str(tmp_path), max_bad_fraction=0.25), limits={"class": 5}, **sizes)
        )


def test_images_of_a_pixel_are_set_aside(tmp_path):
    for name, size in (("a", (1, 1)), ("b", (1, 9)), ("c", (2, 2))):
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    source = Folder(str(tmp_path), max_bad_fraction=0.7)
    assert source[0]["index"] == source[1]["index"] == 2
    assert list(source.quarantine.values()) == ["1x1 pixels", "1x9 pixels"]


def test_too_many_broken_files_stop_the_run(broken):
    source = Folder(str(broken), max_bad_fraction=0.2)
    message = r"2 of 8 images \(25.0%\) in .*2.png.*at most max_bad_fraction=0.2"
    with pytest.raises(UserError, match=message):
        [source[i] for i in range(8)]
    with pytest.raises(UserError, match=r"of 8 images"):  # also from a worker thread
        list(
            make_stream(
                Folder(str(broken), max_bad_fraction=0.2),
                batch_size=2,
                image_size=4,
                num_epochs=1,
            )
        )


def test_nothing_readable(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the images in .* can be read"):
        Folder(str(tmp_path), max_bad_fraction=1.0)[0]


def test_missing_files_of_metadata(tmp_path):
    write_image(tmp_path / "b.png", 9)
    rows = [{"file_name": f"{n}.png", "text": n} for n in ("a", "b")]
    write_rows(tmp_path, [*rows, {"file_name": "no/c.png", "text": "c"}])
    source = Folder(str(tmp_path), max_bad_fraction=0.7)
    assert set(source.quarantine) == {str(tmp_path / "a.png"), str(tmp_path / "no" / "c.png")}
    assert "missing" in source.quarantine[str(tmp_path / "a.png")]
    # The caption goes with the image that is shown.
    assert [source[i]["text"] for i in range(3)] == ["b", "b", "b"]
    with pytest.raises(UserError, match=r"2 of 3 images \(66.7%\)"):
        Folder(str(tmp_path))


def test_batches_are_the_same_under_threads_and_whoever_meets_the_broken_file_first(broken):
    def batches(threads):
        source = Folder(str(broken), max_bad_fraction=0.5)
        stream = make_stream(
            source, batch_size=4, image_size=4, seed=1, num_threads=threads, prefetch=threads
        )
        return np.stack([next(stream)["image"] for _ in range(8)])

    np.testing.assert_array_equal(batches(0), batches(8))
    source = Folder(str(broken), max_bad_fraction=0.5)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        levels = list(pool.map(lambda i: int(source[i % 8]["image"][0, 0, 0]), range(64)))
    assert levels == [0, 10, 40, 40, 40, 50, 60, 70] * 8
    assert len(source.quarantine) == 2


def test_whole_number_classes_keep_their_order(tmp_path):
    rows = [{"file_name": f"{k}.png", "c": k} for k in (10, 2, 0, 1)]
    for row in rows:
        write_image(tmp_path / row["file_name"], 5)
    write_rows(tmp_path, rows)
    source = Folder(str(tmp_path), class_column="c")
    assert source.class_names == ("0", "1", "2", "10")
    assert [source[k]["class"] for k in range(4)] == [3, 2, 0, 1]
    write_rows(tmp_path, [*rows[:3], {"file_name": "1.png", "c": None}])
    with pytest.raises(
        UserError, match=r"1 of 4 images .* \(no 'c' in its row of metadata.jsonl\)"
    ):
        Folder(str(tmp_path), class_column="c")


def test_linked_folders_count_and_hidden_ones_do_not(tmp_path):
    write_image(tmp_path / "images" / "cat" / "a.png", 5)
    write_image(tmp_path / "images" / ".ipynb_checkpoints" / "a-checkpoint.png", 5)
    write_image(tmp_path / "elsewhere" / "b.png", 5)
    (tmp_path / "images" / "dog").symlink_to(tmp_path / "elsewhere")
    source = Folder(str(tmp_path / "images"))
    assert source.class_names == ("cat", "dog")
    assert len(source) == 2


def test_an_error_of_another_kind_is_quarantined_too(tmp_path, monkeypatch):
    for k in range(3):
        write_image(tmp_path / f"{k}.png", 5)
    decode = transforms.decode

    def fail(file):
        if file.endswith("1.png"):
            raise TypeError("a tag with two values")  # Pillow, on a damaged TIFF
        return decode(file)

    monkeypatch.setattr(transforms, "decode", fail)
    source = Folder(str(tmp_path), max_bad_fraction=0.5)
    source[1]
    assert list(source.quarantine.values()) == ["TypeError: a tag with two values"]


@pytest.mark.parametrize("name", ["", ".", "./", "..", "../a.png", "b/../../a.png", "/a.png"])
def test_rows_name_files_in_the_folder(tmp_path, name):
    images = tmp_path / "images"
    write_image(images / "b" / "a.png", 5)
    write_image(tmp_path / "a.png", 5)
    write_rows(images, [{"file_name": "b/a.png"}, {"file_name": name}])
    with pytest.raises(UserError) as error:
        Folder(str(images))
    assert str(error.value) == (
        f"{images}/metadata.jsonl:2: file_name is '{name}'. Legal: a file in the folder or below "
        "it, by its path from there, without '..'."
    )


def test_a_row_may_name_what_a_link_leads_to(tmp_path):
    write_image(tmp_path / "elsewhere" / "a.png", 7)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "images" / "b.png").symlink_to(tmp_path / "elsewhere" / "a.png")
    write_rows(tmp_path / "images", [{"file_name": "linked/a.png"}, {"file_name": "b.png"}])
    source = Folder(str(tmp_path / "images"))
    assert [int(source[k]["image"][0, 0, 0]) for k in range(2)] == [7, 7]


def test_a_number_of_too_many_digits_is_no_row(tmp_path):
    write_rows(tmp_path, ['{"file_name": "a.png"}', f'{{"file_name": "a.png", "x": {"1" * 5000}}}'])
    with pytest.raises(UserError, match=r"metadata.jsonl:2: not a JSON object: Exceeds the limit"):
        Folder(str(tmp_path))


def test_links_to_folders_above_them_are_followed_once(tmp_path, caplog):
    write_image(tmp_path / "images" / "z" / "a.png", 5)
    write_image(tmp_path / "elsewhere" / "b.png", 5)
    for name in ("one", "two", "z/up"):
        (tmp_path / "images" / name).symlink_to(tmp_path / "images")
    (tmp_path / "images" / "a").symlink_to(tmp_path / "images" / "z")  # the real one counts
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "images")
    (tmp_path / "images" / "y").symlink_to(tmp_path / "elsewhere")
    with caplog.at_level(logging.WARNING):
        source = Folder(str(tmp_path / "images"))
    assert [source.name(k) for k in range(len(source))] == [
        str(tmp_path / "images" / file) for file in ("y/b.png", "z/a.png")
    ]
    assert f"5 links lead to folders that are read already, such as {tmp_path}" in caplog.text


@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "folder", "link to itself"])
def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch, kind):
    """To read a pipe would wait for a writer, for ever."""
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        makers = {
            "pipe": lambda: os.mkfifo("a.png"),
            "socket": lambda: listener.bind("a.png"),
            "device": lambda: os.symlink(os.devnull, "a.png"),
            "folder": lambda: os.mkdir("a.png"),
            "link to itself": lambda: os.symlink("a.png", "a.png"),
        }
        makers[kind]()
        write_image(tmp_path / "b.png", 9)
        for name in ("a.png", "b.png"):
            Image.new("L", (6, 4)).save(tmp_path / f"{name[0]}.mask.png")
        assert len(Folder(str(tmp_path))) == 1  # without metadata it is no image
        rows = [{"file_name": "a.png"}, {"file_name": "b.png"}]
        write_rows(tmp_path, rows)
        source = Folder(str(tmp_path), max_bad_fraction=0.5)
        assert source.quarantine == {
            str(tmp_path / "a.png"): "listed in metadata.jsonl, but missing or no file"
        }
        assert int(source[0]["image"][0, 0, 0]) == 9
        source.fingerprint()
        write_rows(tmp_path, [{"file_name": "b.png", "mask": "a.png"}] + rows[1:] * 2)
    with pytest.raises(UserError, match=r"row 2 has no mask"):
        Folder(str(tmp_path))
    good = {"file_name": "b.png", "mask": "b.mask.png"}
    write_image(tmp_path / "c.png", 9)
    write_rows(tmp_path, [{"file_name": "c.png", "mask": "a.png"}, good])
    source = Folder(str(tmp_path), max_bad_fraction=0.5)
    assert source.quarantine == {str(tmp_path / "c.png"): "a.png: missing or no file"}


def test_a_very_long_name_is_cut_in_messages(tmp_path, caplog):
    write_image(tmp_path / "a.png", 5)
    name, folder = "x" * 5000 + ".png", "y" * 5000
    rows = [{"file_name": name}, {"file_name": f"{folder}/b.png"}, {"file_name": "a.png"}]
    write_rows(tmp_path, rows)
    with caplog.at_level(logging.WARNING), pytest.raises(UserError, match=r"xx…xx+\.png \(li") as e:
        Folder(str(tmp_path))
    assert len(str(e.value)) < 1200
    assert all(len(record.getMessage()) < 500 for record in caplog.records)
    source = Folder(str(tmp_path), max_bad_fraction=0.7)
    assert str(tmp_path / name) in source.quarantine  # whole, for programs
    source.fingerprint()


@pytest.mark.parametrize("name", ["5", "null", '["a"]'])
def test_file_names_are_text(tmp_path, name):
    write_rows(tmp_path, [f'{{"file_name": {name}}}'])
    with pytest.raises(UserError, match=r"metadata.jsonl:1: expected a JSON object with file_name"):
        Folder(str(tmp_path))


def test_line_separators_inside_a_caption_and_a_byte_order_mark(tmp_path):
    write_image(tmp_path / "a.png", 5)
    text = "one\u2028two\x85three"
    row = json.dumps({"file_name": "a.png", "text": text}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(f"\ufeff{row}\n", encoding="utf-8")
    assert Folder(str(tmp_path))[0]["text"] == text
