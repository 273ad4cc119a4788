"""`ldm-jax convert` and models of other layouts, as a user meets them; no PyTorch anywhere."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli.config_args import load_config
from ldm_jax.cli.main import main
from ldm_jax.core.checks import UserError
from ldm_jax.data.tokenizers import HuggingFaceTokenizer, WordTokenizer
from ldm_jax.interop.mapping import flatten
from ldm_jax.interop.safetensors_io import SafetensorsFile, SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.pipeline import Pipeline
from ldm_jax.train.convert import convert
from ldm_jax.train.exchange import open_model, read_model_config

TINY = str(Path(__file__).parent / "tiny.py")
PROMPTS = ["a large red circle at the top left", "a small blue square at the bottom"]


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def refuse(capfd, *arguments):
    """Runs a command that must fail, and returns its output and its one line of error."""
    status = main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert status == 2
    assert err.count("\n") == 1
    return out, err.removeprefix("ldm-jax: ").rstrip("\n")


def weights(path, **kwargs):
    """Returns all parameters of a model, by component and path."""
    model = open_model(path, **kwargs)
    model.check()
    found = {
        f"{name}/{path}": x
        for name in model.abstract
        for path, x in flatten(model.load(name)).items()
    }
    model.close()
    return found


def assert_same_weights(got, expected):
    assert got.keys() == expected.keys()
    for path, x in expected.items():
        assert got[path].dtype == x.dtype
        assert got[path].tobytes() == x.tobytes(), path


def test_a_run_in_our_layout_draws_the_same_images(runs, tmp_path, capfd):
    run("convert", runs.text, tmp_path / "own", "--to", "ldm_jax")
    out, err = capfd.readouterr()
    assert "every tensor is accounted for" in out
    assert "convert: 100%" in err
    assert {p.name for p in (tmp_path / "own").iterdir()} == {
        *("config.json", "unet.safetensors", "conditioner.safetensors", "first_stage.safetensors"),
        "latent_scale.json",
    }
    before = Pipeline.from_checkpoint(runs.text)(PROMPTS, seed=3)
    after = Pipeline.from_checkpoint(tmp_path / "own")(PROMPTS, seed=3)
    np.testing.assert_array_equal(after, before)
    run("sample", "--checkpoint", tmp_path / "own", "--prompt", PROMPTS[0], "--out", tmp_path / "o")
    drawn = np.asarray(Image.open(tmp_path / "o" / "00000.png"))
    np.testing.assert_array_equal(drawn, Pipeline.from_checkpoint(runs.text)(PROMPTS[:1])[0])


def test_raw_and_averaged_parameters_are_told_apart(runs, tmp_path):
    run("convert", runs.text, tmp_path / "raw", "--to", "ldm_jax", "--raw")
    averaged, raw = weights(runs.text), weights(runs.text, ema=False)
    assert_same_weights(weights(tmp_path / "raw"), raw)
    assert any(not np.array_equal(averaged[path], raw[path]) for path in raw)


def test_class_model_through_compvis_comes_back_bit_by_bit(runs, tmp_path):
    file = tmp_path / "model.safetensors"
    run("convert", runs.classes, file, "--to", "compvis")
    config = ["--config", f"{TINY}:class", "--config.task.first_stage.scale_factor=1.0"]
    run("convert", file, tmp_path / "own", "--to", "ldm_jax", *config)
    before, after = weights(runs.classes), weights(tmp_path / "own")
    # The latents of this run are scaled per channel; one number is all that CompVis knows, so the
    # scale went into the convolutions about the latent.
    moved = {path for path in before if "quant_conv" in path}
    assert moved
    for path in before.keys() - moved:
        assert after[path].tobytes() == before[path].tobytes(), path
    images = [
        Pipeline.from_checkpoint(path)(classes=[3, 9], seed=1, output="float32")
        for path in (runs.classes, tmp_path / "own")
    ]
    assert images[0].std() > 0.01
    np.testing.assert_allclose(images[1], images[0], atol=2e-5)


def test_a_folded_encoder_gives_scaled_latents(runs, tmp_path):
    x = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    with open_model(runs.text) as model:
        stage, scale = model.module("first_stage"), model.latent_scale
        plain = stage.apply({"params": model.load("first_stage")}, x, method="encode")
        convert(model, tmp_path / "folder", "diffusers")
    shift, factor = np.asarray(scale.shift), np.asarray(scale.scale)
    assert np.all(shift != 0)
    with open_model(tmp_path / "folder" / "vqvae") as model:
        folded = stage.apply({"params": model.load("first_stage")}, x, method="encode")
    np.testing.assert_allclose(folded.mean, (np.asarray(plain.mean) - shift) * factor, atol=2e-5)
    std = np.exp(0.5 * np.asarray(plain.logvar)) * factor
    np.testing.assert_allclose(np.exp(0.5 * folded.logvar), std, rtol=2e-4)


def test_text_model_as_a_diffusers_folder(runs, tmp_path):
    folder = tmp_path / "folder"
    run("convert", runs.text, folder, "--to", "diffusers")
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "LDMTextToImagePipeline"
    words = WordTokenizer(length=12)
    theirs = HuggingFaceTokenizer(str(folder / "tokenizer"), 12)
    for text in (*PROMPTS, "A LARGE, red_circle isn't zebra 3!", ""):
        np.testing.assert_array_equal(theirs(text), words(text))
    images = [
        Pipeline.from_checkpoint(runs.text)(PROMPTS, seed=1, output="float32"),
        _pipeline_like(runs.text, folder)(PROMPTS, seed=1, output="float32"),
    ]
    np.testing.assert_allclose(images[1], images[0], atol=2e-5)


def _pipeline_like(workdir, path):
    """Returns a pipeline that samples as a run does."""
    config = read_model_config(path)
    with config.unlocked():
        config.sample = read_model_config(workdir).sample
    return Pipeline.from_checkpoint(path, config=config)


_SLOW = [pytest.param(layout, marks=pytest.mark.slow) for layout in ("diffusers", "ldm_jax")]


@pytest.mark.parametrize("layout", ["compvis", *_SLOW])
def test_a_first_stage_alone_trains_a_diffusion_model(runs, tmp_path, layout):
    target = tmp_path / ("stage.safetensors" if layout == "compvis" else "stage")
    run("convert", runs.autoencoder, target, "--to", layout)
    if layout == "compvis":  # no attention in the middle, two groups: the shapes do not say
        run("convert", target, tmp_path / "own", "--to", "ldm_jax", "--config", TINY)
        assert_same_weights(weights(tmp_path / "own"), weights(runs.autoencoder))
        target = tmp_path / "own"
    assert_same_weights(weights(target), weights(runs.autoencoder))
    command = ["train", "--config", f"{TINY}:text", "--workdir", tmp_path / "run"]
    run(*command, f"--config.task.first_stage.workdir={target}", "--config.train.steps=1")
    got, expected = (
        {path: x for path, x in weights(found).items() if path.startswith("first_stage/")}
        for found in (tmp_path / "run", runs.text)
    )
    assert_same_weights(got, expected)


def test_a_run_starts_from_another_model(runs, tmp_path, capfd):
    run("convert", runs.text, tmp_path / "own", "--to", "ldm_jax")
    command = ["train", "--config", f"{TINY}:text", "--workdir", tmp_path / "run"]
    tiny_step = ["--config.train.steps=1", "--config.train.learning_rate=1e-30"]
    run(*command, *tiny_step, f"--config.train.init_from={tmp_path / 'own'}")
    started, origin = weights(tmp_path / "run"), weights(runs.text)
    assert started.keys() == origin.keys()
    for path, x in origin.items():
        np.testing.assert_allclose(started[path], x, atol=1e-6, err_msg=path)
    capfd.readouterr()
    command[-1] = tmp_path / "other"
    out, line = refuse(
        capfd,
        *command,
        f"--config.train.init_from={tmp_path / 'own'}",
        "--config.task.model.channels=16",
    )
    assert out == ""
    assert line.startswith(f"config.train.init_from={tmp_path / 'own'}: its unet has ")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_a_frozen_conditioner_comes_from_the_start_and_stays(runs, tmp_path, capfd):
    frozen = "--config.task.train_conditioner=False"
    command = ["train", "--config", f"{TINY}:text", "--workdir", tmp_path / "run", frozen]
    _, line = refuse(capfd, *command)
    assert line == (
        "config.task.train_conditioner=False: a frozen conditioner needs its weights. Legal: "
        "--config.task.conditioner_weights=FOLDER, of transformers or a model that has them, or "
        "--config.train.init_from=MODEL, such as a diffusers folder of Stable Diffusion."
    )
    run(*command, f"--config.train.init_from={runs.text}", "--config.train.steps=2")
    after, before = weights(tmp_path / "run"), weights(runs.text)
    for path, x in before.items():
        changed = not np.array_equal(after[path], x)
        assert changed == (path.startswith("unet/") and np.abs(after[path] - x).max() > 0), path
    assert any(not np.array_equal(after[p], before[p]) for p in before if p.startswith("unet/"))
    run(*command, f"--config.train.init_from={runs.text}", "--config.train.steps=3")
    pipeline = Pipeline.from_checkpoint(tmp_path / "run")
    assert pipeline(PROMPTS).shape == (2, 16, 16, 3)


def edited(source, target, change):
    """Writes a safetensors file anew after `change(tensors)`."""
    with SafetensorsFile(source) as file:
        tensors = {name: file[name] for name in file.keys()}
    change(tensors)
    infos = {name: TensorInfo(x.shape, x.dtype) for name, x in tensors.items()}
    with SafetensorsWriter(target, infos) as writer:
        for name, x in tensors.items():
            writer.write(name, x)


def test_every_tensor_is_accounted_for(runs, tmp_path, capfd):
    whole, file = tmp_path / "whole.safetensors", tmp_path / "edited.safetensors"
    run("convert", runs.classes, whole, "--to", "compvis")
    prefix = "model.diffusion_model."

    def change(tensors):
        del tensors[f"{prefix}input_blocks.0.0.bias"]
        tensors[f"{prefix}extra.weight"] = np.zeros(3, np.float32)
        tensors[f"{prefix}out.2.bias"] = np.zeros(7, np.float32)
        tensors["stranger"] = np.zeros(1, np.float32)
        tensors["sqrt_alphas_cumprod"] = np.zeros(1000, np.float32)  # known, and not needed

    edited(whole, file, change)
    config = ["--config", f"{TINY}:class", "--config.task.first_stage.scale_factor=1.0"]
    command = ["convert", file, tmp_path / "own", "--to", "ldm_jax", *config]
    capfd.readouterr()
    out, line = refuse(capfd, *command)
    assert out.splitlines() == [
        "unet: missing input_blocks.0.0.bias",
        "unet: unexpected extra.weight",
        "unet: out.2.bias has shape (7,), expected (2,)",
        "unexpected stranger",
    ]
    assert line.startswith(f"{file}: 4 tensors do not fit, listed above. Legal: --no_strict, which")
    assert not (tmp_path / "own").exists()
    sample = ["sample", "--checkpoint", file, "--class", "1", "--out", tmp_path / "out", *config]
    _, line = refuse(capfd, *sample)
    assert line.startswith(f"{file}: unet: missing input_blocks.0.0.bias; unet: unexpected extra.")
    run(*command, "--no_strict")
    got, expected = weights(tmp_path / "own"), weights(whole, config=_settled(config))
    drawn = {"unet/conv_in/bias", "unet/conv_out/bias"}
    for path in expected.keys() - drawn:
        assert got[path].tobytes() == expected[path].tobytes()
    assert np.all(got["unet/conv_out/bias"] == 0)  # as training starts
    assert np.all(np.isfinite(got["unet/conv_in/bias"]))


def _settled(arguments):
    from ldm_jax.cli.config_args import apply_overrides

    config = load_config(arguments[1])
    apply_overrides(config, arguments[2:])
    return config


def test_half_precision_stays_what_it_is(runs, tmp_path):
    run("convert", runs.text, tmp_path / "own", "--to", "ldm_jax")

    def halve(tensors):
        for name in list(tensors):
            tensors[name] = tensors[name].astype(np.float16)

    half = tmp_path / "half"
    shutil.copytree(tmp_path / "own", half)
    for file in ("unet", "conditioner", "first_stage"):
        edited(tmp_path / "own" / f"{file}.safetensors", half / f"{file}.safetensors", halve)
    run("convert", half, tmp_path / "again", "--to", "ldm_jax")
    got = weights(tmp_path / "again")
    assert {x.dtype for x in got.values()} == {np.dtype(np.float16)}
    assert_same_weights(got, weights(half))
    with pytest.raises(UserError, match="the scale of its latents belongs to the first stage"):
        Pipeline.from_checkpoint(half)  # rounded, it is another one
    (half / "latent_scale.json").unlink()
    images = Pipeline.from_checkpoint(half)(PROMPTS, output="float32")
    reference = Pipeline.from_checkpoint(runs.text)(PROMPTS, output="float32")
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, reference, atol=0.05)


MISTAKES = [
    (["none", "--to", "ldm_jax"], "none: no such file or folder. Legal: a training run's"),
    (["{text}", "--to", "onnx"], "--to: got 'onnx'. Legal: ldm_jax, diffusers, compvis."),
    (["{text}", "--to", "compvis"], ": the layout compvis is a file. Legal: a name in .safetens"),
    (
        ["{classes}", "--to", "diffusers"],
        "diffusers has no place for the conditioner classlabel. ",
    ),
    (["{empty}", "--to", "ldm_jax"], ": no model that we know. Legal: a training run's --workdir"),
    (["{text}"], "missing --to; see 'ldm-jax convert --help'."),
    (["{png}", "--to", "ldm_jax"], "not a file of weights by its name. Legal: names that end in"),
]


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES, ids=[e[:25] for _, e in MISTAKES])
def test_mistakes_take_one_line_and_write_nothing(runs, capfd, tmp_path, arguments, expected):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.png").write_bytes(b"no weights")
    names = {
        "text": runs.text,
        "classes": runs.classes,
        "empty": tmp_path / "empty",
        "png": tmp_path / "a.png",
    }
    source, *rest = (argument.format(**names) for argument in arguments)
    _, line = refuse(capfd, "convert", source, tmp_path / "target", *rest)
    assert expected in line
    assert not (tmp_path / "target").exists()


def test_nothing_is_overwritten(runs, capfd, tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "precious").write_text("mine")
    _, line = refuse(capfd, "convert", runs.text, tmp_path / "target", "--to", "ldm_jax")
    assert line == f"{tmp_path / 'target'}: there is something already. Legal: a new name."
    assert (tmp_path / "target" / "precious").read_text() == "mine"


def test_a_damaged_folder_of_ours_is_named(runs, tmp_path):
    run("convert", runs.text, tmp_path / "own", "--to", "ldm_jax")
    (tmp_path / "own" / "conditioner.safetensors").unlink()
    with pytest.raises(UserError, match=r"own: holds no conditioner, which latent_diffusion needs"):
        open_model(tmp_path / "own")
    (tmp_path / "own" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"config\.json: damaged \(no task, data, sample\)\.$"):
        open_model(tmp_path / "own")


def test_parameters_are_laid_out_over_the_mesh(runs, tmp_path):
    run("convert", runs.text, tmp_path / "own", "--to", "ldm_jax")
    pipeline = Pipeline.from_checkpoint(tmp_path / "own")
    assert all(x.sharding.mesh == pipeline.mesh for x in jax.tree.leaves(pipeline._params))


def test_a_folder_is_no_file_and_lies_elsewhere(runs, capfd, tmp_path):
    _, line = refuse(capfd, "convert", runs.text, tmp_path / "a.safetensors", "--to", "ldm_jax")
    assert line.endswith(
        "a.safetensors: the layout ldm_jax is a folder. Legal: the name of a folder."
    )
    target = runs.text / "frozen" / "inside"
    _, line = refuse(capfd, "convert", runs.text, target, "--to", "ldm_jax")
    assert line == f"{target}: lies within {runs.text}. Legal: a place outside it."
    (tmp_path / "empty.safetensors").mkdir()
    _, line = refuse(capfd, "convert", runs.text, tmp_path / "empty.safetensors", "--to", "compvis")
    assert "there is something already" in line


def test_a_killed_conversion_is_no_model_and_is_begun_anew(runs, tmp_path):
    (tmp_path / "own.part").mkdir()
    (tmp_path / "own.part" / "unet.safetensors.tmp").write_bytes(b"half")
    (tmp_path / "own").mkdir()  # empty, as a user may have made it
    run("convert", runs.text, tmp_path / "own", "--to", "ldm_jax")
    assert_same_weights(weights(tmp_path / "own"), weights(runs.text))
    assert not (tmp_path / "own.part").exists()


@pytest.mark.slow  # two runs
def test_pixel_space_goes_out_and_in(runs, tmp_path):
    changes = [
        "--config.task.first_stage.model.name=identity",
        "--config.task.model.out_channels=3",
        "--config.train.steps=1",
    ]
    run("train", "--config", f"{TINY}:class", "--workdir", tmp_path / "pixels", *changes)
    run("convert", tmp_path / "pixels", tmp_path / "own", "--to", "ldm_jax")
    images = [
        Pipeline.from_checkpoint(path)(classes=[1, 2], seed=4)
        for path in (tmp_path / "pixels", tmp_path / "own")
    ]
    np.testing.assert_array_equal(images[0], images[1])


def test_what_is_missing_is_drawn_in_the_type_of_the_rest(runs, tmp_path):
    run("convert", runs.text, tmp_path / "own", "--to", "ldm_jax")

    def halve_and_drop(tensors):
        for name in list(tensors):
            tensors[name] = tensors[name].astype(np.float16)
        tensors.pop("conv_in/bias", None)

    file = tmp_path / "own" / "unet.safetensors"
    edited(file, tmp_path / "edited.safetensors", halve_and_drop)
    shutil.move(tmp_path / "edited.safetensors", file)
    run("convert", tmp_path / "own", tmp_path / "again", "--to", "ldm_jax", "--no_strict")
    with open_model(tmp_path / "again") as model:
        types = {path: x.dtype for path, x in flatten(model.load("unet")).items()}
    assert set(types.values()) == {np.dtype(np.float16)}


def test_files_answer_for_their_scale_and_are_held_against_the_config(runs, tmp_path, capfd):
    file = tmp_path / "model.safetensors"
    run("convert", runs.classes, file, "--to", "compvis")

    def rescale(tensors):
        tensors["scale_factor"] = np.float32(0.18215)

    edited(file, tmp_path / "scaled.safetensors", rescale)
    with open_model(tmp_path / "scaled.safetensors", config=load_config(f"{TINY}:class")) as model:
        np.testing.assert_allclose(model.latent_scale.scale, 0.18215)
        assert model.notes == ()
    config = ["--config", f"{TINY}:class", "--config.task.first_stage.scale_factor=0.5"]
    other = "--config.task.schedule.end=0.02"
    capfd.readouterr()
    command = ["convert", tmp_path / "scaled.safetensors", tmp_path / "own", "--to", "ldm_jax"]
    run(*command, *config, other)
    out = capfd.readouterr().out
    assert "note: the file's betas are not those of config.task.schedule, which is used" in out
    assert "note: the file's scale_factor is 0.18215; config's, 0.5, is used" in out


def test_tensors_of_a_conditioner_that_the_config_has_not_are_strays(runs, tmp_path):
    file = tmp_path / "model.safetensors"
    run("convert", runs.classes, file, "--to", "compvis")
    config = load_config(f"{TINY}:class")
    with config.unlocked():
        config.task.conditioner = {
            "name": "identity",
            "key": "tokens_of_others",
            "shape": (1, 8),
            "route": "context",
        }
    with open_model(file, config=config) as model:
        assert model.report() == ["unexpected cond_stage_model.embedding.weight"]


def test_a_run_starts_from_no_other_model_of_the_same_shapes(runs, tmp_path, capfd):
    # Heads do not show in shapes.
    _, line = refuse(
        capfd,
        *("train", "--config", f"{TINY}:text", "--workdir", tmp_path / "run"),
        f"--config.train.init_from={runs.text}",
        "--config.task.model.num_head_channels=4",
    )
    assert line == (
        f"config.train.init_from={runs.text}: its unet has num_head_channels=8, the run's 4. "
        "Legal: a model with the same fields."
    )


def test_conditions_come_from_a_file(runs, tmp_path, capfd):
    np.savez(tmp_path / "c.npz", low_res=np.zeros((1, 8, 8, 3), np.float32))
    command = ["sample", "--workdir", runs.text, "--out", tmp_path / "o", "--prompt", "a"]
    _, line = refuse(capfd, *command, "--conditions", tmp_path / "none.npz")
    assert line.endswith("none.npz: no such file; expected a .npz of numpy.savez.")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    _, line = refuse(capfd, *command, "--conditions", tmp_path / "bad.npz")
    assert "bad.npz: not a .npz of plain arrays" in line
