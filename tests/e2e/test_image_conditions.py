"""Models that vary an image: a frozen image tower, and embeddings from a file; no PyTorch."""

import json

import jax
import numpy as np
import pytest
import tiny
from PIL import Image

from ldm_jax.conditioning import ClipImage
from ldm_jax.core.checks import UserError
from ldm_jax.data import Shapes
from ldm_jax.interop.clip_image_names import transformers_clip_image
from ldm_jax.interop.mapping import make_entries
from ldm_jax.interop.safetensors_io import SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.pipeline import Pipeline
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.condition_checks import check_inputs
from ldm_jax.train.loop import train

CLIP = {
    "resolution": 8,
    "patch": 4,
    "dim": 8,
    "depth": 1,
    "num_heads": 2,
    "projection_dim": 6,
    "activation": "gelu",
}
SOURCE = Shapes(image_size=16, max_objects=1, num_examples=64)


def make_config(conditioner, **fields):
    """Returns a model of 16×16 pixels, without a first stage, on one object."""
    config = tiny.get_config("text")
    del config.data["tokenizer"]
    config.task.model.out_channels = 3
    config.task.conditioner = conditioner
    config.task.first_stage = {"model": {"name": "identity"}, "scale_factor": 1.0}
    config.update_from_flattened_dict(fields)
    return config


def write_tower(folder):
    """Writes a whole CLIP as transformers does, of random numbers; its text tower is one tensor."""
    module = ClipImage(**CLIP)
    image = {"image": np.zeros((1, 16, 16, 3), np.uint8)}
    shapes = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    entries = make_entries(shapes, transformers_clip_image(module))
    header = {x.theirs: TensorInfo(x.their_shape, np.dtype(np.float32)) for x in entries}
    header["text_model.final_layer_norm.weight"] = TensorInfo((5,), np.dtype(np.float32))
    vision = {
        **{"hidden_size": 8, "intermediate_size": 32, "image_size": 8, "patch_size": 4},
        **{"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_act": "gelu"},
    }
    config = {"model_type": "clip", "projection_dim": 6, "vision_config": vision}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    draw, tensors = np.random.default_rng(0), {}
    with SafetensorsWriter(folder / "model.safetensors", header, {"format": "pt"}) as writer:
        for name, info in header.items():
            tensors[name] = draw.normal(size=info.shape).astype(np.float32)
            writer.write(name, tensors[name])
    return tensors


@pytest.mark.slow  # half a minute; the tower's numbers are tested in tests/parity
def test_a_frozen_image_tower_trains_draws_its_grid_and_samples(tmp_path):
    tensors = write_tower(tmp_path / "clip")
    config = make_config({"name": "clip_image", **CLIP})
    config.task.train_conditioner = False
    config.task.conditioner_weights = str(tmp_path / "clip")
    train(config, tmp_path / "run")
    (grid,) = (tmp_path / "run").rglob("*.png")
    with Image.open(grid) as opened:
        assert min(opened.size) > 2 * 16

    pipeline = Pipeline.from_checkpoint(tmp_path / "run")
    kept = pipeline._frozen.conditioner["projection"]["kernel"]
    np.testing.assert_array_equal(kept, tensors["visual_projection.weight"].T)
    given = np.stack([SOURCE[k]["image"] for k in range(3)])
    draw = {"seed": 5, "output": "float32", "guidance_scale": 3.0}
    images = pipeline(conditions={"image": given}, **draw)
    assert images.shape == (3, 16, 16, 3)
    # Image k follows its own condition; of another it is another. Sizes of conditions are free.
    swapped = pipeline(conditions={"image": given[[0, 2, 1]]}, **draw)
    np.testing.assert_allclose(swapped[0], images[0], atol=2e-5)
    assert (np.abs(swapped[1:] - images[1:]).max(axis=(1, 2, 3)) > 1e-4).all()
    larger = given.repeat(2, axis=1).repeat(2, axis=2)
    assert pipeline(conditions={"image": larger}, **draw).shape == images.shape
    # An image to be varied and one to start from are two things.
    started = pipeline(conditions={"image": given}, image=given[::-1], strength=0.5, **draw)
    assert np.abs(started - images).max() > 1e-3

    with pytest.raises(UserError, match=r"^prompts: given, but .* reads image\.$"):
        pipeline("a red circle")
    with pytest.raises(UserError, match=r"^conditions: .* reads image; got nothing\. Legal"):
        pipeline()


def test_a_tower_of_another_size_is_refused(tmp_path):
    write_tower(tmp_path / "clip")
    config = make_config({"name": "clip_image", **CLIP, "patch": 2})
    config.task.train_conditioner = False
    config.task.conditioner_weights = str(tmp_path / "clip")
    with pytest.raises(UserError, match=r"with patch=2\. Legal: --config\.task\.cond\S+\.patch=4"):
        train(config, tmp_path / "run")


def embedded(folder, rows, width, **fields):
    """Returns a model that reads `rows` tokens: an image's own embedding, then two neighbours."""
    path = folder / "rows.npy"
    np.save(path, np.random.default_rng(1).normal(size=(64, width)).astype(np.float32))
    settings = {"name": "identity", "key": "neighbours", "route": "context", "shape": (rows, 4)}
    config = make_config(settings, **fields)
    config.data.derive = {"neighbours": {"embeddings": str(path), "k": 2, "own": True}}
    return config


def test_batches_and_grids_find_the_rows_of_their_examples(tmp_path):
    config = embedded(tmp_path, 3, 4)
    config.data.holdout = 6
    task = assemble.build_task(config)
    training, held_out = assemble_data.build_source(config)
    rows = np.load(tmp_path / "rows.npy")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    numbers = {SOURCE[k]["image"].tobytes(): k for k in range(64)}
    batch = next(assemble_data.build_stream(config, training, task, None))
    fixed = assemble_data.build_examples(config, held_out, None, range(6), ("image", "neighbours"))
    for found in (batch, fixed):
        own = [numbers[image.tobytes()] for image in found["image"]]
        likeness = unit[own] @ unit.T
        likeness[np.arange(len(own)), own] = -np.inf
        nearest = np.argsort(-likeness, axis=1)[:, :2]
        expected = np.concatenate([unit[own][:, None], unit[nearest]], axis=1)
        np.testing.assert_allclose(found["neighbours"], expected, atol=1e-6)
    spec = assemble_data.batch_spec(config, task, 8)
    assert {k: (x.shape, x.dtype) for k, x in batch.items()} == {
        k: (x.shape, x.dtype) for k, x in spec.items()
    }


def test_what_does_not_fit_is_said_before_training(tmp_path):
    def check(config):
        check_inputs(config, assemble.build_task(config))

    check(embedded(tmp_path, 3, 4))
    for rows, width in ((3, 5), (2, 4)):
        with pytest.raises(UserError) as caught:
            check(embedded(tmp_path, rows, width))
        assert str(caught.value) == (
            f"config.data.derive.neighbours: makes (3, {width}), but config.task.conditioner reads "
            f"({rows}, 4). Legal: as many."
        )
    config = embedded(tmp_path, 3, 4)
    config.data.evaluation_source = {"name": "shapes", "image_size": 16, "seed": 7}
    with pytest.raises(UserError, match=r"knows the examples of config.data.source only, by their"):
        check(config)
