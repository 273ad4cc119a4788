"""The train step against a linear model in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.core.rng import Purpose, normal
from ldm_jax.tasks.base import LossOutput
from ldm_jax.train.step import init_state, layer_norms, make_train_step

pytestmark = pytest.mark.usefixtures("optimized")

ROWS, RATE = 8, 0.1
BATCH = {
    "x": np.random.default_rng(0).standard_normal((ROWS, 3)).astype(np.float32),
    "y": np.random.default_rng(1).standard_normal((ROWS,)).astype(np.float32),
}


class Regression:
    """Loss: mean((x·w + noise - y)²), with noise that belongs to the example; counts calls."""

    groups = {"fit": ("model",)}

    def init(self, key, batch):
        return {"model": {"w": jnp.ones(3)}}, {"calls": jnp.int32(0)}

    def loss(self, group, params, mutable, frozen, batch, keys):
        noise = normal(keys(Purpose.NOISE), ())
        error = batch["x"] @ params["model"]["w"] + frozen["offset"] + noise - batch["y"]
        metrics = {"error": jnp.mean(jnp.abs(error))}
        calls = {"calls": mutable["calls"] + 1}
        return LossOutput(jnp.mean(jnp.square(error)), metrics, calls)

    def revise(self, group, params, mutable, step):
        return params, mutable


class TwoPlayers(Regression):
    """Group `a` trains w_a given w_b; group `b` then trains w_b given the new w_a."""

    groups = {"a": ("player_a",), "b": ("player_b",)}

    def init(self, key, batch):
        return {"player_a": jnp.float32(1.0), "player_b": jnp.float32(2.0)}, {}

    def loss(self, group, params, mutable, frozen, batch, keys):
        a, b = params["player_a"], params["player_b"]
        loss = jnp.square(a - b) if group == "a" else -jnp.square(a - 3 * b)
        return LossOutput(loss, {}, mutable)


FROZEN = {"offset": jnp.float32(0.25)}


def start(task, optimizer=None):
    optimizers = {group: optimizer or optax.sgd(RATE) for group in task.groups}
    return optimizers, init_state(task, optimizers, jax.random.key(0), BATCH)


def noise(step, seed=0):
    keys = [
        functools.reduce(jax.random.fold_in, (step, Purpose.NOISE, k), jax.random.key(seed))
        for k in range(ROWS)
    ]
    return np.array([jax.random.normal(key) for key in keys])


def test_the_first_state():
    _, state = start(Regression(), optax.adam(RATE))
    assert state.step == 0
    np.testing.assert_array_equal(state.ema_params["model"]["w"], np.ones(3))
    assert state.ema_params["model"]["w"] is not state.params["model"]["w"]  # both are donated
    assert set(state.opt_state) == {"fit"}
    assert state.mutable == {"calls": 0}


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_three_steps_by_hand(accumulation):
    task = Regression()
    optimizers, state = start(task)
    step = jax.jit(make_train_step(task, optimizers, seed=0, accumulation=accumulation))
    w = ema = np.ones(3)
    for n in range(3):
        error = BATCH["x"] @ w + 0.25 + noise(n) - BATCH["y"]
        gradient = 2 * BATCH["x"].T @ error / ROWS
        state, metrics = step(state, FROZEN, BATCH)
        w = w - RATE * gradient
        decay = min(0.9999, (2 + n) / (11 + n))
        ema = decay * ema + (1 - decay) * w
        expected = {
            "loss": (error**2).mean(),
            "error": np.abs(error).mean(),
            "grad_norm": np.linalg.norm(gradient),
            "param_norm": np.linalg.norm(w),
        }
        assert set(metrics) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(state.params["model"]["w"], w, rtol=1e-5)
        np.testing.assert_allclose(state.ema_params["model"]["w"], ema, rtol=1e-5)
        assert state.step == n + 1
        assert state.mutable["calls"] == (n + 1) * accumulation


def test_what_is_not_averaged_is_the_parameters():
    task = TwoPlayers()
    optimizers, state = start(task)
    step = make_train_step(task, optimizers, seed=0, not_averaged=("player_b",))
    state, _ = jax.jit(step)(state, {}, BATCH)
    assert state.ema_params["player_b"] == state.params["player_b"] != 2.0
    decay = 2 / 11
    np.testing.assert_allclose(
        state.ema_params["player_a"], decay + (1 - decay) * state.params["player_a"], rtol=1e-6
    )


def test_another_seed_is_another_run():
    task = Regression()
    optimizers, state = start(task)
    losses = [
        jax.jit(make_train_step(task, optimizers, seed=seed))(state, FROZEN, BATCH)[1]["loss"]
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_groups_take_turns_and_train_only_their_own():
    task = TwoPlayers()
    optimizers, state = start(task)
    step = jax.jit(make_train_step(task, optimizers, seed=0, max_ema_decay=0.0))
    state, metrics = step(state, {}, BATCH)
    a = 1.0 - RATE * 2 * (1.0 - 2.0)
    b = 2.0 - RATE * 6 * (a - 3 * 2.0)
    np.testing.assert_allclose(state.params["player_a"], a, rtol=1e-6)
    np.testing.assert_allclose(state.params["player_b"], b, rtol=1e-6)
    np.testing.assert_allclose(state.ema_params["player_b"], b, rtol=1e-6)
    np.testing.assert_allclose(metrics["b/loss"], -((a - 6.0) ** 2), rtol=1e-6)
    names = {f"{g}/{m}" for g in "ab" for m in ("loss", "grad_norm")}
    assert set(metrics) == names | {"param_norm"}


def test_details_of_every_layer_add_up():
    task = TwoPlayers()
    optimizers, state = start(task)
    step = make_train_step(task, optimizers, seed=0, detailed=True)
    after, metrics = jax.jit(step)(state, {}, BATCH)
    # The gradients by hand: 2 (a - b) at (1, 2), then 6 (a - 3 b) at the new a, 1.2.
    assert set(metrics["gradient"]) == {"player_a", "player_b"}
    for name, norm in (("player_a", 2.0), ("player_b", 28.8)):
        np.testing.assert_allclose(metrics["gradient"][name][0], norm, rtol=1e-6)
        np.testing.assert_allclose(metrics["after"][name][0], abs(after.params[name]), rtol=1e-6)
    plain, _ = jax.jit(make_train_step(task, optimizers, seed=0))(state, {}, BATCH)
    jax.tree.map(np.testing.assert_array_equal, after, plain)


def test_norms_of_layers():
    big, odd = jnp.full(4, 1e30), jnp.array([[1.0, jnp.nan], [jnp.inf, 2.0]])
    norms = layer_norms({"zero": jnp.zeros(3), "deep": {"big": big}, "odd": odd})
    assert set(norms) == {"zero", "deep/big", "odd"}
    assert norms["zero"] == (0.0, 0)
    np.testing.assert_allclose(norms["deep/big"][0], 2e30, rtol=1e-6)  # its square overflows
    assert norms["odd"][1] == 2
    assert not np.isfinite(norms["odd"][0])
    assert layer_norms({"infinite": jnp.array([1.0, -jnp.inf])})["infinite"] == (jnp.inf, 1)
