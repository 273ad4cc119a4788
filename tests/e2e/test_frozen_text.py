"""Text to image with a frozen text tower, and its answers from a latent cache; no PyTorch."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ldm_jax.core.checks import UserError
from ldm_jax.core.rng import StepKeys
from ldm_jax.data.latent_cache import LatentCache, read_manifest
from ldm_jax.data.tokenizers import WordTokenizer
from ldm_jax.interop.conditioner_names import transformers_clip
from ldm_jax.interop.mapping import flatten, make_entries
from ldm_jax.interop.safetensors_io import SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.pipeline import Pipeline
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.cached_conditions import without_conditioner
from ldm_jax.train.checkpoint import read_item
from ldm_jax.train.encode import encode
from ldm_jax.train.frozen import prepare_frozen, restore_run_frozen
from ldm_jax.train.load import load_conditioner
from ldm_jax.train.loop import train

CLIP = {
    **{"name": "clip_text", "vocab_size": 24, "length": 12, "dim": 8, "depth": 1},
    **{"num_heads": 2, "activation": "gelu"},
}
PROMPTS = ["a large red circle at the top left", "a small blue square"]


def write_tower(folder, seed=0):
    """Writes a text tower as transformers does, of random numbers."""
    config = tiny.get_config("text")
    config.task.conditioner = CLIP
    config.task.first_stage = {"model": {"name": "identity"}}
    config.task.model.out_channels = 3
    task = assemble.build_task(config)
    shapes = jax.eval_shape(task.init_conditioner, jax.random.key(0))
    entries = make_entries(shapes, transformers_clip(task.conditioner))
    header = {
        f"text_model.{x.theirs}": TensorInfo(x.their_shape, np.dtype(np.float32)) for x in entries
    }
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {
                **{"model_type": "clip_text_model", "vocab_size": 24, "hidden_size": 8},
                **{"max_position_embeddings": 12, "intermediate_size": 32, "hidden_act": "gelu"},
                **{"num_hidden_layers": 1, "num_attention_heads": 2},
            }
        )
    )
    draw = np.random.default_rng(seed)
    with SafetensorsWriter(folder / "model.safetensors", header, {"format": "pt"}) as writer:
        for name, info in header.items():
            writer.write(name, draw.normal(size=info.shape).astype(np.float32))
    return folder


def make_config(folder, **fields):
    """Returns a text model of 16×16 pixels with the tower in `folder`."""
    config = tiny.get_config("text")
    config.task.model.out_channels = 3
    config.task.conditioner = CLIP
    config.task.first_stage = {"model": {"name": "identity"}, "scale_factor": 1.0}
    config.task.train_conditioner = False
    config.task.conditioner_weights = str(folder)
    config.task.condition_drop_rate = 0.4
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp("tower") / "clip")


@pytest.fixture(scope="module")
def cache(tower, tmp_path_factory):
    """Moments of both orientations and float32 answers, of 64 examples in two shards."""
    out = tmp_path_factory.mktemp("caches") / "cache"
    config = make_config(tower, **{"data.flip_probability": 0.5})
    encode(config, out, per_device_batch=3, examples_per_shard=40, conditioning="float32")
    return out


@pytest.fixture(scope="module")
def run(tower, cache, tmp_path_factory):
    """A workdir that trained from the cache."""
    workdir = tmp_path_factory.mktemp("run") / "text"
    config = make_config(tower)
    config.data.latent_cache = str(cache)
    train(config, workdir)
    return workdir


def tower_context(tower, captions):
    """Returns the tower's answers, one caption at a time."""
    config = make_config(tower)
    task = assemble.build_task(config)
    params = load_conditioner(config, task, make_mesh())
    tokenizer = WordTokenizer("shapes", 12)
    rows = [
        task.conditioner.apply({"params": params}, {"tokens": jnp.asarray(tokenizer(text))[None]})
        for text in captions
    ]
    return np.concatenate([np.asarray(row.context) for row in rows])


def test_the_cache_holds_what_the_tower_answers(tower, cache, tmp_path):
    manifest = read_manifest(cache)
    assert manifest.conditioning == {"context": (12, 8)}
    assert manifest.key["conditioning"] == "float32"
    found = LatentCache(str(cache))
    numbers = (0, 39, 40, 63)
    examples = [found[k] for k in numbers]
    assert examples[0]["moments"].shape == (2, 16, 16, 3)
    expected = tower_context(tower, [x["text"] for x in examples])
    for example, context in zip(examples, expected, strict=True):
        np.testing.assert_allclose(example["context"], context, rtol=1e-4, atol=1e-5)
    half = tmp_path / "half"
    encode(make_config(tower), half, per_device_batch=8, conditioning="float16")
    context = LatentCache(str(half))[0]["context"]
    assert context.dtype == np.float16
    np.testing.assert_allclose(context, expected[0], rtol=1e-3, atol=1e-3)


def test_a_cached_step_has_the_loss_of_the_tower(tower, cache):
    """With captions dropped, and moments of both orientations."""
    losses = {}
    for name, path in (("images", None), ("cache", str(cache))):
        config = make_config(tower, **{"data.flip_probability": 0.5})
        config.task.first_stage = {"model": {"name": "identity"}, "scale_factor": "auto"}
        config.data.latent_cache = path
        task, tokenizer = assemble.build_task(config), assemble_data.build_tokenizer(config)
        source, _ = assemble_data.build_source(config)
        mesh = make_mesh()
        stream = assemble_data.build_stream(config, source, task, tokenizer, squares=True)
        frozen, _ = prepare_frozen(config, task, stream, mesh)
        if path:
            frozen = without_conditioner(task, frozen, mesh)
            assert frozen.conditioner is None
        params, _ = task.init(jax.random.key(0), assemble_data.batch_spec(config, task, 8))
        # A fresh U-Net says nothing of its condition: its last layer is zero.
        params = jax.tree.map(lambda x: x + 0.05, params)

        @jax.jit
        def loss(params, frozen, batch, step, task=task):
            keys = StepKeys(step=step, indices=jnp.arange(8))
            return task.loss("diffusion", params, {}, frozen, batch, keys).loss

        stream = assemble_data.build_stream(config, source, task, tokenizer)
        batches = [next(stream) for _ in range(3)]
        expected = {"moments", "context"} if path else {"image", "tokens"}
        assert set(batches[0]) == expected
        losses[name] = [float(loss(params, frozen, b, jnp.int32(k))) for k, b in enumerate(batches)]
        if not path:
            moved = jax.tree.map(lambda x: x + 0.1, frozen.conditioner)
            other = loss(params, frozen.replace(conditioner=moved), batches[0], jnp.int32(0))
            assert abs(float(other) - losses["images"][0]) > 1e-3  # the condition counts
    np.testing.assert_allclose(losses["cache"], losses["images"], rtol=1e-4)


def test_a_run_from_the_cache_samples_with_the_tower(tower, run, cache, tmp_path):
    """The tower's folder and the cache may be gone by then."""
    kept = read_item(run, "frozen", "conditioner", _abstract(tower))
    table = flatten(kept)["token_embedding/embedding"]
    config = make_config(tower)
    task = assemble.build_task(config)
    given = flatten(load_conditioner(config, task, make_mesh()))
    np.testing.assert_array_equal(table, given["token_embedding/embedding"])
    images = Pipeline.from_checkpoint(run)(PROMPTS)
    assert images.shape == (2, 16, 16, 3)
    # Resuming reads the answers again.
    workdir = Path(shutil.copytree(run, tmp_path / "run"))
    config = make_config(tower, **{"train.steps": 4, "sample.grid_images": 0})
    config.data.latent_cache = str(cache)
    assert int(train(config, workdir).step) == 4


def _abstract(tower):
    task = assemble.build_task(make_config(tower))
    return jax.eval_shape(task.init_conditioner, jax.random.key(0))


def test_weights_of_a_model_that_has_this_conditioner(tower, run):
    config = make_config(run)
    task = assemble.build_task(config)
    found = flatten(load_conditioner(config, task, make_mesh()))
    expected = flatten(load_conditioner(make_config(tower), task, make_mesh()))
    for path, x in expected.items():
        np.testing.assert_array_equal(found[path], x)
    config = make_config(run, **{"task.conditioner.depth": 2})
    with pytest.raises(UserError, match="its conditioner has depth=1, the run's 2"):
        load_conditioner(config, assemble.build_task(config), make_mesh())


def refused(config, workdir):
    with pytest.raises(UserError) as caught:
        train(config, workdir)
    assert "\n" not in str(caught.value)
    assert not (Path(workdir) / "frozen").exists()
    return str(caught.value)


def test_what_training_refuses(tower, cache, tmp_path):
    workdir = tmp_path / "run"
    config = make_config(tower)
    config.data.latent_cache = str(cache)
    other = config.copy_and_resolve_references()
    other.task.conditioner_weights = str(write_tower(tmp_path / "other", seed=1))
    line = refused(other, workdir)
    assert line.startswith(f"config.data.latent_cache={cache}: stale, its conditioner is '")
    assert line.endswith("Legal: the same value, or 'ldm-jax encode' into a new folder.")
    words = config.copy_and_resolve_references()
    names = tuple(f"word{k}" for k in range(22))
    words.data.tokenizer = {"name": "words", "vocabulary": names, "length": 12}
    line = refused(words, workdir)
    assert line.startswith(f"config.data.latent_cache={cache}: stale, its tokenizer is '")
    nowhere = make_config(tmp_path / "nowhere")
    assert refused(nowhere, workdir) == (
        f"config.task.conditioner_weights={tmp_path / 'nowhere'}: no such folder. Legal: a folder "
        "of transformers (config.json, model.safetensors), or a model with this conditioner."
    )
    trained = make_config(tower, **{"task.train_conditioner": True})
    assert refused(trained, workdir) == (
        f"config.task.conditioner_weights={tower}: this conditioner is trained from scratch. "
        "Legal: with config.task.train_conditioner=False."
    )
    nothing = make_config(tower)
    nothing.task.conditioner_weights = None
    assert refused(nothing, workdir).startswith(
        "config.task.train_conditioner=False: a frozen conditioner needs its weights. Legal: "
        "--config.task.conditioner_weights=FOLDER, of transformers"
    )


def test_what_encoding_refuses(tower, cache, tmp_path):
    config = make_config(tower, **{"data.flip_probability": 0.5})

    def says(config, out, text, **fields):
        with pytest.raises(UserError) as caught:
            encode(config, out, examples_per_shard=40, **fields)
        assert str(caught.value).startswith(text)

    says(
        config,
        cache,
        f"--out={cache}: holds a cache whose conditioning is 'float32', not 'float16'.",
        conditioning="float16",
    )
    says(config, cache, f"--out={cache}: holds a cache whose conditioning is 'float32', not None.")
    new = tmp_path / "new"
    says(
        config,
        new,
        "--conditioning: got 'bfloat16'; did you mean 'float16'? Legal: float16, float32.",
        conditioning="bfloat16",
    )
    trained = make_config(tower, **{"task.train_conditioner": True})
    says(
        trained,
        new,
        "--conditioning=float16: this conditioner is trained, so its answers change. Legal: with "
        "config.task.train_conditioner=False.",
        conditioning="float16",
    )
    maps = make_config(tower)
    maps.task.conditioner = {"name": "spatial_rescaler", "num_classes": 3, "image_size": 16}
    says(
        maps,
        new,
        "--conditioning=float32: this conditioner reads segmentation. Legal: one of tokens, class.",
        conditioning="float32",
    )


def test_the_tower_is_not_on_the_devices_while_training(tower, cache, run):
    config = make_config(tower)
    config.data.latent_cache = str(cache)
    task, mesh = assemble.build_task(config), make_mesh()
    whole = restore_run_frozen(config, task, run, mesh, for_training=True)
    lean = without_conditioner(task, whole, mesh)
    assert {x.shape for x in jax.tree.leaves(lean.null)} == {(1, 12, 8)}
    expected = tower_context(tower, [""])
    np.testing.assert_allclose(lean.null.context, expected, rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(lean.params) == jax.tree.structure(whole.params)
