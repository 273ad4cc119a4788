"""`ldm-jax encode` on 8 devices, and training from what it wrote."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from PIL import Image

from ldm_jax.cli.main import main
from ldm_jax.core.checks import UserError
from ldm_jax.core.rng import StepKeys
from ldm_jax.data.latent_cache import LatentCache
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.pipeline import Pipeline
from ldm_jax.tasks.base import to_float_images
from ldm_jax.tasks.first_stage import Frozen, LatentScale
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.checkpoint import read_frozen_record
from ldm_jax.train.encode import encode
from ldm_jax.train.exchange import open_model
from ldm_jax.train.frozen import prepare_frozen
from ldm_jax.train.loop import train

TINY = str(Path(__file__).parent / "tiny.py")
FLIPS = "--config.data.flip_probability=0.5"


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


def refuse(capfd, *arguments):
    """Runs a command that must fail, and returns its line of error."""
    capfd.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    return capfd.readouterr().err.splitlines()[-1].removeprefix("ldm-jax: ")


def first_stage(workdir):
    return f"--config.task.first_stage.workdir={workdir}"


def encoding(runs, out, *overrides):
    sizes = ("--examples_per_shard", 24, "--per_device_batch", 2)
    stage = first_stage(runs.autoencoder)
    return ["encode", "--config", f"{TINY}:text", "--out", out, *sizes, stage, *overrides]


def training(runs, workdir, *overrides):
    stage = first_stage(runs.autoencoder)
    return ["train", "--config", f"{TINY}:text", "--workdir", workdir, stage, *overrides]


@pytest.fixture(scope="module")
def cache(runs, tmp_path_factory):
    """Both orientations of 64 examples in three shards."""
    out = tmp_path_factory.mktemp("caches") / "cache"
    run(*encoding(runs, out, FLIPS))
    return out


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("moments-*"))}


@pytest.fixture(scope="module")
def vq(tmp_path_factory):
    """A quantising first stage after one step."""
    workdir = tmp_path_factory.mktemp("vq") / "autoencoder"
    config = tiny.get_config("autoencoder")
    config.task.model = {**tiny.AUTOENCODER, "name": "autoencoder_vq", "num_codes": 16}
    config.train.steps = 1
    config.sample.grid_images = 0
    train(config, workdir)
    return workdir


def test_shards_hold_the_moments_of_both_orientations(runs, cache, capfd):
    """Eight devices with two examples each, against one device and no batches."""
    assert len(jax.devices()) == 8
    found = LatentCache(str(cache))
    with open_model(runs.autoencoder) as model:
        params, module = model.load("first_stage"), model.module("first_stage")
    source = assemble_data.build_source(tiny.get_config("text"))[0]
    assert (len(found), found.class_names) == (len(source), source.class_names)
    for index in (0, 23, 24, 63):
        example, expected = found[index], source[index]
        image = to_float_images(jnp.asarray(expected["image"]))
        both = jnp.stack([image, image[:, ::-1]])
        posterior = module.apply({"params": params}, both, method="encode")
        moments = np.concatenate([posterior.mean, posterior.logvar], axis=-1)
        np.testing.assert_allclose(example["moments"], moments, rtol=1e-4, atol=1e-5)
        assert (example["text"], example["class"]) == (expected["text"], expected["class"])


def test_the_same_command_goes_on_where_it_ended(runs, cache, tmp_path, capfd):
    out = tmp_path / "cache"
    run(*encoding(runs, out, FLIPS))
    printed, bar = capfd.readouterr()
    assert "64 images encoded, 3 shards written; " in printed
    assert f" bytes in {out}; " in printed
    assert printed.endswith(" images/s\n")
    assert "64/64" in bar
    expected = contents(cache)
    assert contents(out) == expected
    first, second, third = sorted(out.glob("moments-*"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])
    (out / f"{first.name}.part").write_bytes(b"torn")
    before = third.stat().st_mtime_ns
    run(*encoding(runs, out, FLIPS))
    printed, bar = capfd.readouterr()
    assert "48 images encoded, 2 shards written, 1 were there; " in printed
    assert contents(out) == expected
    assert third.stat().st_mtime_ns == before


def test_training_from_a_cache_is_training_from_images(runs, cache, vq, tmp_path):
    """The same batches, keys and losses: KL with flips, VQ without."""
    for workdir, flip in ((runs.autoencoder, 0.5), (vq, 0.0)):
        config = tiny.get_config("text")
        config.data.flip_probability = flip
        config.task.first_stage.workdir = str(workdir)
        folder = cache
        if workdir == vq:
            config.task.first_stage.model = {
                **tiny.AUTOENCODER,
                **{"name": "autoencoder_vq", "num_codes": 16},
            }
            folder = tmp_path / "vq"
            encode(config, folder, per_device_batch=2)
        losses = [losses_of(config), losses_of(config, folder)]
        assert np.ptp(losses[0]) > 1e-3
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def losses_of(config, cache=None):
    config = config.copy_and_resolve_references()
    if cache is not None:
        config.data.latent_cache = str(cache)
    task, tokenizer = assemble.build_task(config), assemble_data.build_tokenizer(config)
    spec = assemble_data.batch_spec(config, task, 8)
    source, _ = assemble_data.build_source(config)
    stream = assemble_data.build_stream(config, source, task, tokenizer)
    params = task.init(jax.random.key(0), None)[0]
    params = jax.tree.map(lambda x: x + 0.05, params)  # what starts at zero would hide the latents
    with open_model(config.task.first_stage.workdir) as model:
        scale = LatentScale(jnp.array([0.3, -0.2]), jnp.array([1.5, 0.7]))
        frozen = Frozen(model.load("first_stage"), scale)

    @jax.jit
    def loss(batch, step):
        keys = StepKeys(step=step, indices=jnp.arange(8), seed=0)
        return task.loss("diffusion", params, {}, frozen, batch, keys).loss

    batches = [next(stream) for _ in range(9)]  # more than one epoch
    assert {k: (x.shape, x.dtype) for k, x in batches[0].items()} == {
        k: (x.shape, x.dtype) for k, x in spec.items()
    }
    return [float(loss(batch, step)) for step, batch in enumerate(batches)]


@pytest.fixture(scope="module")
def emoji(runs, tmp_path_factory):
    """A folder of captioned images, a cache of them, and a run that trained without them."""
    root = tmp_path_factory.mktemp("emoji")
    (root / "images").mkdir()
    draw = np.random.default_rng(0)
    rows = []
    for k in range(20):
        pixels = draw.integers(0, 256, (18, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{k}.png")
        rows.append(json.dumps({"file_name": f"{k}.png", "text": "a large red circle"}))
    (root / "images" / "metadata.jsonl").write_text("\n".join(rows))
    overrides = ["--config.data.source.name=folder", FLIPS]
    path = f"--config.data.source.path={root / 'images'}"
    run(*encoding(runs, root / "cache", *overrides, path))
    (root / "images").rename(root / "elsewhere")
    cached = f"--config.data.latent_cache={root / 'cache'}"
    run(*training(runs, root / "run", *overrides, path, cached))
    return root


def test_a_run_needs_no_images(emoji):
    root = emoji
    with Image.open(root / "run" / "samples" / "00000003.png") as grid:
        assert grid.size == (38, 38)
    shutil.move(root / "cache", root / "kept")
    images = Pipeline.from_checkpoint(root / "run")(["a large red circle"])
    shutil.move(root / "kept", root / "cache")
    assert images.shape == (1, 16, 16, 3)
    record = read_frozen_record(root / "run")
    assert record["statistics"]["num_images"] == 16
    assert record["scale_factor"] == "auto"


def test_what_a_cache_refuses(runs, cache, vq, tmp_path, capfd):
    cached = f"--config.data.latent_cache={cache}"
    workdir = tmp_path / "run"
    train_text = training(runs, workdir, cached)
    other = Path(shutil.copytree(cache, tmp_path / "other"))
    manifest = json.loads((other / "cache.json").read_text())
    manifest["key"]["first_stage"] = "0" * 64
    (other / "cache.json").write_text(json.dumps(manifest))
    line = refuse(capfd, *train_text, f"--config.data.latent_cache={other}")
    assert line.startswith(f"config.data.latent_cache={other}: stale, its first_stage is '000")
    line = refuse(capfd, *encoding(runs, other, FLIPS))
    assert line.startswith(f"--out={other}: holds a cache whose first_stage is '000")
    assert not (workdir / "frozen").exists()
    line = refuse(capfd, *train_text, "--config.data.source.max_objects=2")
    assert f"latent_cache={cache}: stale, its source.max_objects is 1 and here it is 2." in line
    line = refuse(capfd, *train_text, "--config.data.random_crop=true")
    assert line.startswith("config.data.random_crop=True: a latent cache holds one crop of each")
    line = refuse(capfd, *encoding(runs, tmp_path / "a", "--config.data.random_crop=true"))
    assert line.startswith("config.data.random_crop=True: a latent cache holds one crop of each")
    identity = ["name=identity", "key=image", "shape=(16,16,3)", "route=concat"]
    overrides = [f"--config.task.conditioner.{field}" for field in identity]
    line = refuse(capfd, *train_text, *overrides)
    assert line.startswith(
        "config.task.conditioner reads 'image', which the latent cache lacks. Legal: class, tokens;"
    )
    line = refuse(capfd, "train", "--config", TINY, "--workdir", workdir, cached)
    assert line == (
        f"config.data.latent_cache={cache}: autoencoder trains on images. Legal: with "
        "task.name=latent_diffusion or latent_classifier."
    )
    line = refuse(capfd, *encoding(runs, cache))
    assert line == (
        f"--out={cache}: holds a cache whose flips is True, not False. Legal: the same value, or a "
        "new folder."
    )
    line = refuse(capfd, *encoding(runs, cache, FLIPS, "--examples_per_shard", 25))
    assert f"--out={cache}: holds a cache whose examples_per_shard is 24, not 25." in line
    line = refuse(capfd, *encoding(runs, runs.text))
    assert line == f"--out={runs.text}: holds checkpoints and no cache.json. Legal: a new folder."
    line = refuse(capfd, "encode", "--config", TINY, "--out", tmp_path / "a")
    assert line.startswith("config.task.name=autoencoder: has no first stage to encode with.")
    line = refuse(capfd, *encoding(runs, tmp_path / "a", "--per_device_batch", 0))
    assert line == "--per_device_batch=0: legal is 1 or more."
    line = refuse(capfd, "encode", "--config", f"{TINY}:text", "--out", tmp_path / "a")
    assert line.startswith("config.task.first_stage.workdir: not given;")


def test_the_scale_belongs_to_one_first_stage(runs, tmp_path, caplog):
    """In a run, and in our own layout; models from before are only warned of."""
    own = tmp_path / "own"
    run("convert", runs.text, own, "--to", "ldm_jax")
    record = json.loads((own / "latent_scale.json").read_text())
    assert record == read_frozen_record(runs.text)
    assert record["statistics"]["num_images"] == 16
    with open_model(runs.text) as model:
        np.testing.assert_allclose(
            model.latent_scale.shift, record["statistics"]["mean"]["value"], rtol=1e-6
        )
    Pipeline.from_checkpoint(own)
    assert "keeps no hash" not in caplog.text
    (own / "latent_scale.json").write_text(json.dumps(record | {"first_stage": "0" * 64}))
    with pytest.raises(UserError, match="belongs to the first stage 000000000000, but the one"):
        Pipeline.from_checkpoint(own)
    (own / "latent_scale.json").unlink()
    Pipeline.from_checkpoint(own)
    assert f"{own}: keeps no hash of the first stage" in caplog.text

    workdir = Path(shutil.copytree(runs.text, tmp_path / "text"))
    metadata = workdir / "frozen" / "_CHECKPOINT_METADATA"
    fields = json.loads(metadata.read_text())
    fields["custom_metadata"]["first_stage"] = "1" * 64
    metadata.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=f"{workdir}: the scale of its latents belongs to the"):
        Pipeline.from_checkpoint(workdir)
    metadata.write_text(json.dumps(fields | {"custom_metadata": {}}))
    Pipeline.from_checkpoint(workdir)
    assert f"{workdir}: keeps no hash of the first stage" in caplog.text


def test_one_factor_for_all_elements(runs):
    config = tiny.get_config("text")
    config.task.first_stage.update(workdir=str(runs.autoencoder), scale_factor="std")
    config.task.first_stage.scale_images = 1000
    task, tokenizer = assemble.build_task(config), assemble_data.build_tokenizer(config)
    stream = assemble_data.build_stream(
        config, assemble_data.build_source(config)[0], task, tokenizer, squares=True
    )
    frozen, record = prepare_frozen(config, task, stream, make_mesh((2, 4, 1)))
    assert record["statistics"]["num_images"] == 64  # one pass over the data
    np.testing.assert_array_equal(frozen.latent_scale.shift, [0, 0])
    factor = 1 / record["statistics"]["std_all"]["value"]
    np.testing.assert_allclose(frozen.latent_scale.scale, [factor, factor], rtol=1e-6)
