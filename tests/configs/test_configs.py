"""Every file in configs/ loads, builds its models at full size and traces a train step.

The published models are large: they are built in `test_published.py`, and traced by `make
test-slow`.
"""

import ast
from pathlib import Path

import jax
import numpy as np
import pytest

from ldm_jax.cli.config_args import load_config
from ldm_jax.cli.info import describe
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.condition_checks import check_inputs
from ldm_jax.train.frozen import abstract_frozen
from ldm_jax.train.step import init_state, make_train_step

FOLDER = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(path for path in FOLDER.rglob("*.py") if "def get_config(" in path.read_text())
PUBLISHED = [path for path in CONFIGS if path.parent.name == "published"]
OURS = [path for path in CONFIGS if path not in PUBLISHED]


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=[path.stem for path in paths])


def test_there_are_configs():
    assert {path.stem for path in OURS} >= {"shapes_autoencoder", "shapes_text"}
    # Configs import their neighbours by name, whatever folder they are in.
    assert len({path.stem for path in CONFIGS}) == len(CONFIGS)


@each(CONFIGS)
def test_a_config_is_locked_documented_and_fits_the_command_line(path):
    config = load_config(str(path))
    assert config.is_locked
    with pytest.raises(AttributeError):
        config.train.no_such_field = 1
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    words = " ".join(docstring.replace("\\", " ").split())
    assert f"ldm-jax train --config configs/{path.relative_to(FOLDER)} --workdir runs/" in words


@each(OURS)
def test_a_config_builds_and_is_described_without_memory(path):
    config = load_config(str(path))
    before = sum(x.nbytes for x in jax.live_arrays())
    facts, table = describe(config)
    # A noise schedule may stay for a moment; the parameters of no model are this small.
    assert sum(x.nbytes for x in jax.live_arrays()) - before < 100_000
    size = config.data.image_size
    assert facts["image_size"][:2] == [size, size]
    assert size % facts["size_multiple"] == 0
    assert facts["trained_parameters"] > 10_000
    # A first stage, or LPIPS.
    assert (facts["frozen_parameters"] > 0) == (config.task.name != "autoencoder")
    factor = size // facts["latent_shape"][0]
    assert facts["latent_shape"][:2] == [size // factor] * 2
    assert table.count("\n") > 10


@each(OURS)
def test_a_config_traces_one_full_train_step(path):
    trace_train_step(path)


@pytest.mark.slow
@each(PUBLISHED)
def test_a_published_config_traces_one_full_train_step(path):
    trace_train_step(path)


def trace_train_step(path):
    config = load_config(str(path))
    task = assemble.build_task(config)
    spec = assemble_data.batch_spec(config, task, config.train.batch_size)
    optimizers, learning_rate = assemble.build_optimizers(config, task)
    frozen = abstract_frozen(task, config.data.image_size)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(lambda key: init_state(task, optimizers, key, spec), key)
    step = make_train_step(
        task,
        optimizers,
        seed=config.seed,
        accumulation=config.train.accumulation,
        max_ema_decay=config.train.ema_decay,
    )
    after, metrics = jax.eval_shape(step, state, frozen, spec)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
    assert "param_norm" in metrics
    for group in task.groups:
        prefix = "" if len(task.groups) == 1 else f"{group}/"
        assert {f"{prefix}{name}" for name in ("loss", "grad_norm")} <= set(metrics)
    assert all(value.shape == () for value in metrics.values())
    assert float(learning_rate(config.train.warmup_steps)) == pytest.approx(
        assemble.effective_learning_rate(config)[0], rel=1e-3
    )


SHAPES_TASKS = (
    *("unconditional", "class", "two_objects", "layout", "semantic"),
    *("super_resolution", "inpainting", "retrieval", "variations"),
)


@pytest.mark.parametrize("name", SHAPES_TASKS)
def test_every_task_on_shapes_finds_its_inputs_in_the_data(name, tmp_path):
    config = load_config(f"{FOLDER / 'shapes_tasks.py'}:{name}")
    for entry in (config.data.get("derive") or {}).values():
        if "embeddings" in entry:
            np.save(tmp_path / "rows.npy", np.eye(8))
            entry.embeddings = str(tmp_path / "rows.npy")
    check_inputs(config, assemble.build_task(config))
