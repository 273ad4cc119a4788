"""`ldm-jax data check` and `data prepare` as a user meets them."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli.main import main
from ldm_jax.data.folder import Folder
from ldm_jax.data.pipeline import make_stream
from ldm_jax.data.records import Records

TINY = str(Path(__file__).parent / "tiny.py")


@pytest.fixture
def folder(tmp_path):
    """Twelve images of 16 × 24 with captions and kinds; one of them repeats another."""
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for k in range(12):
        pixels = rng.integers(0, 256, (16, 24, 3), np.uint8)
        pixels = np.zeros_like(pixels) if k in (4, 8) else pixels
        Image.fromarray(pixels).save(root / f"{k:02d}.png")
        text = "a large red circle" if k else ""
        rows.append({"file_name": f"{k:02d}.png", "text": text, "kind": "ab"[k % 2]})
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def run(capfd, *arguments):
    """Runs a `data` command; returns the exit status and both outputs."""
    status = main(["data", *map(str, arguments)])
    return status, *capfd.readouterr()


def refuse(capfd, *arguments):
    """Runs a command that must fail at once, and returns its one line of standard error."""
    status, out, err = run(capfd, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("ldm-jax: ")
    assert err.count("\n") == 1
    return err.removeprefix("ldm-jax: ").rstrip("\n")


def shards(out):
    return {path.name: path.read_bytes() for path in out.glob("*.array_record*")}


def test_check_prints_a_report(capfd, folder):
    column = "--config.data.source.class_column=kind"
    sizes = ("--image_size", 32, "--batch_size", 8)
    status, out, err = run(capfd, "check", folder, *sizes, column)
    assert status == 0
    assert "check" in err  # the progress bar
    assert out.splitlines() == [
        f"source          folder {folder}",
        "images          12, of which 12 can be read",
        "bad files       0",
        "width           min 24, median 24, max 24",
        "height          min 16, median 16, max 16",
        "shorter side    min 16, median 16, max 16",
        "aspect ratio    min 1.5, median 1.5, max 1.5",
        "smaller         12 than 32 pixels",
        "channels        12 RGB",
        "captions        2 different, 1 empty; words: min 0, median 4, max 4",
        "classes         2",
        "  0 a: 6",
        "  1 b: 6",
        "duplicates      1",
        "  04.png = 08.png",
        "steps per epoch 1.5 of 8 images",
        "usable",
    ]


def test_check_of_maps_and_boxes(capfd, tmp_path):
    for k in range(2):
        Image.new("RGB", (4, 4), (k, 0, 0)).save(tmp_path / f"{k}.png")
        Image.new("L", (4, 4), 255 * k).save(tmp_path / f"{k}.mask.png")
        Image.new("L", (4, 4), 3).save(tmp_path / f"{k}.segmentation.png")
    rows = [{"file_name": f"{k}.png", "boxes": [[0, 0, 1, 1, 2]] * k} for k in range(2)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status, out, _ = run(capfd, "check", tmp_path)
    assert status == 0
    assert "masked part     min 0, median 0.5, max 1; 1 empty, 1 full\n" in out
    assert "map classes     1\n  3: 100.0% of the area, in 2 images\n" in out
    assert "boxes           per image: min 0, median 0.5, max 1; 1 of class 2\n" in out


def test_check_finds_what_is_broken(capfd, folder):
    for k in range(11):
        (folder / f"{k:02d}.png").write_bytes(b"no image")
    status, out, err = run(capfd, "check", folder, "--batch_size", 13)
    assert status == 2
    assert "images          12, of which 1 can be read\nbad files       11\n  00.png: Unid" in out
    assert "  and 1 more, which --json lists\n" in out
    assert "\nproblems\n  data.source.path: 11 of 12 images (91.7%) in " in out
    assert "  --batch_size=13: more than the 12 examples. Legal: at most 12.\n" in out
    last = err.splitlines()[-1]
    assert last.startswith("ldm-jax: data.source.path: 11 of 12 images")
    assert last.endswith("Legal: at most max_bad_fraction=0.01. And 1 more, above.")
    allowed = "--config.data.source.max_bad_fraction=0.95"
    assert run(capfd, "check", folder, allowed)[0] == 0


def test_check_of_a_file_whose_name_is_no_text(capfd, tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"no image")
    status, out, _ = run(capfd, "check", tmp_path, "--config.data.source.max_bad_fraction=0.5")
    assert status == 0
    assert "\n  \\udcff.png: UnidentifiedImageError: cannot identify image file\n" in out


def test_check_for_programs(capfd, folder, tmp_path):
    (folder / "03.png").unlink()
    status, out, _ = run(capfd, "check", folder, "--json")
    facts = json.loads(out)
    assert (status, facts["usable"], facts["examples"], facts["readable"]) == (2, False, 12, 11)
    assert facts["bad_files"] == [
        {
            "path": str(folder / "03.png"),
            "reason": "listed in metadata.jsonl, but missing or no file",
        }
    ]
    assert facts["problems"][0].startswith("data.source.path: 1 of 12 images (8.3%) in")
    status, out, _ = run(capfd, "check", tmp_path / "none", "--json")
    facts = json.loads(out)
    assert (status, facts["usable"]) == (2, False)
    assert facts["problems"][0].startswith(f"PATH={tmp_path}/none: no such folder.")


def test_check_for_a_config(capfd, folder):
    status, out, _ = run(capfd, "check", folder, "--config", f"{TINY}:text", "--json")
    facts = json.loads(out)
    assert (status, facts["problems"]) == (0, [])
    assert (facts["source"], facts["image_size"]) == ("folder", 16)
    assert facts["tokens"] == {"length": 12, "cut": 0}
    assert facts["steps_per_epoch"] == 12 / facts["batch_size"]
    short = ("--config.data.tokenizer.length=3", "--config.task.conditioner.length=3")
    _, out, _ = run(capfd, "check", folder, "--config", f"{TINY}:text", "--json", *short)
    assert json.loads(out)["tokens"] == {"length": 3, "cut": 11}
    # Without PATH it is the config's own source.
    _, out, _ = run(capfd, "check", "--config", f"{TINY}:text", "--json")
    assert (json.loads(out)["source"], json.loads(out)["examples"]) == ("shapes", 64)


def test_check_refuses_what_a_run_would_refuse(capfd, folder):
    config = ("--config", f"{TINY}:class")
    status, out, err = run(capfd, "check", folder, *config)
    assert status == 2
    assert "\nproblems\n  data.keys: got 'class'" in out
    assert err.splitlines()[-1].startswith("ldm-jax: data.keys: got 'class'")
    columns = "--config.data.source.class_column=kind"
    few = "--config.task.conditioner.num_classes=1"
    status, out, _ = run(capfd, "check", folder, *config, columns)
    assert status == 0
    status, out, _ = run(capfd, "check", folder, *config, columns, few)
    assert status == 2
    assert "num_classes=1, but the data have 2 classes. Legal: 2 or more." in out
    status, out, _ = run(capfd, "check", folder, *config, columns, "--config.data.holdout=12")
    assert status == 2
    assert "config.data.holdout=12, of 12 examples. Legal: 0 to 11." in out
    facts = run(capfd, "check", folder, *config, columns, "--config.data.holdout=4", "--json")[1]
    assert json.loads(facts)["steps_per_epoch"] == 8 / json.loads(facts)["batch_size"]


def test_prepare_goes_on_and_trains_alike(capfd, folder, tmp_path):
    out = tmp_path / "out"
    command = ("prepare", folder, "--out", out, "--examples_per_shard", 5)
    column = "--config.data.source.class_column=kind"
    status, text, err = run(capfd, *command, column)
    assert status == 0
    assert "prepare" in err
    size = sum(map(len, shards(out).values()))
    assert text.startswith(f"12 images written, 3 shards; 12 images, {size:,} bytes in {out}; ")
    expected = shards(out)
    second = "examples-00001-of-00003.array_record"
    (out / second).unlink()
    (out / f"{second}.part").write_bytes(b"half")
    assert "not complete, 2 of 3 shards are there. Legal: the command 'ldm-jax data" in refuse(
        capfd, "check", out
    )
    status, text, _ = run(capfd, *command, column)
    assert text.startswith("5 images written, 1 shards, 2 were there; 12 images, ")
    assert shards(out) == expected

    def batches(source):
        stream = make_stream(
            source, batch_size=4, image_size=8, random_crop=True, flip_probability=0.5, prefetch=0
        )
        return [next(stream) for _ in range(4)]

    sources = Folder(str(folder), class_column="kind"), Records(str(out))
    for one, other in zip(*map(batches, sources), strict=True):
        assert one.keys() == other.keys() == {"image", "class"}
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    assert run(capfd, "check", out)[1].startswith(f"source          records {out}\n")


def test_prepare_lists_what_is_broken(capfd, folder, tmp_path):
    (folder / "05.png").write_bytes(b"no image")
    out = tmp_path / "out"
    status, text, _ = run(capfd, "prepare", folder, "--out", out, "--resize", 8, "--format", "jpeg")
    assert status == 0
    assert text.startswith("11 images written, 1 shards; 11 images, ")
    assert text.endswith(f"1 could not be read: see {out}/quarantine.jsonl\n")
    (line,) = (out / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "example": 5,
        "path": str(folder / "05.png"),
        "reason": "UnidentifiedImageError: cannot identify image file",
    }
    records = Records(str(out))
    assert records[5]["image"].shape == (8, 12, 3)
    assert Image.open(io.BytesIO(records.image_bytes(0))).format == "JPEG"


def test_prepare_from_tar_files_and_from_a_config(capfd, folder, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for k in range(3):
            archive.add(folder / f"{k:02d}.png", f"{k}.png")
    status, text, _ = run(capfd, "prepare", tmp_path / "*.tar", "--out", tmp_path / "a")
    assert (status, text[:16]) == (0, "3 images written")
    np.testing.assert_array_equal(
        Records(str(tmp_path / "a"))[2]["image"], Folder(str(folder))[2]["image"]
    )
    status, text, _ = run(
        capfd, "prepare", "--config", f"{TINY}:text", "--out", tmp_path / "b",
        "--config.data.source.num_examples=7",
    )  # fmt: skip
    assert (status, text[:16]) == (0, "7 images written")


def test_mistakes(capfd, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        ([], "missing COMMAND. Legal: check, prepare; see 'ldm-jax data --help'."),
        (["chek", "x"], "unknown command 'data chek'; did you mean 'check'? Legal: check, prep"),
        (["check"], "missing PATH. Legal: PATH, --config FILE, or both; see --help."),
        (["check", "x", "--jsn"], "unknown argument '--jsn'; did you mean '--json'? Legal: --he"),
        (["check", "x", "y"], "unknown argument 'y'. Legal: flags, each before its value."),
        (["check", folder, "--batch_size", "0"], "--batch_size: got 0. Legal: 1 or more."),
        (["check", folder, "--num_threads", "x"], "argument --num_threads: invalid int value: 'x'"),
        (["check", folder, "--split", "train"], f"--split=train: {folder} is no TFDS data set."),
        (["check", "--config", TINY, "--split", "a"], "--split: goes with PATH. Legal: --config."),
        (
            ["check", folder, "--config.data.source.clas_column=kind"],
            "config.data.source: unknown field 'clas_column' for Folder; did you mean 'class_col",
        ),
        (["prepare", folder], "missing --out; see 'ldm-jax data prepare --help'."),
        (["prepare", folder, "--out", folder], f"--out={folder}: holds 00.png and no dataset.json"),
        (["prepare", folder, "--out", "x", "--format", "gif"], "--format: got 'gif'"),
        (["prepare", folder, "--out", "x", "--resize", "0"], "--resize=0: legal is 1 or more"),
    ):
        assert refuse(capfd, *arguments).startswith(message)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", ["check", "prepare"])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as exit_info:
        main(["data", command, "--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    for part in (f"  ldm-jax data {command} ", "--config.a.b=value", "PATH is a folder of images"):
        assert part in text
    assert max(map(len, text.splitlines())) <= 100


def test_masks_of_ones_own_take_the_place_of_the_configs(capfd, folder):
    command = ("check", folder, "--config", f"{TINY}:inpainting", "--batch_size", 8)
    without = (*command, "--config.data.derive.mask=none")
    status, out, err = run(capfd, *without)
    assert status == 2
    assert "mask" in err.splitlines()[-1]
    for k in range(12):
        mask = Image.fromarray(np.eye(16, 24, dtype=np.uint8) * 255)
        mask.save(folder / f"{k:02d}.mask.png")
    status, out, err = run(capfd, *without)
    assert status == 0
    assert "masked part     min 0.0417, median 0.0417, max 0.0417; 0 empty, 0 full" in out
    assert out.endswith("usable\n")


def test_rows_that_lead_out_of_the_folder_are_refused(capfd, folder, tmp_path):
    rows = [{"file_name": "00.png"}, {"file_name": "../images/01.png"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for command in (("check", folder), ("prepare", folder, "--out", tmp_path / "out")):
        assert refuse(capfd, *command) == (
            f"{folder}/metadata.jsonl:2: file_name is '../images/01.png'. Legal: a file in the "
            "folder or below it, by its path from there, without '..'."
        )
    assert not (tmp_path / "out").exists()


def test_a_very_long_name_does_not_flood_the_terminal(capfd, folder):
    rows = [{"file_name": "00.png"}, {"file_name": "x" * 5000}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status, out, err = run(capfd, "check", folder)
    assert status == 2
    assert len(out) + len(err) < 4000
    assert "xxx…xxx" in out
