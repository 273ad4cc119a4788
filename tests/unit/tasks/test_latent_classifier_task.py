"""The classification loss and its metrics, by hand, and a problem that it must solve."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.core.rng import Purpose, StepKeys
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.models import IdentityFirstStage, LatentClassifier
from ldm_jax.tasks.first_stage import FirstStage, Frozen, fixed_scale
from ldm_jax.tasks.latent_classifier import LatentClassifierTask
from ldm_jax.train.step import init_state, make_train_step

T, SEED, STEP, ROWS, CLASSES = 50, 5, 3, 12, 7
SCHEDULE = make_schedule(num_timesteps=T)
FROZEN = Frozen({}, fixed_scale(3, 0.5))
BATCH = {
    "image": np.random.default_rng(0).integers(0, 256, (ROWS, 4, 4, 3), dtype=np.uint8),
    "class": (np.arange(ROWS) % CLASSES).astype(np.int32),
}
KEYS = StepKeys(step=jnp.int32(STEP), indices=jnp.arange(ROWS), seed=SEED)


class Linear:
    """Logits are a linear function of the mean of z_t by channel, plus t."""

    def init(self, key, z, t):
        assert (z.shape, t.shape) == ((1, 4, 4, 3), (1,))
        return {"params": {"kernel": jax.random.normal(key, (3, CLASSES))}}

    def apply(self, variables, z, t, *, deterministic=True, rngs=None):
        assert t.dtype == jnp.float32
        assert deterministic == (rngs is None)
        logits = z.mean((1, 2)) @ variables["params"]["kernel"]
        return logits + 0.01 * t[:, None] * jnp.arange(CLASSES)[None, :]


def make_task(model=None, **fields):
    model = Linear() if model is None else model
    first_stage = FirstStage(IdentityFirstStage())
    return LatentClassifierTask(model, first_stage, SCHEDULE, image_size=4, **fields)


KERNEL = 3.0 * np.random.default_rng(1).standard_normal((3, CLASSES)).astype(np.float32)
PARAMS = {"classifier": {"kernel": KERNEL}}


def draw(k, purpose, sample):
    numbers = (STEP, purpose, k)
    return np.asarray(sample(functools.reduce(jax.random.fold_in, numbers, jax.random.key(SEED))))


def by_hand(batch):
    """Returns the log probabilities [ROWS, CLASSES] and the timesteps [ROWS]."""
    alpha_bar = np.asarray(SCHEDULE.alpha_bar, np.float64)
    t = np.array(
        [
            draw(k, Purpose.TIMESTEP, lambda key: jax.random.randint(key, (), 0, T))
            for k in range(ROWS)
        ]
    )
    eps = np.stack(
        [draw(k, Purpose.NOISE, lambda key: jax.random.normal(key, (4, 4, 3))) for k in range(ROWS)]
    )
    a = alpha_bar[t][:, None, None, None]
    z = np.sqrt(a) * 0.5 * (batch["image"] / 127.5 - 1.0) + np.sqrt(1 - a) * eps
    logits = z.mean((1, 2)) @ KERNEL + 0.01 * t[:, None] * np.arange(CLASSES)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True)), t


def test_loss_and_accuracies():
    task = make_task()
    log_probs, t = by_hand(BATCH)
    # Labels that are right, second, third … so that all the metrics differ.
    places = np.arange(ROWS) % CLASSES % 7
    classes = np.argsort(-log_probs, axis=-1)[np.arange(ROWS), places].astype(np.int32)
    batch = {**BATCH, "class": classes}
    output = jax.jit(lambda p, b: task.loss("classifier", p, {}, FROZEN, b, KEYS))(PARAMS, batch)
    expected = -log_probs[np.arange(ROWS), classes].mean()
    np.testing.assert_allclose(output.loss, expected, rtol=1e-5)
    metrics = {"top1": (places == 0).mean(), "top5": (places < 5).mean()}
    for quarter in range(4):
        share = np.mean(4 * np.arange(T) // T == quarter)
        hits = (places == 0) & (4 * t // T == quarter)
        metrics[f"top1_q{quarter + 1}"] = hits.mean() / share
    assert set(output.metrics) == set(metrics)
    for name, value in metrics.items():
        np.testing.assert_allclose(output.metrics[name], value, rtol=1e-5, err_msg=name)
    assert output.mutable == {}


def test_moments_give_the_loss_of_their_images():
    task = make_task()
    loss = jax.jit(lambda b: task.loss("classifier", PARAMS, {}, FROZEN, b, KEYS).loss)
    moments = BATCH["image"] / np.float32(127.5) - np.float32(1.0)
    cached = {"moments": moments, "class": BATCH["class"]}
    np.testing.assert_allclose(loss(cached), loss(BATCH), rtol=1e-6)
    assert task.moments_shape == (4, 4, 3)


def test_log_prob_and_its_gradient():
    task = make_task()
    z = np.random.default_rng(3).normal(size=(2, 4, 4, 3)).astype(np.float32)
    t, classes = np.array([1, 30]), np.array([6, 2], np.int32)

    def total(z):
        log_prob = task.log_prob(PARAMS, z, t, classes)
        return log_prob.sum(), log_prob

    gradient, log_prob = jax.jit(jax.grad(total, has_aux=True))(z)
    logits = z.mean((1, 2)) @ KERNEL + 0.01 * t[:, None] * np.arange(CLASSES)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert (log_prob.shape, log_prob.dtype) == ((2,), jnp.float32)
    np.testing.assert_allclose(log_prob, np.log(p[[0, 1], classes]), rtol=1e-5)
    # d log softmax_y / d z is (W_y - sum_k p_k W_k) for every pixel, over their number.
    by_channel = (KERNEL[:, classes] - KERNEL @ p.T).T / 16
    expected = np.broadcast_to(by_channel[:, None, None, :], z.shape)
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-6)


def test_init_groups_and_inputs():
    task = make_task()
    params, mutable = jax.eval_shape(lambda: task.init(jax.random.key(0), BATCH))
    assert params["classifier"]["kernel"].shape == (3, CLASSES)
    assert mutable == {}
    assert task.groups == {"classifier": ("classifier",)}
    assert task.inputs == tuple(task.input_shapes()) == ("class",)
    assert not task.has_frozen_conditioner
    assert task.revise("classifier", params, mutable, jnp.int32(0)) == (params, mutable)


@pytest.fixture(scope="module")
def trained():
    """The metrics of thirty steps on dark images of class 0 and bright ones of class 1."""
    model = LatentClassifier(2, 4, (1,), num_res_blocks=0, num_groups=1)
    task = make_task(model)
    optimizers = {"classifier": optax.adamw(1e-2, weight_decay=0.01)}
    state = jax.jit(lambda: init_state(task, optimizers, jax.random.key(0), BATCH))()
    step = jax.jit(make_train_step(task, optimizers, seed=SEED, max_ema_decay=0.0))
    rng = np.random.default_rng(0)
    history = []
    for _ in range(30):
        classes = rng.integers(0, 2, 64).astype(np.int32)
        levels = (30 + 195 * classes).astype(np.uint8)[:, None, None, None]
        images = np.broadcast_to(levels, (64, 4, 4, 3))
        state, metrics = step(state, FROZEN, {"image": images, "class": classes})
        history.append(jax.device_get(metrics))
    return history


def test_the_first_loss_is_that_of_a_guess(trained):
    """The head starts at zero; ties count as wrong."""
    assert trained[0]["loss"] == pytest.approx(np.log(2), rel=1e-6)
    assert trained[0]["top1"] == 0.0
    assert trained[0]["top5"] == 1.0  # of two classes
    assert trained[0]["grad_norm"] > 0.0


def test_a_separable_problem_is_learned(trained):
    last = {name: np.mean([m[name] for m in trained[-5:]]) for name in trained[0]}
    assert last["loss"] < 0.4 * np.log(2)
    assert last["top1"] > 0.9
