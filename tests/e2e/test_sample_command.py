"""`ldm-jax sample`: what is in its files, how it goes on, and what it starts from."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli.main import main
from ldm_jax.pipeline import Pipeline

PROMPT, OTHER = "a large red circle at the top left", "a small blue cross at the bottom right"
# 20 images are three buckets of 8, one image for each device.
MANY = ("--prompt", PROMPT, "--num_images", 20)


@pytest.fixture(scope="module")
def pipeline(runs):
    return Pipeline.from_checkpoint(runs.text)


@pytest.fixture
def draw(runs, tmp_path):
    """Runs the command, and returns the folder."""

    def run(*arguments, workdir=runs.text):
        out = tmp_path / "out"
        command = ["sample", "--workdir", workdir, "--out", out, *arguments]
        assert main([str(argument) for argument in command]) == 0
        return out

    return run


def refuse(capfd, *arguments):
    """Runs a command that must fail, and returns its one line of standard error."""
    status = main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    return err.removeprefix("ldm-jax: ").removesuffix("\n")


def read(folder, pattern="[0-9]*.png"):
    return {path.name: np.asarray(Image.open(path)) for path in sorted(folder.glob(pattern))}


def parameters(path):
    with Image.open(path) as image:
        return json.loads(image.text["parameters"])


def backdate(folder):
    """Makes all files an hour old, so that what is written again can be told."""
    for path in folder.rglob("*.*"):
        os.utime(path, (path.stat().st_mtime - 3600,) * 2)
    return {path.name: path.stat().st_mtime for path in folder.iterdir()}


def rewritten(folder, before):
    return sorted(
        path.name for path in folder.iterdir() if path.stat().st_mtime != before.get(path.name)
    )


def test_every_image_says_what_made_it(draw, runs, pipeline):
    flags = ("--negative", "blue", "--sampler", "dpmpp_2m", "--steps", 3, "--guidance", 4)
    out = draw("--prompt", PROMPT, "--prompt", OTHER, "--seed", 9, *flags)
    assert sorted(path.name for path in out.iterdir()) == [
        *("00000.png", "00001.png", "samples.json")  # no grid, no archive unless asked for
    ]
    images = pipeline(
        [PROMPT, OTHER], seed=9, negative="blue", sampler="dpmpp_2m", steps=3, guidance_scale=4
    )
    for k, prompt in enumerate((PROMPT, OTHER)):
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"0000{k}.png")), images[k])
        found = parameters(out / f"0000{k}.png")
        assert (found["prompt"], found["index"], found["seed"]) == (prompt, k, 9)
        assert (found["negative"], found["size"]) == ("blue", [16, 16])
        assert found["sample"]["sampler"]["name"] == "dpmpp_2m"
        assert (found["sample"]["steps"], found["sample"]["guidance_scale"]) == (3, 4.0)
        assert found["checkpoint"] == str(runs.text)
        assert found["checkpoint_hash"] == pipeline.fingerprint()
        assert (found["step"], found["parameters"]) == (3, "ema")


def test_a_stopped_run_goes_on_without_drawing_what_is_there(draw, capfd):
    out = draw(*MANY)
    expected = read(out)
    assert len(expected) == 20
    (out / "00010.png").unlink()
    (out / "00019.png").unlink()
    before = backdate(out)
    draw(*MANY)
    # The buckets that lack an image are drawn, those of images 8 to 15 and 16 to 19.
    assert rewritten(out, before) == [f"{k:05d}.png" for k in range(8, 20)]
    for name, image in read(out).items():
        np.testing.assert_array_equal(image, expected[name])
    before = backdate(out)
    draw(*MANY, "--grid", "--npz")
    assert rewritten(out, before) == ["20x16x16x3-samples.npz", "grid.png"]
    assert "archive: " in capfd.readouterr().out


def test_another_call_replaces_everything(draw):
    out = draw(*MANY, "--grid", "--npz", "--save_every", 1)
    (out / "mine.txt").write_text("kept")
    before = backdate(out)
    draw("--prompt", PROMPT, "--num_images", 2, "--seed", 1)
    left = sorted(path.name for path in out.iterdir() if path.is_file())
    assert left == ["00000.png", "00001.png", "mine.txt", "samples.json"]
    assert rewritten(out, before)[:2] == ["00000.png", "00001.png"]
    assert not list((out / "intermediate").iterdir())


@pytest.mark.parametrize("record", [None, "{", "[]"])
def test_images_that_no_record_speaks_of_are_left_alone(draw, runs, tmp_path, capfd, record):
    out = draw("--prompt", PROMPT)
    Image.new("RGB", (16, 16)).save(out / "00000.png")
    Image.new("RGB", (16, 16)).save(out / "grid.png")
    if record is None:
        (out / "samples.json").unlink()
    else:
        (out / "samples.json").write_text(record)
    before = read(out)
    command = ["sample", "--workdir", str(runs.text), "--out", str(out), "--prompt", PROMPT]
    assert main(command) == 2
    assert "holds 00000.png, which no samples.json names. Legal: an" in capfd.readouterr().err
    for name, image in read(out).items():
        np.testing.assert_array_equal(image, before[name])


def test_more_images_keep_those_that_are_there(draw, runs):
    """Also under another spelling of the workdir, and with another size of pieces."""
    out = draw("--prompt", PROMPT, "--num_images", 16, "--grid")
    before = backdate(out)
    same = f"{runs.text}/../{runs.text.name}"
    more = ("--num_images", 20, "--config.sample.decode_batch=2")
    draw("--prompt", PROMPT, *more, workdir=same)
    new = [f"{k:05d}.png" for k in range(16, 20)]
    assert rewritten(out, before) == [*new, "samples.json"]
    assert not (out / "grid.png").exists()  # it showed 16


def test_a_torn_image_is_drawn_again(draw):
    out = draw("--prompt", PROMPT)
    whole = (out / "00000.png").read_bytes()
    (out / "00000.png").write_bytes(whole[:100])
    draw("--prompt", PROMPT, "--npz")
    assert (out / "00000.png").read_bytes() == whole


def test_an_archive_in_adms_layout(draw, runs):
    out = draw("--class", 3, "--class", 5, "--class", 7, "--npz", workdir=runs.classes)
    with np.load(out / "3x16x16x3-samples.npz") as archive:
        assert archive.files == ["arr_0"]
        array = archive["arr_0"]
    assert (array.dtype, array.shape) == (np.uint8, (3, 16, 16, 3))
    np.testing.assert_array_equal(array, np.stack(list(read(out).values())))


def test_intermediates_every_k_rows(draw):
    out = draw("--prompt", PROMPT, "--num_images", 2, "--steps", 5, "--save_every", 2)
    names = [f"{k:05d}_{row:04d}.png" for k in range(2) for row in (2, 4, 5)]
    images = read(out / "intermediate")
    assert list(images) == names
    np.testing.assert_array_equal(images["00001_0005.png"], read(out)["00001.png"])


def test_prompts_and_class_numbers_from_a_file(draw, runs, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\n\n{OTHER}\n")
    out = draw("--prompts", prompts)
    assert [parameters(out / f"0000{k}.png")["prompt"] for k in range(2)] == [PROMPT, OTHER]
    # Neither of these ends a line.
    prompts.write_bytes(f"{PROMPT}\u2028{OTHER}\r\n7\n".encode())
    out = draw("--prompts", prompts)
    assert parameters(out / "00000.png")["prompt"] == f"{PROMPT}\u2028{OTHER}"
    assert parameters(out / "00001.png")["prompt"] == "7"
    numbers = tmp_path / "classes.txt"
    numbers.write_text("3\n 23 \n\n0\n")
    out = draw("--class", 7, "--prompts", numbers, "--negative", 1, workdir=runs.classes)
    found = [parameters(out / f"0000{k}.png") for k in range(4)]
    assert [row["class"] for row in found] == [7, 3, 23, 0]
    expected = Pipeline.from_checkpoint(runs.classes)(classes=[7, 3, 23, 0], negative=1)
    np.testing.assert_array_equal(np.stack(list(read(out).values())), expected)


def test_images_masks_and_strength(draw, pipeline, tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 24, 3), dtype=np.uint8)
    mask = np.zeros((8, 24), np.uint8)
    mask[:, 10:] = 255
    image_file, mask_file = tmp_path / "image.png", tmp_path / "mask.png"
    Image.fromarray(pixels).save(image_file)
    Image.fromarray(mask).save(mask_file)
    flags = ("--prompt", PROMPT, "--image", image_file, "--steps", 4)
    out = draw(*flags, "--strength", 0.5)
    (found,) = read(out).values()
    (expected,) = pipeline(PROMPT, image=pixels, strength=0.5, steps=4)
    np.testing.assert_array_equal(found, expected)
    assert parameters(out / "00000.png")["size"] == [8, 24]
    (painted,) = read(draw(*flags, "--mask", mask_file)).values()
    np.testing.assert_array_equal(painted[:, :10], pixels[:, :10])
    assert (painted[:, 10:] != pixels[:, 10:]).any()
    # The same call with another image in the file is another call.
    Image.fromarray(255 - pixels).save(image_file)
    (painted,) = read(draw(*flags, "--mask", mask_file)).values()
    np.testing.assert_array_equal(painted[:, :10], 255 - pixels[:, :10])


def test_windows_tiles_and_rescaling(draw, pipeline):
    flags = ("--size", "16x32", "--window", "16x16", "--tile", 16, "--rescale", 0.5)
    (found,) = read(draw("--prompt", PROMPT, *flags)).values()
    (expected,) = pipeline(
        PROMPT, image_shape=(16, 32), window=(16, 16), tile=16, guidance_rescale=0.5
    )
    np.testing.assert_array_equal(found, expected)


WRONG = [
    (["--prompts", "."], "--prompts=.: is a folder; expected one prompt a line."),
    (["--tokenizer", "none"], "--tokenizer: a trained run keeps its own. Legal: with other model"),
    (["--config", "none"], "--config: a trained run keeps its own. Legal: --config.sample.F"),
    (["--rescale", "0.5", "--guidance", "1"], "guidance_rescale: has no effect without guidance."),
    (["--image", "none.png"], "--image=none.png: cannot be read as an image ("),
    (["--mask", "IMAGE"], "mask: has no effect without an image."),
    (["--strength", "0.5"], "strength: has no effect without an image."),
    (["--image", "IMAGE", "--strength", "2"], "strength=2.0: legal is above 0, up to 1."),
    (["--image", "IMAGE", "--size", "8x8"], "image: got uint8 of shape (16, 16, 3). Legal: uint8 "),
    (["--rescale", "2"], "guidance_rescale: got 2.0. Legal: 0 to 1."),
    (["--negative", "a", "--guidance", "1"], "negative: has no effect without guidance."),
    (["--tile", "9"], "tile=9: legal are multiples of 8 pixels, or none."),
    (["--window", "15x16"], "image size 15: the model takes multiples of 2 pixels."),
    (["--save_every", "0"], "argument --save_every: got '0', expected a whole number from 1"),
    (
        ["--prompts", "NUMBERS", "--class", "1"],
        "classes: given, but this model's conditioner reads",
    ),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_mistakes_take_one_line_and_write_nothing(runs, capfd, tmp_path, arguments, text):
    image, numbers = tmp_path / "image.png", tmp_path / "numbers.txt"
    Image.new("RGB", (16, 16)).save(image)
    numbers.write_text("1\n")
    files = {"IMAGE": image, "NUMBERS": numbers}
    arguments = [files.get(argument, argument) for argument in arguments]
    out = tmp_path / "out"
    line = refuse(
        capfd, "sample", "--workdir", runs.text, "--out", out, "--prompt", PROMPT, *arguments
    )
    assert line.startswith(text)
    assert not out.exists()


def test_a_negative_class_must_be_a_class(runs, capfd, tmp_path):
    command = ("sample", "--workdir", runs.classes, "--out", tmp_path / "out", "--class", 3)
    for negative in ("blurry", "-1", "99"):
        line = refuse(capfd, *command, f"--negative={negative}")
        assert line == f"class {negative}: legal is 0 to 23."
