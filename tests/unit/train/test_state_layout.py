"""Where the state of a run lies."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import put_batch, replicated
from ldm_jax.tasks.base import LossOutput
from ldm_jax.train.checkpoint import Checkpoints
from ldm_jax.train.layout import placed_state, state_shardings
from ldm_jax.train.step import compile_train_step, init_state, make_train_step

pytestmark = pytest.mark.usefixtures("optimized")

MESH = (2, 4, 1)
BATCH = {"x": np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)}


class Square:
    """Loss: mean((x·w)²)."""

    groups = {"fit": ("model", "other")}

    def init(self, key, batch):
        return {"model": {"w": jnp.ones((16, 8))}, "other": {"w": jnp.ones((16, 8))}}, {}

    def loss(self, group, params, mutable, frozen, batch, keys):
        y = batch["x"] @ (params["model"]["w"] + params["other"]["w"])
        return LossOutput(jnp.mean(jnp.square(y)), {}, mutable)

    def revise(self, group, params, mutable, step):
        return params, mutable


def make(mesh, ema_on_host):
    task, optimizers = Square(), {"fit": optax.adam(0.1)}
    abstract = jax.eval_shape(lambda: init_state(task, optimizers, jax.random.key(0), BATCH))
    step = make_train_step(task, optimizers, seed=0, not_averaged=("other",))
    compiled = compile_train_step(step, mesh, abstract, {}, ema_on_host=ema_on_host)
    init = jax.jit(
        lambda: init_state(task, optimizers, jax.random.key(0), BATCH),
        out_shardings=state_shardings(mesh, abstract, ema_on_host=ema_on_host),
    )
    return compiled, init(), abstract


def test_averages_alone_lie_on_the_host():
    mesh = make_mesh(MESH)
    *_, abstract = make(mesh, False)
    here = state_shardings(mesh, abstract)
    there = state_shardings(mesh, abstract, ema_on_host=True)
    assert {s.memory_kind for s in jax.tree.leaves(here)} == {"device"}
    assert {s.memory_kind for s in jax.tree.leaves(there.ema_params)} == {"pinned_host"}
    assert there.params == here.params
    assert there.opt_state == here.opt_state
    assert there.step == replicated(mesh)
    specs = [jax.tree.map(lambda s: s.spec, x.ema_params) for x in (here, there)]
    assert specs[0] == specs[1]
    placed = placed_state(mesh, abstract, ema_on_host=True)
    assert jax.tree.map(lambda x: x.sharding, placed) == there
    assert placed.ema_params["model"]["w"].shape == (16, 8)


@pytest.mark.parametrize("shape", [(1, 1, 1), MESH])
def test_steps_are_the_same_to_the_bit(shape):
    mesh = make_mesh(shape, jax.devices()[: np.prod(shape)])
    with jax.set_mesh(mesh):
        rows, states = put_batch(mesh, BATCH), []
        for ema_on_host in (False, True):
            step, state, _ = make(mesh, ema_on_host)
            for _ in range(3):
                state, _ = step(state, {}, rows)
            states.append(state)
    here, there = states
    jax.tree.map(np.testing.assert_array_equal, here, there)
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(there.ema_params)}
    assert kinds == {"pinned_host"}
    average, now = (np.asarray(x["model"]["w"]) for x in (there.ema_params, there.params))
    assert np.abs(average - now).min() > 0.01


def test_a_checkpoint_knows_no_difference(tmp_path):
    """Saved with averages on the host it is restored without, and the other way round."""
    mesh = make_mesh(MESH)
    for saved_on_host in (True, False):
        _, state, abstract = make(mesh, saved_on_host)
        checkpoints = Checkpoints(tmp_path / str(saved_on_host))
        checkpoints.save(1, state, {"position": 1})
        checkpoints.wait()
        wanted = placed_state(mesh, abstract, ema_on_host=not saved_on_host)
        got, _ = checkpoints.restore(1, wanted)
        checkpoints.close()
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), jax.device_get(state))
        for leaf, asked in zip(*map(jax.tree.leaves, (got, wanted)), strict=True):
            assert leaf.sharding == asked.sharding
