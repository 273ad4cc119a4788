"""What is averaged: all that is trained, or, as in the reference, the U-Net alone."""

import jax
import numpy as np
import pytest
import tiny

from ldm_jax.interop.compvis import ema_name
from ldm_jax.interop.mapping import flatten
from ldm_jax.interop.safetensors_io import SafetensorsFile, SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.checkpoint import read_item
from ldm_jax.train.convert import convert
from ldm_jax.train.exchange import open_model, read_model_config
from ldm_jax.train.loop import train


def pixel_config(**fields):
    config = tiny.get_config("class")
    config.task.model.out_channels = 3
    config.task.first_stage = {"model": {"name": "identity"}, "scale_factor": 1.0}
    config.sample.grid_images = 0
    config.train.update(fields)
    return config


def items(workdir, config, component):
    """Returns a component's raw and averaged parameters."""
    task = assemble.build_task(config)
    shapes = jax.eval_shape(
        lambda: task.init(jax.random.key(0), assemble_data.batch_spec(config, task, 1))[0][
            component
        ]
    )
    found = [read_item(workdir, item, component, shapes) for item in ("params", "ema_params")]
    return [np.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for tree in found]


@pytest.mark.parametrize("averaged", [True, False])
def test_the_conditioner_is_averaged_unless_told_otherwise(tmp_path, averaged):
    config = pixel_config(ema_conditioner=averaged)
    assert pixel_config().train.ema_conditioner is True
    train(config, tmp_path)
    raw, average = items(tmp_path, config, "conditioner")
    assert np.array_equal(raw, average) == (not averaged)
    raw, average = items(tmp_path, config, "unet")
    assert np.abs(raw - average).max() > 1e-3
    with open_model(tmp_path) as model:  # as sampling and init_from read it
        found = np.concatenate([x.ravel() for x in jax.tree.leaves(model.load("conditioner"))])
    np.testing.assert_array_equal(found, items(tmp_path, config, "conditioner")[1])


@pytest.mark.slow  # the choice is tested above, imports in test_convert.py
def test_imported_weights_take_the_averaged_unet_and_the_raw_conditioner(runs, tmp_path):
    """A CompVis file has `model_ema` of the U-Net only, and there it is half of the raw one."""
    plain, file = tmp_path / "plain.safetensors", tmp_path / "model.safetensors"
    with open_model(runs.text) as model:
        convert(model, plain, "compvis")
    prefix = "model.diffusion_model."
    with SafetensorsFile(plain) as tensors:
        found = {name: np.array(tensors[name]) for name in tensors.keys()}
    found |= {
        ema_name(name.removeprefix(prefix)): x / 2
        for name, x in found.items()
        if name.startswith(prefix)
    }
    header = {name: TensorInfo(x.shape, x.dtype) for name, x in found.items()}
    with SafetensorsWriter(file, header, {"format": "pt"}) as writer:
        for name, x in found.items():
            writer.write(name, x)
    config = read_model_config(runs.text)
    with config.unlocked(), config.ignore_type():
        config.task.first_stage = {**config.task.first_stage.to_dict(), "scale_factor": 1.0}
    parts = {}
    for ema in (True, False):
        with open_model(file, config=config, ema=ema) as model:
            model.check()
            parts[ema] = {c: flatten(model.load(c)) for c in ("unet", "conditioner")}
    for path, x in parts[False]["unet"].items():
        np.testing.assert_array_equal(parts[True]["unet"][path], x / 2)
    for path, x in parts[False]["conditioner"].items():
        np.testing.assert_array_equal(parts[True]["conditioner"][path], x)
    # A run that starts from it takes the same, for its parameters and for their average.
    start = config.copy_and_resolve_references()
    with start.unlocked(), start.ignore_type():
        start.train.update(init_from=str(file), steps=1, learning_rate=1e-12)
        start.sample.grid_images = 0
    train(start, tmp_path / "run")
    with open_model(tmp_path / "run") as model:
        for component in ("unet", "conditioner"):
            for path, x in flatten(model.load(component)).items():
                np.testing.assert_allclose(x, parts[True][component][path], atol=1e-6)
