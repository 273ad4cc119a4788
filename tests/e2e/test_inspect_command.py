"""`ldm-jax inspect`: its pictures are of the model and of its samples."""

import numpy as np
from PIL import Image

from ldm_jax.cli.main import main
from ldm_jax.inspection import VIEWS
from ldm_jax.inspection.denoising import denoising_frames, denoising_view
from ldm_jax.inspection.view import Subject
from ldm_jax.pipeline import Pipeline

PROMPT = "a large red circle at the top left"
SIDE = 96  # of an image of 16 pixels in a picture


def command(*arguments):
    return main(["inspect", *[str(argument) for argument in arguments]])


def cell(picture, row, column):
    """Returns an image of a picture, rows counted from the bottom."""
    step, bottom = SIDE + 14 + 3, len(picture) - 3 - row * (SIDE + 14 + 3)
    left = 3 + column * (SIDE + 3)
    assert step == 113
    return picture[bottom - SIDE : bottom, left : left + SIDE]


def enlarged(image):
    return np.kron(image, np.ones((SIDE // image.shape[0],) * 2 + (1,), np.uint8))


def test_all_views_of_a_text_model(runs, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ("--prompt", PROMPT, "--seed", 7, "--num_images", 2, "--frames", 3, "--out", out)
    assert command("--workdir", runs.text, "--what", ",".join(VIEWS), *flags) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == f"{', '.join(f'{name}.png' for name in VIEWS)} in {out}"
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*(f"{name}.png" for name in VIEWS), "tensorboard"]
    )
    (events,) = (out / "tensorboard").iterdir()
    pictures = {name: np.asarray(Image.open(out / f"{name}.png")) for name in VIEWS}
    for name, picture in pictures.items():
        assert name.encode() in events.read_bytes()
        assert any(line.startswith(f"{name}: ") for line in printed)
        assert picture.shape[2] == 3
    pipeline = Pipeline.from_checkpoint(runs.text)
    sample = pipeline(PROMPT, seed=7)[0]
    # Clean and three frames, over two channels.
    assert pictures["noising"].shape[1] == 3 + 4 * (SIDE + 3)
    decoded = pipeline.reconstruct(sample)[0]
    np.testing.assert_array_equal(cell(pictures["noising"], 2, 0), enlarged(decoded))
    np.testing.assert_array_equal(cell(pictures["latents"], 0, 0), enlarged(sample))
    np.testing.assert_array_equal(cell(pictures["latents"], 0, 1), enlarged(decoded))
    z = pipeline.encode(sample)[0]
    for channel in range(2):
        share = (z[..., channel] - z.min()) / (z.max() - z.min())
        found = cell(pictures["latents"], 0, 2 + channel)[::12, ::12, 0]
        np.testing.assert_allclose(found, 255 * share, atol=0.51)
    # Two steps, and the sample, which also stands at the left of the words' maps.
    assert pictures["denoising"].shape[1] == 3 + 3 * (SIDE + 3)
    for row in (0, 1):
        np.testing.assert_array_equal(cell(pictures["denoising"], row, 2), enlarged(sample))
    assert pictures["attention"].shape[1] == 3 + 9 * (SIDE + 3)  # eight words
    np.testing.assert_array_equal(cell(pictures["attention"], 0, 0), enlarged(sample))
    assert any("8 x 8 places: full colour is a probability of 0." in line for line in printed)
    # Two samples of eight devices' bucket: the first is image 0 again.
    np.testing.assert_array_equal(cell(pictures["neighbours"], 1, 0), enlarged(sample))
    assert sum(line.startswith("neighbours: sample") for line in printed) == 2


def test_a_run_that_is_looked_at_ends_with_the_sample(vivid):
    pipeline = vivid["text"]
    settings = {"seed": 3, "steps": 5, "sampler": "dpmpp_2m"}
    frames = denoising_frames(pipeline.start(PROMPT, **settings), 3)
    expected = pipeline(PROMPT, **settings)[0]
    np.testing.assert_array_equal(frames.noisy[-1], expected)
    np.testing.assert_array_equal(frames.expected[-1], expected)
    rows = pipeline.start(PROMPT, **settings).plan.rows
    np.testing.assert_array_equal(frames.t, rows.t[[0, 2, 4]])
    # z_T is the noise of the seed, and what is expected after a row is what the loop predicted.
    generation = pipeline.start(PROMPT, **settings)
    np.testing.assert_array_equal(frames.noisy[0], pipeline.decode(generation.latents())[0])
    generation.advance(3)
    np.testing.assert_array_equal(frames.expected[1], generation.preview()[0])
    assert not np.array_equal(frames.noisy[1], frames.expected[1])


def test_a_given_image_and_a_class(runs, vivid, tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    where = ("--workdir", runs.classes, "--out", tmp_path / "out")
    assert command(*where, "--what", "latents", "--image", tmp_path / "a.png") == 0
    picture = np.asarray(Image.open(tmp_path / "out" / "latents.png"))
    np.testing.assert_array_equal(cell(picture, 0, 0), enlarged(image))
    assert "latents: given image; scaled latent (8, 8, 2), black -" in capsys.readouterr().out
    pipeline = vivid["classes"]
    picture, (line,) = denoising_view(Subject(pipeline, classes=[3, 4], seed=1, frames=1))
    assert line == "x_t, and x_0 as predicted from it, sample of seed 1"
    expected = pipeline(classes=[3], seed=1)[0]
    np.testing.assert_array_equal(cell(picture, 0, 1), enlarged(expected))


def test_mistakes_are_one_line(runs, tmp_path, capfd):
    out = tmp_path / "out"
    text = ("--workdir", runs.text, "--out", out, "--what")
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (
            (*text, "noise"),
            "--what: got 'noise'; did you mean 'noising'? Legal: noising, denoising, latents, "
            "attention, neighbours.",
        ),
        (
            (*text, "denoising", "--prompt", PROMPT, "--image", "a.png"),
            "--image: has no effect without --what noising or latents.",
        ),
        (
            (*text, "denoising", "--prompt", PROMPT, "--num_images", 2),
            "--num_images: has no effect without --what neighbours.",
        ),
        (
            (*text, "latents", "--image", tmp_path / "file"),
            f"--image={tmp_path / 'file'}: cannot be read as an image (cannot identify image file "
            f"{str(tmp_path / 'file')!r}).",
        ),
        (
            (*text, "latents", "--config.task.model.channels=16"),
            "--config.task.model.channels=16: a trained run keeps its configuration. Legal: "
            "--config.sample.FIELD, --config.data.source.FIELD, and the flags of 'ldm-jax inspect "
            "--help'.",
        ),
        (
            ("--workdir", runs.text, "--out", tmp_path / "file", "--what", "latents"),
            f"--out={tmp_path / 'file'}: {tmp_path / 'file'} is a file; expected a folder.",
        ),
        (
            ("--workdir", runs.classes, "--out", out, "--what", "attention", "--class", 1),
            "attention: this model's conditioner reads class. Legal: a model that reads text.",
        ),
        ((*text, "denoising"), "prompts: this model needs at least one."),
    ):
        status = command(*arguments)
        found = capfd.readouterr()
        assert (status, found.out) == (2, "")
        assert found.err == f"ldm-jax: {message}\n"
    assert not out.exists()
