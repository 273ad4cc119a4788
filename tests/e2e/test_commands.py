"""`ldm-jax` as a user meets it: what is printed, what lies on disk, and every mistake."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.cli.main import COMMANDS, main
from ldm_jax.core.checks import UserError

TINY = str(Path(__file__).parent / "tiny.py")
COMMAND = Path(sys.executable).with_name("ldm-jax")
PROMPT = "a large red circle at the top left"


def refuse(capfd, *arguments):
    """Runs a command that must fail, and returns its one line of standard error."""
    status = main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("ldm-jax: ")
    assert err.count("\n") == 1
    return err.removeprefix("ldm-jax: ").removesuffix("\n")


def draw(runs, out, *arguments, workdir=None):
    """Runs `ldm-jax sample` and returns the images by file name."""
    command = ["sample", "--workdir", workdir or runs.text, "--out", out, *arguments]
    assert main([str(argument) for argument in command]) == 0
    return {path.name: np.asarray(Image.open(path)) for path in sorted(out.glob("*.png"))}


def test_the_installed_command_speaks_quickly():
    for arguments in (["--help"], ["train", "--help"]):
        start = time.monotonic()
        done = subprocess.run(
            [COMMAND, *arguments], capture_output=True, text=True, check=True, timeout=60
        )
        # 0.2 s on a quiet machine; JAX alone would take longer than the limit.
        assert time.monotonic() - start < 1.5
        assert done.stdout.startswith("usage: ldm-jax")
        assert max(map(len, done.stdout.splitlines())) <= 100
        assert done.stderr == ""
    done = subprocess.run(
        [COMMAND, "train", "--config", "none.py", "--workdir", "none"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "ldm-jax: --config=none.py: no such file; expected a Python file with get_config().\n"
    )


def test_help_names_commands_overrides_and_examples(capsys):
    texts = {}
    for arguments in ([], *([command] for command in COMMANDS)):
        with pytest.raises(SystemExit) as exit_info:
            main([*arguments, "--help"])
        assert exit_info.value.code == 0
        texts["".join(arguments)] = capsys.readouterr().out
    for command in COMMANDS:
        assert command in texts[""]
        assert "--config.a.b=value" in texts[command]
        assert f"  ldm-jax {command} " in texts[command]


def test_info_prints_a_table_and_the_facts(capsys):
    command = ["info", "--config", f"{TINY}:text", "--workdir", "unused"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert main([*command, "--json", "--config.train.scale_learning_rate=true"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert "unet/conv_in/kernel" in text
    assert "multiples of 2 pixels" in text
    assert facts["latent_shape"] == [8, 8, 2]
    assert facts["image_size"] == [16, 16, 3]
    assert facts["size_multiple"] == 2
    assert facts["effective_learning_rate"] == pytest.approx(0.4)  # 0.05 × 8
    assert sum(facts["parameters"].values()) == facts["trained_parameters"]
    assert f"{facts['trained_parameters']:,}" in text
    # 24 words of the shapes, 12 positions, width 8
    assert facts["parameters"]["conditioner"] > (24 + 12) * 8
    assert not Path("unused").exists()


def test_train_leaves_checkpoints_scalars_and_grids(runs):
    border, side = 2, 16
    for workdir, name, rows, columns in (
        (runs.autoencoder, "reconstructions", 2, 9),  # four images, three triples a row
        (runs.text, "samples", 2, 2),
        (runs.classes, "samples", 2, 2),
    ):
        assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["3"]
        (events,) = (workdir / "tensorboard").iterdir()
        written = events.read_bytes()
        for tag in (b"train/loss", b"train/learning_rate", b"train/images_per_second"):
            assert written.count(tag) >= 3
        assert name.encode() in written
        grid = np.asarray(Image.open(workdir / name / "00000003.png"))
        shape = [count * (side + border) + border for count in (rows, columns)]
        assert grid.shape == (*shape, 3)
        assert json.loads((workdir / "config.json").read_text())["train"]["steps"] == 3


def test_train_resumes_and_says_so(runs, tmp_path, capfd):
    workdir = tmp_path / "autoencoder"
    shutil.copytree(runs.autoencoder, workdir)
    command = ["train", "--config", TINY, "--workdir", str(workdir), "--config.train.steps=4"]
    assert main(command) == 0
    out, err = capfd.readouterr()
    assert out == f"trained to step 4; checkpoints, logs and grids in {workdir}\n"
    assert err.startswith("ldm-jax: resumed at step 3 of 4\n")
    assert "WARNING" not in err
    assert (workdir / "checkpoints" / "4").is_dir()


def test_sample_writes_images_grid_and_record(runs, tmp_path, capfd):
    command = ("--prompt", PROMPT, "--num_images", 3, "--seed", 7, "--grid")
    images = draw(runs, tmp_path / "a", *command)
    out, err = capfd.readouterr()
    assert out == f"3 images in {tmp_path / 'a'}\n"
    assert "WARNING" not in err
    assert list(images) == ["00000.png", "00001.png", "00002.png", "grid.png"]
    assert images["00000.png"].shape == (16, 16, 3)
    assert images["grid.png"].shape == (38, 38, 3)
    np.testing.assert_array_equal(images["grid.png"][2:18, 20:36], images["00001.png"])
    record = json.loads((tmp_path / "a" / "samples.json").read_text())
    sample = record.pop("sample")
    assert len(record.pop("checkpoint_hash")) == 64
    assert record == {
        "checkpoint": str(runs.text),
        "step": 3,
        "parameters": "ema",
        "seed": 7,
        "size": [16, 16],
        "num_images": 3,
        "images": [{"file": f"0000{k}.png", "index": k, "prompt": PROMPT} for k in range(3)],
    }
    assert sample["sampler"] == {"name": "ddim", "eta": 0.0}
    assert (sample["steps"], sample["spacing"], sample["guidance_scale"]) == (2, "trailing", 2.0)


def test_the_same_seed_draws_the_same_and_more_images_continue(runs, tmp_path):
    prompt = ("--prompt", PROMPT)
    five = draw(runs, tmp_path / "a", *prompt, "--num_images", 5)
    assert len(five) == 5
    again = draw(runs, tmp_path / "b", *prompt, "--num_images", 5)
    three = draw(runs, tmp_path / "a", *prompt, "--num_images", 3)
    other = draw(runs, tmp_path / "c", *prompt, "--seed", 1)
    assert five.keys() == again.keys()
    for name, image in five.items():
        np.testing.assert_array_equal(image, again[name])
    # The folder of the first call now holds the images of the third, and no others.
    assert list(three) == ["00000.png", "00001.png", "00002.png"]
    for name, image in three.items():
        np.testing.assert_array_equal(image, five[name])
    assert not np.array_equal(other["00000.png"], five["00000.png"])


def test_sample_takes_prompts_classes_sampler_and_size(runs, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a small blue cross at the top left\n\n  a large red circle\n")
    out = tmp_path / "text"
    flags = ("--sampler", "ddpm", "--steps", 3, "--guidance", 1, "--size", "8x24", "--raw")
    images = draw(runs, out, "--prompt", "red", "--prompts", prompts, *flags)
    record = json.loads((out / "samples.json").read_text())
    assert images["00002.png"].shape == (8, 24, 3)
    assert [row["prompt"] for row in record["images"]] == [
        "red",
        "a small blue cross at the top left",
        "a large red circle",
    ]
    assert record["parameters"] == "raw"
    assert record["sample"]["sampler"] == {"name": "ddpm"}
    assert (record["sample"]["steps"], record["sample"]["guidance_scale"]) == (3, 1.0)

    out = tmp_path / "class"
    images = draw(runs, out, "--class", 23, "--class", 0, workdir=runs.classes)
    record = json.loads((out / "samples.json").read_text())
    assert [row["class"] for row in record["images"]] == [23, 0]
    assert not np.array_equal(images["00000.png"], images["00001.png"])


# Arguments after `ldm-jax`, and what the one line must say.
USAGE = [
    (
        [],
        "missing COMMAND. Legal: train, sample, studio, evaluate, inspect, encode, convert, info, "
        "plan, data; see 'ldm-jax --help'.",
    ),
    (
        ["trian"],
        "unknown command 'trian'; did you mean 'train'? Legal: train, sample, studio,",
    ),
    (["train"], "missing --config, --workdir; see 'ldm-jax train --help'."),
    (["train", "--config"], "argument --config: expected one argument; see"),
    (["train", "--confg", "a"], "unknown argument '--confg'; did you mean '--config'?"),
    (["info", "--config", TINY, "3"], "unknown argument '3'. Legal: flags, each before its value."),
    (
        ["sample", "--prompt", "a"],
        "one of the arguments --workdir --checkpoint is required; see 'ldm-jax sample --help'.",
    ),
    (["sample", "--workdir", "none"], "none/config.json: not found; expected the --workdir of"),
    (["sample", "--seed=-1"], "--seed: got '-1', expected a whole number from 0 to 2^32 - 1"),
    (["sample", "--steps=0"], "--steps: got '0', expected a whole number from 1"),
    (["sample", "--guidance=nan"], "--guidance: got 'nan', expected a number such as 2.0"),
    (["sample", "--size=33"], "--size: got '33', expected HEIGHTxWIDTH in pixels, such as 64x96"),
]


@pytest.mark.parametrize(("arguments", "expected"), USAGE, ids=[e[:30] for _, e in USAGE])
def test_usage_errors_take_one_line(capfd, arguments, expected):
    assert expected in refuse(capfd, *arguments)


# Overrides of a run of tiny.py:text with a first stage, and what the one line must say.
OVERRIDES = [
    ("train.setps=3", "config.train has no field 'setps'; did you mean 'steps'? Legal: acc"),
    (
        "tran.steps=3",
        "config has no field 'tran'; did you mean 'train'? Legal: data, evaluation, sample",
    ),
    ("train.steps.a=3", "config.train.steps is a value, it has no fields."),
    ("train.steps", "--config.train.steps: needs a value, as --config.train.steps=VALUE."),
    ("train=3", "--config.train: is a group; set its fields, as --config.train.FIELD=VALUE."),
    ("train=None", "--config.train: is a group; set its fields, as --config.train.FIELD=VALUE. Le"),
    ("train.steps=abc", "got 'abc', expected a whole number such as 3."),
    ("train.steps=True", "got 'True', expected a whole number such as 3."),
    ("train.steps=None", "got 'None', expected a whole number such as 3."),
    ("train.ema_decay=x", "got 'x', expected a number such as 0.9."),
    ("train.clip_norm=x", "--config.train.clip_norm: got 'x', expected a number."),
    ("train.mesh=abc", "got 'abc', expected a tuple such as (-1, 1, 1)."),
    ("train.mesh=3,1,1", "mesh=(3, 1, 1): the sizes must multiply to this run's 8 device(s)."),
    ("train.batch_size=12", "train.batch_size=12 must be a multiple of data × fsdp × accumulation"),
    ("train.clip_norm=-1.0", "config.train.clip_norm=-1.0: legal is a positive number, or None."),
    (
        "train.keep_every=4",
        "config.train.keep_every=4: legal is a multiple of checkpoint_every=3, or None.",
    ),
    ("train.ema_decay=-5.0", "config.train.ema_decay=-5.0: legal is 0 to 1."),
    ("train.b1=1.5", "config.train.b1=1.5: legal is 0 <= b1 < 1."),
    ("train.learning_rate=1e999", "config.train.learning_rate=inf: legal is a positive number."),
    ("data.channels=1", "config.data.channels=1, but the first stage has image_channels=3."),
    ("data.prefetch=-1", "data.prefetch: got -1. Legal: 0 or more."),
    ("data.flip_probability=7.0", "data.flip_probability: got 7.0. Legal: 0 to 1."),
    ("task.conditioner.num_heads=0", "num_heads: got 0. Legal: 1 or more."),
    ("train.log_every=0", "config.train.log_every=0: legal is 1 or more."),
    ("seed=-1", "config.seed=-1: legal is 0 to 2^32 - 1."),
    ("task.modle.channels=3", "config.task has no field 'modle'; did you mean 'model'? Legal: "),
    ("task.model.chanels=3", "unknown field 'chanels' for UNet; did you mean 'channels'? Fields: "),
    ("task.model.channels=abc", "config.task.model.channels: got 'abc', expected a whole number."),
    ("task.weights=1", "config.task.weights: cannot be set here; the rest of the config decides"),
    ("task.model.channels=0", "channels: got 0. Legal: 1 or more."),
    ("task.model.channel_mult=()", "channel_mult=(): legal is at least one whole number."),
    ("task.first_stage.model.z_channels=0", "z_channels: got 0. Legal: 1 or more."),
    ("task.model.channel_mult=a", "got 'a', expected a tuple (whole numbers)."),
    ("task.model.num_heads=1.5", "got 1.5, expected a whole number or none."),
    ("task.model.name=unett", "config.task.model.name: got 'unett'; did you mean 'unet'? Legal: "),
    ("task.name=autoencoders", "config.task.name: got 'autoencoders'; did you mean 'autoencoder'?"),
    ("task.weighting.name=min_snrr", "got 'min_snrr'; did you mean 'min_snr'? Legal: uniform, "),
    ("task.first_stage.scale=1", "config.task.first_stage: unknown field 'scale' for first_stage"),
    ("data.image_size=33", "image size 33: the model takes multiples of 2 pixels. Legal: 2, 4, 6"),
    (
        "data.flip_probability=often",
        "config.data.flip_probability: got 'often', expected a number.",
    ),
    (
        "data.flip=1",
        "config.data: unknown field 'flip' for make_stream. Fields: source, batch_size",
    ),
    ("data.background=(1,2)", "config.data.background: got (1, 2), expected a tuple (3 of whole"),
    ("data.source.max_object=1", "unknown field 'max_object' for Shapes; did you mean 'max_object"),
    ("data.source.name=folder", "data.source.path: not set. Expected a folder of images; set it"),
    ("data.source.name=tfds", "Tfds needs dataset, path, as --config.data.source.dataset=VALUE"),
    ("data.tokenizer.name=huggingface", "config.data.tokenizer: needs length, in tokens, such as"),
    ("sample.sampler.name=ddimm", "config.sample.sampler.name: got 'ddimm'; did you mean 'ddim'?"),
    ("sample.sampler.eta=2", "sampler 'ddim' eta: got 2.0. Legal: 0 to 1."),
    ("sample.spacing=even", "spacing: got 'even'. Legal: trailing, leading, linspace, quad"),
    ("sample.steps=2000", "num_steps: got 2000. Legal: 1 to 1000."),
    ("sample.per_device_batch=0", "config.sample.per_device_batch=0: legal is 1 or more."),
]


@pytest.mark.parametrize(("override", "expected"), OVERRIDES, ids=[o for o, _ in OVERRIDES])
def test_a_wrong_override_takes_one_line_and_leaves_nothing(
    runs, capfd, tmp_path, override, expected
):
    workdir = tmp_path / "run"
    line = refuse(
        capfd,
        *("train", "--config", f"{TINY}:text", "--workdir", workdir),
        f"--config.task.first_stage.workdir={runs.autoencoder}",
        f"--config.{override}",
    )
    assert expected in line
    assert not workdir.exists()


def test_missing_data_and_first_stages_are_named(runs, capfd, tmp_path):
    train = ("train", "--config", f"{TINY}:text", "--workdir", tmp_path / "run")
    assert refuse(capfd, *train).startswith("config.task.first_stage.workdir: not given; expected")
    line = refuse(capfd, *train, f"--config.task.first_stage.workdir={tmp_path / 'none'}")
    assert line.startswith(
        f"config.task.first_stage.workdir={tmp_path / 'none'}: no such file or folder. Legal: "
    )
    first_stage = f"--config.task.first_stage.workdir={runs.autoencoder}"
    for source in ("folder", "tfds"):
        fields = [f"--config.data.source.{kv}" for kv in (f"name={source}", "path=/none/such")]
        if source == "tfds":
            fields.append("--config.data.source.dataset=mnist")
        line = refuse(capfd, *train, first_stage, *fields)
        assert "/none/such" in line
        assert "set it with --config.data.source.path=DIR." in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder_is_named(runs, capfd, tmp_path):
    file = tmp_path / "file"
    file.touch()
    line = refuse(capfd, "train", "--config", TINY, "--workdir", file / "run")
    assert line == f"--workdir={file / 'run'}: {file} is a file; expected a folder."
    line = refuse(capfd, "sample", "--workdir", runs.text, "--prompt", "a", "--out", file)
    assert line == f"--out={file}: {file} is a file; expected a folder."


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "config.py: no such file; expected a Python file with get_config()."),
        ("x = 1\n", "config.py: defines no get_config()."),
        ("x = = 1\n", "config.py: line 1: invalid syntax."),
        ("def get_config(): return {}\n", "get_config() returned dict, expected ConfigDict."),
    ],
)
def test_config_files_that_are_none(capfd, tmp_path, source, expected):
    path = tmp_path / "config.py"
    if source is not None:
        path.write_text(source)
    assert refuse(capfd, "info", "--config", path).endswith(expected)


def test_a_config_without_the_defaults_or_with_strange_fields_is_refused(capfd, tmp_path):
    path = tmp_path / "config.py"
    body = "from {0} import {1}\ndef get_config():\n  config = {1}()\n{2}  return config\n"
    path.write_text(body.format("ml_collections", "ConfigDict", "  config.seed = 0\n"))
    assert "config: lacks evaluation, sample, train, task, data;" in refuse(
        capfd, "info", "--config", path
    )
    extra = "  config.task = config.data = {}\n  config.train.setps = 3\n"
    path.write_text(body.format("ldm_jax.core.defaults", "base_config", extra))
    line = refuse(capfd, "info", "--config", path)
    assert line.startswith("config.train: unknown field 'setps'; did you mean 'steps'? Fields: ")


def test_a_config_argument_that_nothing_takes_is_refused(capfd):
    config = Path(__file__).parents[2] / "configs" / "shapes_autoencoder.py"
    line = refuse(capfd, "info", "--config", f"{config}:large")
    assert line == f"--config={config}:large: its get_config() takes no argument. Legal: {config}."


# Arguments after `ldm-jax sample --workdir`, and what the one line must say.
SAMPLING = [
    (["text"], "prompts: this model needs at least one."),
    (["text", "--class", "1"], "classes: given, but this model's conditioner reads prompts."),
    (["class", "--prompt", "a"], "prompts: given, but this model's conditioner reads classes."),
    (["class", "--class", "99"], "class 99: legal is 0 to 23."),
    (
        ["autoencoder", "--prompt", "a"],
        "holds a first stage alone; sampling needs latent_diffusion",
    ),
    (["text", "--prompt", "a", "--sampler", "ddimm"], "got 'ddimm'; did you mean 'ddim'? Legal: "),
    (["text", "--prompt", "a", "--size", "33x32"], "image size 33: the model takes multiples of 2"),
    (["text", "--prompt", "a", "--size", "0x32"], "image size 0: the model takes multiples of 2"),
    (["text", "--prompt", "a", "--steps", "1001"], "num_steps: got 1001. Legal: 1 to 1000."),
    (["text", "--prompt", "a", "--config.sample.step=1"], "has no field 'step'; did you mean 'ste"),
    (
        ["text", "--prompt", "a", "--config.seed=1"],
        "--config.seed=1: a trained run keeps its ",
    ),
    (
        ["text", "--prompt", "a", "--config.data.image_size", "8"],
        "Legal: --config.sample.FIELD, a",
    ),
    (["text", "--prompts", "none.txt"], "none.txt: no such file; expected one prompt a line."),
    (["text", "--prompts", "/dev/null"], "/dev/null: no such file; expected one prompt"),
    (
        ["text", "--prompt", "a", "--prompt", "b", "--num_images", "3"],
        "--num_images=3: got 2 prompts or classes, one image each. Legal: --num_images with at mos",
    ),
]


@pytest.mark.parametrize(("arguments", "expected"), SAMPLING, ids=[e[:30] for _, e in SAMPLING])
def test_sampling_mistakes_take_one_line_and_write_nothing(
    runs, capfd, tmp_path, arguments, expected
):
    name, *rest = arguments
    command = ["sample", "--workdir", runs.text.with_name(name), "--out", tmp_path / "out", *rest]
    assert expected in refuse(capfd, *command)
    assert not (tmp_path / "out").exists()


def test_an_empty_prompts_file_is_refused(runs, capfd, tmp_path):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n  \n")
    line = refuse(capfd, "sample", "--workdir", runs.text, "--prompts", empty)
    assert line == f"--prompts={empty}: has no text in it; expected one prompt a line."


def test_text_that_is_not_utf8_is_named(runs, capfd, tmp_path):
    latin = tmp_path / "latin.txt"
    latin.write_bytes("café".encode("latin-1"))
    line = refuse(capfd, "sample", "--workdir", runs.text, "--prompts", latin)
    assert line == f"--prompts={latin}: byte 3 is not UTF-8. Legal: text saved as UTF-8."


def test_a_first_stage_is_compared_by_what_it_is(runs, capfd, tmp_path):
    command = [
        *("train", "--config", f"{TINY}:text", "--workdir", str(tmp_path / "run")),
        f"--config.task.first_stage.workdir={runs.autoencoder}",
        "--config.train.steps=1",
        "--config.sample.grid_images=0",
    ]
    line = refuse(capfd, *command, "--config.task.first_stage.model.channels=16")
    assert line == (
        f"config.task.first_stage.workdir={runs.autoencoder}: its first_stage has channels=8, the "
        "run's 16. Legal: a model with the same fields."
    )
    # A default that is written out, and another program for the same numbers, make no difference.
    same = ("dropout=0.1", "image_channels=3", "dtype=bfloat16")
    overrides = [f"--config.task.first_stage.model.{field}" for field in same]
    assert main([*command, *overrides]) == 0


def test_a_table_with_fewer_classes_than_the_data_is_refused(runs, capfd, tmp_path):
    line = refuse(
        capfd,
        *("train", "--config", f"{TINY}:class", "--workdir", tmp_path / "run"),
        f"--config.task.first_stage.workdir={runs.autoencoder}",
        "--config.task.conditioner.num_classes=23",
    )
    assert line == (
        "config.task.conditioner.num_classes=23, but the data have 24 classes. Legal: 24 or more."
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"name": "lambda_warmup_cosine"}, 0.005),  # 0.05 × its maximum of 0.1
        (
            {
                "name": "linear_schedule",
                "init_value": 0.0,
                "end_value": 0.3,
                "transition_steps": 2,
            },
            0.3,
        ),
        ({"name": "constant_schedule", "value": 0.2}, 0.2),
    ],
)
def test_info_prints_the_highest_rate_of_any_schedule(capsys, arguments, expected):
    flags = [f"--config.train.schedule.{key}={value}" for key, value in arguments.items()]
    command = ["info", "--json", "--config", TINY, *flags]
    extra = ["--config.train.warmup_steps=1"] if "lambda" in arguments["name"] else []
    assert main([*command, *extra]) == 0
    assert json.loads(capsys.readouterr().out)["effective_learning_rate"] == pytest.approx(expected)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '"a"'])
def test_a_damaged_run_is_named(capfd, tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    for command in (
        ("sample", "--workdir", tmp_path, "--prompt", "a"),
        ("train", "--config", TINY, "--workdir", tmp_path),
    ):
        line = refuse(capfd, *command)
        assert line.startswith(f"{tmp_path / 'config.json'}: damaged (")
        assert line.endswith("expected what `ldm-jax train` wrote there.")


def test_a_workdir_without_a_checkpoint_is_named(runs, capfd, tmp_path):
    shutil.copy(runs.text / "config.json", tmp_path)
    line = refuse(capfd, "sample", "--workdir", tmp_path, "--prompt", "a")
    assert line == f"{tmp_path}: no checkpoints here; expected the --workdir of a training run."


def test_overrides_set_what_they_say():
    config = load_config(f"{TINY}:text")
    apply_overrides(
        config,
        [
            "--config.train.mesh=2,4,1",
            "--config.train.learning_rate=1",
            "--config.train.clip_norm",
            "0.5",
            "--config.train.scale_learning_rate=true",
            "--config.task.model.dropout=0.1",
            "--config.task.weighting.gamma=5.0",
            "--config.task.weighting.name=min_snr",
            "--config.data.tokenizer.vocabulary=words.txt",
            "--config.data.source.name=folder",
            "--config.data.source.path=images",
        ],
    )
    assert config.train.mesh == (2, 4, 1)
    assert type(config.train.learning_rate) is float
    assert config.train.clip_norm == 0.5
    assert config.train.scale_learning_rate is True
    assert config.task.model.dropout == 0.1
    assert config.task.weighting.to_dict() == {"name": "min_snr", "gamma": 5.0}
    assert config.data.tokenizer.vocabulary == "words.txt"
    assert config.data.source.to_dict() == {"name": "folder", "path": "images"}
    assert config.is_locked
    config = load_config(f"{TINY}:inpainting")
    whole = config.copy_and_resolve_references()
    apply_overrides(config, ["--config.data.derive.mask=none"])
    assert config.data.derive.to_dict() == {}
    assert config.is_locked
    apply_overrides(whole, ["--config.data.derive=None"])
    assert "derive" not in whole.data
    with pytest.raises(UserError, match=r"config.data.derive has no field 'mask'. Legal: none\."):
        apply_overrides(config, ["--config.data.derive.mask=None"])
    with pytest.raises(UserError, match="unknown argument '--steps=3'"):
        apply_overrides(config, ["--steps=3"])
