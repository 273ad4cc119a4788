"""A folder of transformers, written by hand, as the weights of a frozen text encoder."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import ClassLabel, ClipText
from ldm_jax.core.checks import UserError
from ldm_jax.interop.safetensors_io import SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.interop.towers import TOWERS, is_tower, read_tower

CONFIG = {
    **{"model_type": "clip_text_model", "vocab_size": 9, "max_position_embeddings": 5},
    **{"hidden_size": 8, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "hidden_act": "quick_gelu"},
}
MODULE = ClipText(vocab_size=9, length=5, dim=8, depth=2, num_heads=2)
WHAT = "config.task.conditioner_weights"


def tensors(prefix="text_model."):
    """Returns what transformers' CLIPTextModel of CONFIG keeps, float16."""
    shapes = {
        "embeddings.token_embedding.weight": (9, 8),
        "embeddings.position_embedding.weight": (5, 8),
        "final_layer_norm.weight": (8,),
        "final_layer_norm.bias": (8,),
    }
    for k in range(2):
        layer = f"encoder.layers.{k}."
        for part in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{layer}{part}.{x}": (8,) for x in ("weight", "bias")}
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes[f"{layer}self_attn.{part}.weight"] = (8, 8)
            shapes[f"{layer}self_attn.{part}.bias"] = (8,)
        shapes |= {f"{layer}mlp.fc1.weight": (32, 8), f"{layer}mlp.fc1.bias": (32,)}
        shapes |= {f"{layer}mlp.fc2.weight": (8, 32), f"{layer}mlp.fc2.bias": (8,)}
    draw = np.random.default_rng(0)
    return {f"{prefix}{k}": draw.normal(size=s).astype(np.float16) for k, s in shapes.items()}


def write_folder(folder, config, found):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header = {name: TensorInfo(x.shape, x.dtype) for name, x in found.items()}
    with SafetensorsWriter(folder / "model.safetensors", header, {"format": "pt"}) as writer:
        for name, x in found.items():
            writer.write(name, x)
    return folder


def shapes_of(module):
    one = {"tokens": jnp.zeros((1, module.length), jnp.int32)}
    return jax.eval_shape(module.init, jax.random.key(0), one)["params"]


def refused(folder, module=MODULE):
    with pytest.raises(UserError) as caught:
        read_tower(WHAT, folder, module, shapes_of(module))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["text_model.", ""])
def test_a_text_model(tmp_path, prefix):
    found = tensors(prefix)
    extra = {f"{prefix}embeddings.position_ids": np.arange(5)[None, :]}
    folder = write_folder(tmp_path / "clip", CONFIG, found | extra)
    assert is_tower(folder)
    params = read_tower(WHAT, folder, MODULE, shapes_of(MODULE))
    assert jax.tree.structure(params) == jax.tree.structure(shapes_of(MODULE))
    np.testing.assert_array_equal(
        params["layer_1"]["ff"]["hidden"]["kernel"],
        found[f"{prefix}encoder.layers.1.mlp.fc1.weight"].T,
    )
    np.testing.assert_array_equal(
        params["position_embedding"], found[f"{prefix}embeddings.position_embedding.weight"]
    )
    assert params["norm_out"]["scale"].dtype == np.float16


def test_the_text_tower_of_a_whole_clip(tmp_path):
    others = {
        "logit_scale": np.zeros((), np.float32),
        "text_projection.weight": np.zeros((4, 8), np.float32),
        "vision_model.embeddings.class_embedding": np.zeros(4, np.float32),
    }
    whole = {"model_type": "clip", "text_config": CONFIG, "vision_config": {}}
    folder = write_folder(tmp_path / "clip", whole, tensors() | others)
    params = read_tower(WHAT, folder, MODULE, shapes_of(MODULE))
    table = tensors()["text_model.embeddings.token_embedding.weight"]
    np.testing.assert_array_equal(params["token_embedding"]["embedding"], table)


def test_mistakes(tmp_path):
    folder = write_folder(tmp_path / "clip", CONFIG, tensors())
    other = ClipText(vocab_size=9, length=5, dim=16, depth=3, num_heads=2)
    assert refused(folder, other) == (
        f"{WHAT}={folder}: is not of config.task.conditioner with dim=16, depth=3. Legal: "
        "--config.task.conditioner.dim=8 --config.task.conditioner.depth=2."
    )
    found = tensors()
    found["text_model.final_layer_norm.bias"] = np.zeros(7, np.float16)
    del found["text_model.encoder.layers.0.mlp.fc1.bias"]
    found["text_model.surprise"] = np.zeros(1, np.float16)
    assert refused(write_folder(tmp_path / "bad", CONFIG, found)) == (
        f"{WHAT}={tmp_path}/bad: missing encoder.layers.0.mlp.fc1.bias; unexpected surprise; "
        "final_layer_norm.bias has shape (7,), expected (8,)."
    )
    bert = write_folder(tmp_path / "bert", {"model_type": "t5", "architectures": ["T5"]}, {})
    assert refused(bert).startswith(f"{WHAT}={bert}: text_encoder/config.json: got T5. Legal:")
    classes = ClassLabel(num_classes=3, dim=2)
    with pytest.raises(
        UserError, match=re.escape(f"{WHAT}={folder}: a folder of transformers, wh")
    ):
        read_tower(WHAT, folder, classes, {})
    assert TOWERS.keys() >= {ClipText}
    assert not is_tower(tmp_path)
