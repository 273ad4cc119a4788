import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.train.optim import make_optimizer, make_schedule


def test_an_optax_schedule_keeps_its_own_arguments():
    config = {"name": "warmup_cosine_decay_schedule", "init_value": 0.0, "peak_value": 1.0}
    config |= {"warmup_steps": 10, "decay_steps": 20}
    schedule = make_schedule(config, peak=5.0, steps=100, warmup_steps=0)
    np.testing.assert_allclose([float(schedule(n)) for n in (0, 5, 10)], [0.0, 0.5, 1.0], rtol=1e-6)


@pytest.mark.parametrize("peak", [0.0, -1.0])
def test_a_learning_rate_is_positive(peak):
    with pytest.raises(UserError, match=r"train.learning_rate=.*: legal is a positive number"):
        make_schedule({"name": "cosine"}, peak=peak, steps=10, warmup_steps=0)


def test_clipping_can_be_switched_on_when_a_run_resumes():
    with_clip, without = make_optimizer(lambda _: 1.0, clip_norm=1.0), make_optimizer(lambda _: 1.0)
    structures = [jax.tree.structure(o.init(jnp.zeros(2))) for o in (with_clip, without)]
    assert structures[0] == structures[1]


def values(name, steps, at, **kwargs):
    warmup = kwargs.pop("warmup_steps", 0)
    schedule = make_schedule({"name": name, **kwargs}, peak=1.0, steps=steps, warmup_steps=warmup)
    return [float(schedule(n)) for n in at]


def test_lambda_linear_of_the_facts_sheet():
    found = values("lambda_linear", 10**6, (0, 1, 5000, 9999, 10_000, 10**5), warmup_steps=10_000)
    expected = [1e-6, 1.009999e-4, 0.5000005, 0.9999000001, 1.0, 1.0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_lambda_warmup_cosine_of_the_facts_sheet():
    found = values("lambda_warmup_cosine", 10**5, (0, 500, 1000, 25_500, 50_000), warmup_steps=1000)
    np.testing.assert_allclose(found, [0.001, 0.0505, 0.1, 0.05005, 0.0001], rtol=1e-5)


def test_constant_warms_up_from_the_first_update():
    found = values("constant", 100, (0, 4, 9, 10, 99), warmup_steps=10)
    np.testing.assert_allclose(found, [0.1, 0.5, 1.0, 1.0, 1.0], rtol=1e-6)
    assert values("constant", 100, (0, 50)) == [1.0, 1.0]


def test_cosine_ends_at_final():
    found = values("cosine", 100, (9, 10, 55, 100, 200), warmup_steps=10, final=0.2)
    np.testing.assert_allclose(found, [1.0, 1.0, 0.6, 0.2, 0.2], rtol=1e-5)


def test_any_optax_schedule_by_name():
    found = values(
        "exponential_decay", 100, (0, 10), init_value=3.0, transition_steps=10, decay_rate=0.5
    )
    np.testing.assert_allclose(found, [3.0, 1.5], rtol=1e-6)


def test_errors_name_what_is_legal():
    with pytest.raises(UserError, match=r"'cosin'; did you mean 'cosine'. Legal: .*constant"):
        values("cosin", 10, (0,))
    with pytest.raises(UserError, match="unknown field 'finale' for cosine; did you mean 'final'"):
        values("cosine", 10, (0,), finale=0.1)
    with pytest.raises(UserError, match=r"train.warmup_steps=11: legal is 0 to train.steps=10"):
        values("cosine", 10, (0,), warmup_steps=11)


def test_adamw_equals_its_equations():
    # Loshchilov & Hutter 2019, algorithm 2, two steps by hand.
    lr, b1, b2, eps, decay = 0.1, 0.9, 0.999, 1e-8, 0.01
    gradients = [np.array([0.5, -2.0]), np.array([1.0, 0.25])]
    w, m, v = np.array([1.0, -3.0]), np.zeros(2), np.zeros(2)
    optimizer = make_optimizer(lambda _: lr, b1=b1, b2=b2, eps=eps, weight_decay=decay)
    params = jnp.asarray(w, jnp.float32)
    state = optimizer.init(params)
    for n, g in enumerate(gradients, 1):
        updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**n), v / (1 - b2**n)
        w = w - lr * (m_hat / (np.sqrt(v_hat) + eps) + decay * w)
    np.testing.assert_allclose(params, w, rtol=1e-5)


def test_clipping_bounds_the_global_norm_before_adam_sees_it():
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}  # norm 5
    optimizer = make_optimizer(lambda _: 1.0, weight_decay=0.0, clip_norm=1.0)
    _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
    moments = optax.tree.get(state, "mu")  # (1 - b1) times the clipped gradient
    np.testing.assert_allclose(moments["a"], [0.06], rtol=1e-5)
    np.testing.assert_allclose(moments["b"], [0.08], rtol=1e-5)
