"""The denoising loss and its randomness, by hand, with networks that have no weights."""

import dataclasses
import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import ClassLabel, Conditioner, NoConditioning
from ldm_jax.core.checks import UserError
from ldm_jax.core.rng import Purpose, StepKeys
from ldm_jax.core.types import Conditioning
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.samplers.base import initial_noise
from ldm_jax.samplers.ddim import ddim
from ldm_jax.tasks.first_stage import Answered, Frozen
from ldm_jax.tasks.latent_diffusion import MASK_CELLS, LatentDiffusionTask

T, SEED, STEP = 50, 5, 3
SCHEDULE = make_schedule(num_timesteps=T)
ROWS = 6
BATCH = {
    "image": np.random.default_rng(0).integers(0, 256, (ROWS, 4, 4, 3), dtype=np.uint8),
    "class": np.arange(ROWS, dtype=np.int32),
}


class Pixels:
    """A first stage that hands images through and counts on its keys."""

    latent_shape = staticmethod(lambda height, width: (height, width, 3))

    def encode(self, frozen, images, keys):
        assert keys.shape == images.shape[:1]
        return frozen * images

    def decode(self, frozen, z):
        return z / frozen


class Network:
    """Predicts gain · (z_t + mean of the context + t / T)."""

    def init(self, key, z, t, conditioning):
        assert (z.shape, t.shape) == ((1, 4, 4, 3), (1,))
        return {"params": {"gain": jnp.float32(1.0)}}

    def apply(self, variables, z, t, conditioning, **_):
        assert t.dtype == jnp.float32
        context = 0.0
        if conditioning.context is not None:
            context = jnp.mean(conditioning.context, axis=(1, 2))[:, None, None, None]
        return variables["params"]["gain"] * (z + context + t[:, None, None, None] / T)


def make_task(conditioner=None, **fields):
    weights = jnp.linspace(0.5, 2.0, T)
    conditioner = NoConditioning() if conditioner is None else conditioner
    return LatentDiffusionTask(
        Network(), conditioner, Pixels(), SCHEDULE, weights, image_size=4, **fields
    )


def run_loss(task, params, batch=BATCH, indices=range(ROWS)):
    keys = StepKeys(step=jnp.int32(STEP), indices=jnp.asarray(indices), seed=SEED)
    loss = jax.jit(lambda p, f, b, k: task.loss("diffusion", p, {}, f, b, k))
    return loss(params, jnp.float32(0.5), batch, keys)


def key(purpose, index):
    numbers = (STEP, purpose, index)
    return functools.reduce(jax.random.fold_in, numbers, jax.random.key(SEED))


def draws(k):
    """Returns timestep, noise and the number that decides whether the condition is dropped."""
    t = int(jax.random.randint(key(Purpose.TIMESTEP, k), (), 0, T))
    eps = np.asarray(jax.random.normal(key(Purpose.NOISE, k), (4, 4, 3)))
    return SimpleNamespace(
        t=t, eps=eps, u=float(jax.random.uniform(key(Purpose.CONDITION_DROP, k)))
    )


def by_hand(context=None, parameterization="eps", power=2):
    """Returns the errors of all rows, [ROWS], and their weights."""
    alpha_bar, errors, weights = np.asarray(SCHEDULE.alpha_bar, np.float64), [], []
    for k in range(ROWS):
        d = draws(k)
        z0 = 0.5 * (BATCH["image"][k] / 127.5 - 1.0)
        a, s = np.sqrt(alpha_bar[d.t]), np.sqrt(1 - alpha_bar[d.t])
        output = a * z0 + s * d.eps + (0.0 if context is None else context(k, d.u)) + d.t / T
        target = {"eps": d.eps, "x0": z0, "v": a * d.eps - s * z0}[parameterization]
        errors.append((np.abs(target - output) ** power).mean())
        weights.append(np.linspace(0.5, 2.0, T)[d.t])
    return np.array(errors), np.array(weights)


PARAMS = {"unet": {"gain": jnp.float32(1.0)}, "conditioner": {}}


@pytest.mark.parametrize("parameterization", ["eps", "x0", "v"])
@pytest.mark.parametrize(("loss_name", "power"), [("l2", 2), ("l1", 1)])
def test_loss(parameterization, loss_name, power):
    task = make_task(parameterization=parameterization, loss_name=loss_name)
    output = run_loss(task, PARAMS)
    errors, weights = by_hand(parameterization=parameterization, power=power)
    np.testing.assert_allclose(output.loss, (weights * errors).mean(), rtol=1e-5)
    np.testing.assert_allclose(output.metrics["loss_simple"], errors.mean(), rtol=1e-5)


def test_conditions_are_dropped_by_their_own_draw():
    conditioner = ClassLabel(num_classes=10, dim=2)
    table = np.random.default_rng(4).standard_normal((11, 2)).astype(np.float32)
    params = {**PARAMS, "conditioner": {"table": {"embedding": table}}}
    rate = 0.4
    dropped = [draws(k).u < rate for k in range(ROWS)]
    assert 0 < sum(dropped) < ROWS

    def context(k, u):
        return table[10 if u < rate else k].mean()

    output = run_loss(make_task(conditioner, condition_drop_rate=rate), params)
    np.testing.assert_allclose(output.metrics["loss_simple"], by_hand(context)[0].mean(), rtol=1e-5)
    output = run_loss(make_task(conditioner, condition_drop_rate=0.0), params)
    errors, _ = by_hand(lambda k, u: table[k].mean())
    np.testing.assert_allclose(output.metrics["loss_simple"], errors.mean(), rtol=1e-5)


def test_the_loss_of_an_example_does_not_depend_on_its_batch():
    task = make_task()
    whole = run_loss(task, PARAMS).loss
    parts = [
        run_loss(task, PARAMS, {n: x[rows] for n, x in BATCH.items()}, rows).loss
        for rows in (np.array([4, 1, 0]), np.array([5, 3, 2]))
    ]
    np.testing.assert_allclose(np.mean(parts), whole, rtol=1e-6)


def test_init_and_groups():
    task = make_task(ClassLabel(num_classes=10, dim=2))
    params, mutable = jax.eval_shape(lambda: task.init(jax.random.key(0), BATCH))
    assert set(params) == {"unet", "conditioner"}
    assert params["conditioner"]["table"]["embedding"].shape == (11, 2)
    assert mutable == {}
    assert task.groups == {"diffusion": ("unet", "conditioner")}
    assert make_task().init(jax.random.key(0), BATCH)[0]["conditioner"] == {}


def test_gradients_do_not_reach_the_first_stage():
    keys = StepKeys(step=jnp.int32(STEP), indices=jnp.arange(ROWS), seed=SEED)
    gradient = jax.grad(lambda f: make_task().loss("diffusion", PARAMS, {}, f, BATCH, keys).loss)
    assert float(gradient(jnp.float32(0.5))) == 0.0


def test_denoiser_reads_alpha_bar_at_t():
    z = jnp.ones((2, 4, 4, 3))
    t = jnp.array([3.0, 40.0])
    prediction = jax.jit(make_task().denoiser(PARAMS))(z, t, Conditioning())
    alpha_bar = np.asarray(SCHEDULE.alpha_bar, np.float64)[[3, 40]]
    eps = 1.0 + np.array([3.0, 40.0]) / T
    np.testing.assert_allclose(prediction.eps[:, 0, 0, 0], eps, rtol=1e-6)
    x0 = (1.0 - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)
    np.testing.assert_allclose(prediction.x0[:, 0, 0, 0], x0, rtol=1e-4, atol=1e-5)


def test_sample_shapes_and_seed():
    task = make_task(ClassLabel(num_classes=10, dim=2))
    params = {**PARAMS, "conditioner": {"table": {"embedding": jnp.ones((11, 2))}}}
    rows = ddim(make_levels(SCHEDULE, 3))

    @functools.partial(jax.jit, static_argnames="image_shape")
    def draw(seed, image_shape=None):
        return task.sample(
            params,
            jnp.float32(0.5),
            {"class": jnp.arange(2)},
            jnp.arange(2),
            seed=seed,
            rows=rows,
            guidance_scale=2.0,
            image_shape=image_shape,
        )

    assert draw(0).shape == (2, 4, 4, 3)
    assert draw(0, image_shape=(4, 8)).shape == (2, 4, 8, 3)
    np.testing.assert_array_equal(draw(0), draw(0))
    assert np.abs(draw(0) - draw(1)).max() > 0.1


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"parameterization": "epsilon"},
            "task.parameterization: got 'epsilon'; did you mean 'eps'? Legal: eps, x0, v.",
        ),
        ({"loss_name": "huber"}, "task.loss_name: got 'huber'. Legal: l1, l2."),
        ({"mask_cells": "mean"}, "task.mask_cells: got 'mean'. Legal: first_pixel, share."),
    ],
)
def test_unknown_names(fields, text):
    with pytest.raises(UserError, match=f"^{re.escape(text)}$"):
        make_task(**fields)


class ScaledPixels(Pixels):
    """`Pixels` whose number is the parameter of a real `Frozen`."""

    def encode(self, frozen, images, keys):
        return super().encode(frozen.params, images, keys)

    def decode(self, frozen, z):
        return super().decode(frozen.params, z)


TABLE = jnp.asarray(np.random.default_rng(4).standard_normal((11, 2)), jnp.float32)
CONDITIONER_PARAMS = {"table": {"embedding": TABLE}}
GAIN = {"gain": jnp.float32(1.0)}


def conditional_task(trained, **fields):
    """Returns a task whose conditioner is trained or frozen, its parameters, and what is frozen."""
    conditioner = ClassLabel(num_classes=10, dim=2)
    task = make_task(conditioner, train_conditioner=trained, condition_drop_rate=0.4, **fields)
    task = dataclasses.replace(task, first_stage=ScaledPixels())
    if trained:
        params = {"unet": GAIN, "conditioner": CONDITIONER_PARAMS}
        return task, params, Frozen(jnp.float32(0.5), None)
    return task, {"unet": GAIN}, Frozen(jnp.float32(0.5), None, CONDITIONER_PARAMS)


def test_a_frozen_conditioner_is_no_parameter():
    task, _, _ = conditional_task(trained=False)
    params, mutable = jax.eval_shape(lambda: task.init(jax.random.key(0), BATCH))
    assert set(params) == {"unet"}
    assert mutable == {}
    assert task.groups == {"diffusion": ("unet",)}
    shapes = jax.eval_shape(lambda: task.init_conditioner(jax.random.key(0)))
    assert shapes["table"]["embedding"].shape == (11, 2)


def test_a_frozen_conditioner_gives_the_loss_of_the_same_one_in_training():
    keys = StepKeys(step=jnp.int32(STEP), indices=jnp.arange(ROWS), seed=SEED)
    errors, weights = by_hand(lambda k, u: np.asarray(TABLE)[10 if u < 0.4 else k].mean())
    for trained in (True, False):
        task, params, frozen = conditional_task(trained)

        def loss(params, frozen, task=task):
            return task.loss("diffusion", params, {}, frozen, BATCH, keys).loss

        value, gradient = jax.jit(jax.value_and_grad(loss))(params, frozen)
        np.testing.assert_allclose(value, (weights * errors).mean(), rtol=1e-5)
        assert set(gradient) == set(params)
        assert float(gradient["unet"]["gain"]) != 0.0
    # What is frozen is not differentiated, though the loss does depend on it.
    moved = dataclasses.replace(frozen, conditioner={"table": {"embedding": TABLE + 1.0}})
    assert abs(float(loss(params, moved)) - float(value)) > 0.1


class Dropping(Conditioner):
    """Hands on whether it was told to drop anything."""

    def input_shapes(self, image_size):
        return {"class": jax.ShapeDtypeStruct((), jnp.int32)}

    def __call__(self, batch, *, deterministic=True):
        b = batch["class"].shape[0]
        return Conditioning(context=jnp.full((b, 1, 1), 0.0 if deterministic else 5.0))


def test_a_frozen_conditioner_has_no_dropout():
    for trained in (False, True):
        task = make_task(Dropping(), train_conditioner=trained, condition_drop_rate=0.0)
        task = dataclasses.replace(task, first_stage=ScaledPixels())
        params = {"unet": GAIN} | ({"conditioner": {}} if trained else {})
        keys = StepKeys(step=jnp.int32(STEP), indices=jnp.arange(ROWS), seed=SEED)
        frozen = Frozen(jnp.float32(0.5), None, {})
        output = task.loss("diffusion", params, {}, frozen, BATCH, keys)
        errors, _ = by_hand(lambda k, u, trained=trained: 5.0 * trained)
        np.testing.assert_allclose(output.metrics["loss_simple"], errors.mean(), rtol=1e-5)


def draw(task, params, frozen, steps=1, **fields):
    arguments = {"seed": 0, "rows": ddim(make_levels(SCHEDULE, steps))}
    sample = jax.jit(
        lambda params, frozen, batch: task.sample(
            params, frozen, batch, jnp.arange(2), **(arguments | fields)
        )
    )
    return sample(params, frozen, {"class": jnp.arange(2)})


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_one_step_from_given_noise_with_a_frozen_conditioner(guidance_scale):
    z_T = np.random.default_rng(6).standard_normal((2, 4, 4, 3)).astype(np.float32)
    task, params, frozen = conditional_task(trained=False)
    images = draw(task, params, frozen, z_T=z_T, guidance_scale=guidance_scale)
    # One step of DDIM goes from the last timestep to the predicted clean latent.
    alpha_bar = np.float64(SCHEDULE.alpha_bar[T - 1])
    given, null = np.asarray(TABLE)[:2].mean(1), np.asarray(TABLE)[10].mean()
    context = (null + guidance_scale * (given - null))[:, None, None, None]
    eps = z_T + context + (T - 1) / T
    x0 = (z_T - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)
    np.testing.assert_allclose(images, x0 / 0.5, rtol=1e-3, atol=1e-3)
    trained, all_params, plain = conditional_task(trained=True)
    same = draw(trained, all_params, plain, z_T=z_T, guidance_scale=guidance_scale)
    np.testing.assert_allclose(same, images, rtol=1e-5)


def test_without_given_noise_it_is_that_of_the_seed():
    task, params, frozen = conditional_task(trained=False)
    z_T = initial_noise(0, jnp.arange(2), (4, 4, 3))
    np.testing.assert_allclose(
        draw(task, params, frozen, steps=2),
        draw(task, params, frozen, steps=2, z_T=z_T),
        rtol=1e-5,
    )


def test_without_a_null_class_there_is_sampling_but_no_guidance():
    conditioner = ClassLabel(num_classes=10, dim=2, null_class=False)
    task = make_task(conditioner, condition_drop_rate=0.0)
    params = {"unet": GAIN, "conditioner": {"table": {"embedding": TABLE[:10]}}}
    frozen = jnp.float32(0.5)
    assert np.all(np.isfinite(draw(task, params, frozen, guidance_scale=1.0)))
    text = (
        "class_label.null_class=False: no null class to guide away from. Legal: "
        "guidance_scale=1.0 and condition_drop_rate=0.0, or null_class=True."
    )
    # JAX appends a line of its own to what is raised under jit.
    with pytest.raises(UserError, match=re.escape(text)):
        draw(task, params, frozen, guidance_scale=2.0)
    with pytest.raises(UserError, match=re.escape(text)):
        run_loss(make_task(conditioner), params)
    errors, _ = by_hand(lambda k, u: np.asarray(TABLE)[k].mean())
    output = run_loss(task, params)
    np.testing.assert_allclose(output.metrics["loss_simple"], errors.mean(), rtol=1e-5)


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_drop_rate_is_a_share(rate):
    with pytest.raises(UserError, match=f"^task.condition_drop_rate={rate}: legal is 0 to 1.$"):
        make_task(condition_drop_rate=rate)


class Stubborn(ClassLabel):
    """Drops its second half of every batch, whatever the mask says."""

    drop_rate: float = 1.0

    def drop(self, conditioning, null, mask):
        half = jnp.arange(mask.shape[0]) >= mask.shape[0] // 2
        return super().drop(conditioning, null, mask & half)


def test_a_conditioner_has_its_own_dropout():
    task = make_task(Stubborn(num_classes=10, dim=2), condition_drop_rate=0.0)
    assert task.drop_rate == 1.0
    output = run_loss(task, {"unet": GAIN, "conditioner": CONDITIONER_PARAMS})
    row = iter(range(ROWS))

    def context(k, u):
        return np.asarray(TABLE)[k if next(row) < ROWS // 2 else 10].mean()

    errors, _ = by_hand(context)
    np.testing.assert_allclose(output.metrics["loss_simple"], errors.mean(), rtol=1e-5)
    with pytest.raises(UserError, match=r"^task\.conditioner\.drop_rate=2\.0: legal is 0 to 1\.$"):
        make_task(Stubborn(num_classes=10, dim=2, drop_rate=2.0))


def test_answers_from_a_cache_are_answers_of_the_conditioner():
    """Dropped or not; the conditioner's parameters are not there."""
    keys = StepKeys(step=jnp.int32(STEP), indices=jnp.arange(ROWS), seed=SEED)
    task, params, frozen = conditional_task(trained=False)
    expected = task.loss("diffusion", params, {}, frozen, BATCH, keys).loss
    null = Conditioning(context=TABLE[None, 10:])
    answered = Answered(frozen.params, frozen.latent_scale, null=null)
    batch = {"image": BATCH["image"], "context": TABLE[BATCH["class"]][:, None, :]}
    loss = task.loss("diffusion", params, {}, answered, batch, keys).loss
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    images = [
        task.sample(
            *(params, f, b, jnp.arange(ROWS)),
            **{"seed": 0, "rows": ddim(make_levels(SCHEDULE, 1)), "guidance_scale": 2.0},
        )
        for f, b in ((frozen, BATCH), (answered, batch))
    ]
    np.testing.assert_allclose(images[1], images[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("how", "expected"),
    [("first_pixel", [[0.0, 1.0], [0.0, 1.0]]), ("share", [[0.25, 1.0], [0.0, 0.5]])],
)
def test_a_mask_becomes_one_of_cells(how, expected):
    mask = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 1, 0]], np.float32)
    cells = MASK_CELLS[how](jnp.asarray(mask)[None, :, :, None], 2)
    np.testing.assert_array_equal(cells[0, :, :, 0], expected)
