import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Conditioning
from ldm_jax.diffusion.parameterization import from_eps, to_prediction
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.samplers.constraints import on_x0
from ldm_jax.samplers.guidance import (
    classifier_free,
    classifier_guided,
    loss_guided,
    regional,
    restore_deviation,
)

RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(3, 2, 2, 1)), jnp.float32)
T = jnp.array([5.0, 6.0, 7.0])
ALPHA_BAR = 0.4
CONTEXT = RNG.normal(size=(3, 4, 2)).astype(np.float32)
NULL = RNG.normal(size=(1, 4, 2)).astype(np.float32)
CONCAT = RNG.normal(size=(3, 2, 2, 1)).astype(np.float32)


def _eps(z, t, context):
    return np.asarray(z) * context.mean((1, 2)).reshape(3, 1, 1, 1) + np.asarray(t).reshape(
        3, 1, 1, 1
    )


def _denoise(z, t, conditioning):
    level = jnp.mean(conditioning.context, axis=(1, 2))[:, None, None, None]
    return from_eps(z * level + t[:, None, None, None], z, jnp.float32(ALPHA_BAR))


@pytest.mark.parametrize("scale", [0.0, 3.0, np.array([1.0, 2.0, 7.5], np.float32)])
@pytest.mark.parametrize("null_batch", [1, 3])
def test_arithmetic(scale, null_batch):
    null = np.broadcast_to(NULL, (null_batch, 4, 2))
    predict = classifier_free(
        _denoise, Conditioning(jnp.asarray(CONTEXT)), Conditioning(jnp.asarray(null)), scale
    )
    found = jax.jit(predict)(Z, T)
    absent, present = _eps(Z, T, np.broadcast_to(NULL, (3, 4, 2))), _eps(Z, T, CONTEXT)
    weight = np.reshape(scale, (-1, 1, 1, 1))
    eps = absent + weight * (present - absent)
    np.testing.assert_allclose(found.eps, eps, rtol=1e-4, atol=1e-4)
    # The x0 that belongs to the guided eps, by its definition.
    x0 = (np.asarray(Z) - np.sqrt(1 - ALPHA_BAR) * eps) / np.sqrt(ALPHA_BAR)
    np.testing.assert_allclose(found.x0, x0, rtol=1e-4, atol=1e-4)


def test_one_call_on_null_then_conditioning():
    calls = []

    def denoise(z, t, conditioning):
        calls.append((z, t, conditioning))
        return from_eps(z, z, jnp.float32(ALPHA_BAR))

    conditioning = Conditioning(jnp.asarray(CONTEXT), concat=jnp.asarray(CONCAT))
    null = Conditioning(jnp.asarray(NULL), concat=jnp.zeros((1, 2, 2, 1)))
    classifier_free(denoise, conditioning, null, 2.0)(Z, T)
    ((z, t, both),) = calls
    np.testing.assert_array_equal(z, np.concatenate([Z, Z]))
    np.testing.assert_array_equal(t, np.concatenate([T, T]))
    np.testing.assert_array_equal(both.context, np.concatenate([*[NULL] * 3, CONTEXT]))
    np.testing.assert_array_equal(both.concat, np.concatenate([np.zeros_like(CONCAT), CONCAT]))
    assert both.embedding is None
    # A null map of one cell is the same everywhere, whatever the size.
    small = Conditioning(jnp.asarray(NULL), concat=jnp.full((1, 1, 1, 1), 7.0))
    classifier_free(denoise, conditioning, small, 2.0)(Z, T)
    np.testing.assert_array_equal(calls[1][2].concat[:3], np.full_like(CONCAT, 7.0))


@pytest.mark.parametrize(
    ("null", "scale"),
    [(Conditioning(jnp.asarray(NULL)), 1.0), (Conditioning(NULL), 1), (None, 3.0)],
)
def test_plain(null, scale):
    batches = []

    def denoise(z, t, conditioning):
        batches.append(z.shape[0])
        return _denoise(z, t, conditioning)

    found = classifier_free(denoise, Conditioning(jnp.asarray(CONTEXT)), null, scale)(Z, T)
    np.testing.assert_allclose(found.eps, _eps(Z, T, CONTEXT), rtol=1e-5, atol=1e-5)
    assert batches == [3]


@pytest.mark.parametrize(
    ("conditioning", "null", "text"),
    [
        (
            Conditioning(CONTEXT),
            Conditioning(NULL, concat=CONCAT),
            "null conditioning, concat: got shape (3, 2, 2, 1), expected None",
        ),
        (
            Conditioning(CONTEXT),
            Conditioning(NULL[:, :3]),
            "null conditioning, context: got shape (1, 3, 2), expected (3, 4, 2)",
        ),
        (
            Conditioning(concat=CONCAT),
            Conditioning(concat=np.zeros((1, 2, 3, 1))),
            "null conditioning, concat: got shape (1, 2, 3, 1), expected (3, 2, 2, 1)",
        ),
        (
            Conditioning(CONTEXT),
            Conditioning(CONTEXT[:2]),
            "got shape (2, 4, 2), expected (3, 4, 2) as in the conditioning. Legal: the same",
        ),
        (
            None,
            Conditioning(NULL),
            "null conditioning, context: got shape (1, 4, 2), expected None",
        ),
    ],
)
def test_errors(conditioning, null, text):
    with pytest.raises(UserError) as error:
        classifier_free(_denoise, conditioning, null, 2.0)
    assert text in str(error.value)


SCHEDULE = make_schedule(num_timesteps=50)
TABLE = np.asarray(SCHEDULE.alpha_bar, np.float64)
RED, BLUE = (RNG.normal(size=(3, 4, 2)).astype(np.float32) for _ in range(2))
SOFT = RNG.uniform(size=(3, 2, 2, 2)).astype(np.float32)
SOFT /= SOFT.sum(1, keepdims=True)
FRACTION = RNG.uniform(size=(3, 2, 2, 1)).astype(np.float32)


def _numpy_prediction(eps, t):
    alpha_bar = TABLE[np.asarray(t, int)].reshape(-1, 1, 1, 1)
    return (np.asarray(Z) - np.sqrt(1 - alpha_bar) * eps) / np.sqrt(alpha_bar)


def test_regions_share_one_batch_by_their_weights():
    calls = []

    def denoise(z, t, conditioning):
        calls.append((z.shape, conditioning.context))
        return _denoise(z, t, conditioning)

    scale = np.array([0.5, 3.0, 7.5], np.float32)
    conditionings = [Conditioning(jnp.asarray(c)) for c in (RED, BLUE)]
    null = Conditioning(jnp.asarray(NULL))
    found = regional(denoise, conditionings, jnp.asarray(SOFT), null, scale)(Z, T)
    ((shape, context),) = calls
    assert shape == (9, 2, 2, 1)
    np.testing.assert_array_equal(context, np.concatenate([*[NULL] * 3, RED, BLUE]))
    absent, red, blue = (_eps(Z, T, np.broadcast_to(c, (3, 4, 2))) for c in (NULL, RED, BLUE))
    mixed = SOFT[:, 0, ..., None] * red + SOFT[:, 1, ..., None] * blue
    eps = absent + scale.reshape(3, 1, 1, 1) * (mixed - absent)
    np.testing.assert_allclose(found.eps, eps, rtol=1e-4, atol=1e-4)
    x0 = (np.asarray(Z) - np.sqrt(1 - ALPHA_BAR) * eps) / np.sqrt(ALPHA_BAR)
    np.testing.assert_allclose(found.x0, x0, rtol=1e-4, atol=1e-4)


def test_weights_all_on_one_prompt_are_that_prompt():
    hard = jnp.stack([jnp.zeros((3, 2, 2)), jnp.ones((3, 2, 2))], axis=1)
    conditionings = [Conditioning(jnp.asarray(c)) for c in (RED, BLUE)]
    null = Conditioning(jnp.asarray(NULL))
    both = regional(_denoise, conditionings, hard, null, 4.0)(Z, T)
    alone = classifier_free(_denoise, conditionings[1], null, 4.0)(Z, T)
    np.testing.assert_allclose(both.eps, alone.eps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("weights", "count"), [(SOFT, 1), (SOFT, 3), (None, 2)])
def test_weights_must_fit_the_prompts(weights, count):
    conditionings = [Conditioning(jnp.asarray(RED))] * count
    got = None if weights is None else 2
    with pytest.raises(UserError) as error:
        regional(_denoise, conditionings, weights, Conditioning(jnp.asarray(NULL)), 2.0)
    assert str(error.value) == (
        f"region weights: got {got} for {count} prompts. Legal: one map per prompt, or none for a "
        "single prompt."
    )


@pytest.mark.parametrize(
    ("interval", "active"),
    [
        ([6.0, 6.5], [False, True, False]),
        ([5.0, 7.0], [True, True, True]),  # both ends belong to it
        ([[0.0, 1.0], [6.0, 9.0], [0.0, 7.0]], [False, True, True]),
    ],
)
def test_outside_of_its_interval_guidance_has_scale_1(interval, active):
    predict = classifier_free(
        _denoise,
        Conditioning(jnp.asarray(CONTEXT)),
        Conditioning(jnp.asarray(NULL)),
        5.0,
        interval=jnp.array(interval),
    )
    absent, present = _eps(Z, T, np.broadcast_to(NULL, (3, 4, 2))), _eps(Z, T, CONTEXT)
    scale = np.where(active, 5.0, 1.0).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(
        jax.jit(predict)(Z, T).eps, absent + scale * (present - absent), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
@pytest.mark.parametrize("phi", [0.0, 0.7, np.array([0.0, 0.5, 1.0], np.float32)])
def test_rescaling_restores_the_deviation_of_the_networks_own_output(kind, phi):
    def denoise(z, t, conditioning):
        level = jnp.mean(conditioning.context, axis=(1, 2))[:, None, None, None]
        output = jnp.tanh(z * level) + level
        return to_prediction(kind, output, z, alpha_bar_at(SCHEDULE, t))

    def output(context):
        level = np.broadcast_to(context, (3, 4, 2)).mean((1, 2)).reshape(3, 1, 1, 1)
        return np.tanh(np.asarray(Z) * level) + level

    predict = classifier_free(
        denoise,
        Conditioning(jnp.asarray(CONTEXT)),
        Conditioning(jnp.asarray(NULL)),
        6.0,
        rescale=restore_deviation(SCHEDULE, kind, phi),
    )
    absent, present = output(NULL), output(CONTEXT)
    guided = absent + 6.0 * (present - absent)
    ratio = present.std((1, 2, 3), keepdims=True) / guided.std((1, 2, 3), keepdims=True)
    share = np.reshape(phi, (-1, 1, 1, 1))
    expected = share * ratio * guided + (1 - share) * guided
    # The parts that belong to this output, by z = signal x0 + noise eps and v's definition.
    alpha_bar = TABLE[np.asarray(T, int)].reshape(3, 1, 1, 1)
    signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    z = np.asarray(Z)
    x0 = {
        "eps": (z - noise * expected) / signal,
        "x0": expected,
        "v": signal * z - noise * expected,
    }[kind]
    eps = (z - signal * x0) / noise
    found = jax.jit(predict)(Z, T)
    np.testing.assert_allclose(found.x0, x0, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(found.eps, eps, rtol=2e-3, atol=2e-3)


def _plain(z, t):
    """Predicts eps = z / 3, and a variance that wrappers must hand on."""
    found = from_eps(z / 3, z, alpha_bar_at(SCHEDULE, t))
    return found._replace(variance_fraction=jnp.asarray(FRACTION))


@pytest.mark.parametrize("scale", [2.0, np.array([0.0, 1.0, 3.0], np.float32)])
def test_a_classifier_shifts_the_score_by_its_gradient(scale):
    # log p(y | z) = -(w . z - b)^2 / (2 s), with gradient -(w . z - b) w / s.
    w, b, s = RNG.normal(size=(2, 2, 1)).astype(np.float32), 0.3, 0.8

    def log_prob(z, t):
        del t
        return -((jnp.sum(z * w[None], axis=(1, 2, 3)) - b) ** 2) / (2 * s)

    found = jax.jit(classifier_guided(_plain, log_prob, SCHEDULE, scale))(Z, T)
    z = np.asarray(Z, np.float64)
    gradient = -((z * w).sum((1, 2, 3)) - b).reshape(3, 1, 1, 1) * w / s
    alpha_bar = TABLE[np.asarray(T, int)].reshape(3, 1, 1, 1)
    eps = z / 3 - np.reshape(scale, (-1, 1, 1, 1)) * np.sqrt(1 - alpha_bar) * gradient
    np.testing.assert_allclose(found.eps, eps, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.x0, _numpy_prediction(eps, T), rtol=1e-4, atol=1e-5)


def test_a_loss_is_followed_through_the_network():
    # x0 = (z - noise z / 3) / signal = c z and loss = |x0 - y|^2 / 2, so that the gradient
    # with respect to z is c (c z - y).
    goal = RNG.normal(size=(3, 2, 2, 1)).astype(np.float32)

    def loss(x0):
        return jnp.sum((x0 - goal) ** 2, axis=(1, 2, 3)) / 2

    scale = np.array([0.0, 1.0, 4.0], np.float32)
    found = jax.jit(loss_guided(_plain, loss, SCHEDULE, scale))(Z, T)
    z = np.asarray(Z, np.float64)
    alpha_bar = TABLE[np.asarray(T, int)].reshape(3, 1, 1, 1)
    noise = np.sqrt(1 - alpha_bar)
    c = (1 - noise / 3) / np.sqrt(alpha_bar)
    eps = z / 3 + scale.reshape(3, 1, 1, 1) * noise * c * (c * z - goal)
    np.testing.assert_allclose(found.eps, eps, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.x0, _numpy_prediction(eps, T), rtol=1e-4, atol=1e-5)


def _learned(z, t, conditioning):
    """Predicts another variance for each conditioning: the mean of its context."""
    level = jnp.mean(conditioning.context, axis=(1, 2))[:, None, None, None]
    return _denoise(z, t, conditioning)._replace(variance_fraction=level + 0 * z)


def test_guided_variance_is_that_of_the_prompts():
    null = Conditioning(jnp.asarray(NULL))
    rescale = restore_deviation(SCHEDULE, "eps", 0.7)
    one = classifier_free(_learned, Conditioning(jnp.asarray(RED)), null, 3.0, rescale=rescale)
    levels = [c.mean((1, 2)).reshape(3, 1, 1, 1) for c in (RED, BLUE)]
    expected = np.broadcast_to(levels[0], (3, 2, 2, 1))
    np.testing.assert_allclose(one(Z, T).variance_fraction, expected, rtol=1e-5, atol=1e-6)
    prompts = [Conditioning(jnp.asarray(c)) for c in (RED, BLUE)]
    two = regional(_learned, prompts, jnp.asarray(SOFT), null, 3.0, rescale=rescale)
    expected = sum(SOFT[:, r, ..., None] * levels[r] for r in range(2))
    np.testing.assert_allclose(two(Z, T).variance_fraction, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda p: classifier_guided(p, lambda z, t: jnp.sum(z, axis=(1, 2, 3)), SCHEDULE, 1.0),
        lambda p: loss_guided(p, lambda x0: jnp.sum(x0, axis=(1, 2, 3)), SCHEDULE, 1.0),
        lambda p: on_x0(p, SCHEDULE, lambda x0: x0 / 2),
    ],
    ids=["classifier", "loss", "on_x0"],
)
def test_wrappers_hand_the_learned_variance_on(wrap):
    np.testing.assert_array_equal(wrap(_plain)(Z, T).variance_fraction, FRACTION)
