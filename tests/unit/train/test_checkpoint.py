"""What a run keeps on disk, and what it refuses."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ldm_jax.core.checks import UserError
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import placed, shardings
from ldm_jax.tasks.first_stage import Frozen, LatentScale
from ldm_jax.train.checkpoint import (
    Checkpoints,
    SaveError,
    complete_steps,
    has_frozen,
    read_config,
    restore_frozen,
    restore_params,
    save_frozen,
    write_config,
)
from ldm_jax.train.state import TrainState


def make_state(offset=0.0, width=8):
    params = {"unet": {"kernel": jnp.arange(4.0 * width).reshape(4, width) + offset}}
    return TrainState(
        step=jnp.int32(offset),
        params=params,
        ema_params=jax.tree.map(lambda x: x + 0.5, params),
        opt_state={"diffusion": optax.adamw(1e-3).init(params)},
        mutable={},
    )


def abstract(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _save_and_wait(checkpoints, step, data):
    checkpoints.save(step, make_state(), data)
    checkpoints.close()


def one_device(tree):
    return placed(make_mesh((1, 1, 1), jax.devices()[:1]), abstract(tree))


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def says(text):
    return pytest.raises(UserError, match=f"^{re.escape(text)}$")


class TestCheckpoints:
    def test_round_trip_on_another_mesh(self, tmp_path):
        state, mesh = make_state(3.0), make_mesh((2, 4, 1))
        checkpoints = Checkpoints(tmp_path)
        assert checkpoints.latest_step() is None
        checkpoints.save(3, jax.device_put(state, shardings(mesh, state)), {"iterator": [1, 2]})
        checkpoints.close()
        other = make_mesh((2, 2, 2))
        checkpoints = Checkpoints(tmp_path)
        assert checkpoints.latest_step() == 3
        got, data = checkpoints.restore(3, placed(other, abstract(state)))
        checkpoints.close()
        assert data == {"iterator": [1, 2]}
        assert_same(got, state)
        layouts = jax.tree.leaves(shardings(other, state))
        for leaf, layout in zip(jax.tree.leaves(got), layouts, strict=True):
            assert leaf.sharding.is_equivalent_to(layout, leaf.ndim)

    def test_saving_does_not_race_with_the_next_step(self, tmp_path):
        """The step donates the state that is still being written in the background."""
        state = make_state(1.0, width=1 << 16)
        expected = jax.device_get(jax.tree.map(jnp.copy, state))
        overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, state, {})
        for _ in range(5):
            state = overwrite(state)
        jax.block_until_ready(state)
        checkpoints.wait()
        got, _ = checkpoints.restore(1, one_device(state))
        checkpoints.close()
        assert_same(got, expected)

    def test_keeps_the_newest(self, tmp_path):
        checkpoints = Checkpoints(tmp_path, keep=2)
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {})
        checkpoints.save(3, make_state(99), {})  # a step that is there is not written again
        checkpoints.wait()
        got, _ = checkpoints.restore(3, one_device(make_state()))
        checkpoints.close()
        assert int(got.step) == 3
        assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["2", "3"]

    def test_keeps_milestones_for_ever_beside_the_newest(self, tmp_path):
        checkpoints = Checkpoints(tmp_path, keep=2, keep_every=4)
        for step in range(2, 15, 2):
            checkpoints.save(step, make_state(step), {})
        checkpoints.close()
        assert complete_steps(tmp_path) == [4, 8, 12, 14]

    def test_what_cannot_be_written_is_told_in_one_line(self, tmp_path):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, make_state(), {})
        checkpoints.wait()
        checkpoints.look()  # all is well
        text = (
            f"{tmp_path}/checkpoints: a checkpoint could not be written (TypeError: Object of type "
            "set is not JSON serializable); the newest whole one is 1. Legal: a folder that can be "
            "written to, with room; then the same command goes on from there."
        )
        with pytest.raises(SaveError, match=f"^{re.escape(text)}$"):
            _save_and_wait(checkpoints, 2, {"position": {1, 2}})

    def test_another_model_is_refused(self, tmp_path):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, make_state(), {})
        checkpoints.wait()
        start = re.escape(f"{tmp_path}: checkpoint 1 does not fit this configuration (")
        end = re.escape("). Use the one it was trained with, or a new --workdir.")
        other = one_device(make_state())
        other.params["unet"]["extra"] = other.params["unet"].pop("kernel")
        with pytest.raises(UserError, match=f"^{start}.*{end}$"):
            checkpoints.restore(1, other)
        checkpoints.close()


class TestRestoreParams:
    def test_average_or_raw(self, tmp_path):
        state = make_state(2.0)
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(2, state, {})
        checkpoints.close()
        shapes = one_device(state.params)
        assert_same(restore_params(tmp_path, shapes), (state.ema_params, 2))
        assert_same(restore_params(tmp_path, shapes, ema=False), (state.params, 2))

    def test_nothing_there(self, tmp_path):
        with says(f"{tmp_path}: no checkpoints here; expected the --workdir of a training run."):
            restore_params(tmp_path, {})
        (tmp_path / "checkpoints").mkdir()
        with says(f"{tmp_path}: no complete checkpoint yet; train for longer first."):
            restore_params(tmp_path, {})

    def test_another_model(self, tmp_path):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(1, make_state(), {})
        checkpoints.close()
        with pytest.raises(UserError, match=r"checkpoint 1 does not fit the model \("):
            restore_params(tmp_path, {"vit": one_device(make_state().params)["unet"]})


def test_frozen_round_trip(tmp_path):
    scale = LatentScale(jnp.ones(2), jnp.full(2, 3.0))
    frozen = Frozen({"encoder": {"kernel": jnp.arange(6.0)}}, scale)
    assert not has_frozen(tmp_path)
    save_frozen(tmp_path, frozen)
    assert has_frozen(tmp_path)
    assert_same(restore_frozen(tmp_path, one_device(frozen)), frozen)
    # One more name here, and Orbax refuses the workdirs of every version before.
    stored = json.loads((tmp_path / "frozen" / "_METADATA").read_text())["tree_metadata"]
    first_names = {entry["key_metadata"][0]["key"] for entry in stored.values()}
    assert first_names == {"params", "latent_scale", "conditioner"}


def make_config(**changes):
    config = ConfigDict(
        {
            "seed": 0,
            "task": {"name": "x", "mult": (1, 2), "first_stage": {"workdir": placeholder(str)}},
            "data": {"image_size": 8, "derive": {"x": {"embeddings": "a.npy", "k": 4}}},
            "train": {
                "steps": 10,
                "mesh": (-1, 1, 1),
                "clip_norm": placeholder(float),
                "ema_conditioner": True,
                "keep_every": placeholder(int),
                "ema_on_host": False,
            },
            "sample": {"steps": 5, "decode_batch": 4},
        }
    )
    config.update_from_flattened_dict(changes)
    return config


class TestConfig:
    def test_round_trip_keeps_tuples_and_empty_places(self, tmp_path):
        write_config(tmp_path / "new", make_config())
        config = read_config(tmp_path / "new")
        assert config.task.mult == (1, 2)
        assert config.train.mesh == (-1, 1, 1)
        assert config.train.clip_norm is None
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["config.json"]

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"train.steps": 99},
            {"train.clip_norm": 1.0},
            {"task.first_stage.workdir": "b"},
            {"data.derive.x.embeddings": "b.npy"},
            {"task.remat": "blocks"},
            {"task.attention_impl": "cudnn"},
        ],
    )
    def test_what_may_change(self, tmp_path, changes):
        write_config(tmp_path, make_config())
        (tmp_path / "frozen").mkdir()
        write_config(tmp_path, make_config(**changes))
        flat = dict(read_config(tmp_path).to_dict())
        assert flat == make_config(**changes).to_dict()

    @pytest.mark.parametrize(
        ("changes", "now", "was"),
        [
            ({"seed": 1}, "config.seed=1", "0"),
            ({"data.derive.x.k": 5}, "config.data.derive.x.k=5", "4"),
            ({"train.ema_conditioner": False}, "config.train.ema_conditioner=False", "True"),
            ({"task.name": "y"}, "config.task.name='y'", "'x'"),
            ({"task.mult": (1, 2, 4)}, "config.task.mult=(1, 2, 4)", "(1, 2)"),
        ],
    )
    def test_what_may_not(self, tmp_path, changes, now, was):
        write_config(tmp_path, make_config())
        (tmp_path / "frozen").mkdir()
        path = tmp_path / "config.json"
        before = path.read_text()
        text = f"{now}, but {path} was trained with {was}. Use that value, or a new --workdir."
        with says(text):
            write_config(tmp_path, make_config(**changes))
        assert path.read_text() == before

    def test_anything_may_change_before_something_was_trained(self, tmp_path):
        write_config(tmp_path, make_config())
        write_config(tmp_path, make_config(**{"task.mult": (1, 2, 4)}))
        assert read_config(tmp_path).task.mult == (1, 2, 4)

    def test_fields_that_are_new_or_gone(self, tmp_path):
        write_config(tmp_path, make_config())
        (tmp_path / "checkpoints" / "5").mkdir(parents=True)
        config = make_config()
        config.task.extra = 3
        with pytest.raises(UserError, match=r"^config\.task\.extra=3, but .* trained with None"):
            write_config(tmp_path, config)

    def test_nothing_there(self, tmp_path):
        text = f"{tmp_path}/config.json: not found; expected the --workdir of a training run."
        with says(text):
            read_config(tmp_path)

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
            ('{"seed": 0, "task": {}, "data": {}}', "no train, sample"),
            ("[]", "no seed, task, data, train, sample"),
        ],
    )
    def test_a_damaged_file(self, tmp_path, text, why):
        path = tmp_path / "config.json"
        path.write_text(text)
        with says(f"{path}: damaged ({why}); expected what `ldm-jax train` wrote there."):
            read_config(tmp_path)
