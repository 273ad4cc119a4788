import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.diffusion.parameterization import Prediction
from ldm_jax.samplers.base import (
    Rows,
    State,
    advance,
    image_keys,
    initial_noise,
    initial_state,
    interleave,
    make_rows,
    padded,
    sample,
    step,
)

NAMES = [name for name in Rows.__dataclass_fields__ if name not in ("t", "index")]
RNG = np.random.default_rng(0)
SHAPE = (2, 3)


def _row(**columns):
    return Rows(**{**dict.fromkeys(["t", "index", *NAMES], jnp.float32(0)), **columns})


def _normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.mark.parametrize("keeps", ["x0", "eps", "both", "nothing"])
def test_one_row_is_the_two_equations(keeps):
    z, old, x0, eps, h1, h2, h3 = _normal(7, *SHAPE)
    columns = {name: float(RNG.normal()) for name in NAMES} | {"noise_upper": 0.0}
    columns["keep_x0"] *= keeps in ("x0", "both")
    columns["keep_eps"] *= keeps in ("eps", "both")
    keys = jax.random.split(jax.random.key(1), 2)
    noise = np.stack([jax.random.normal(key, SHAPE[1:]) for key in keys])
    state = State(z=z, x0=jnp.zeros(SHAPE), base=old, history=(h1, h2, h3))
    row = _row(**{name: jnp.float32(value) for name, value in columns.items()})
    found = jax.jit(step)(state, Prediction(x0, eps), row, keys)
    c = columns
    base = c["from_z"] * z + c["from_base"] * old + c["from_x0"] * x0
    base = base + c["from_h1"] * h1 + c["from_h2"] * h2 + c["from_h3"] * h3
    after = c["base"] * base + c["x0"] * x0 + c["eps"] * eps + c["noise"] * noise
    after = after + c["h1"] * h1 + c["h2"] * h2 + c["h3"] * h3
    kept = c["keep_x0"] * x0 + c["keep_eps"] * eps
    history = (h1, h2, h3) if keeps == "nothing" else (kept, h1, h2)
    np.testing.assert_allclose(found.base, base, atol=1e-5)
    np.testing.assert_allclose(found.z, after, atol=1e-5)
    np.testing.assert_array_equal(found.x0, x0)
    for got, expected in zip(found.history, history, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("upper", [0.0, 0.9])
def test_the_noise_of_a_learned_variance(upper):
    """0.4^(1 - f) 0.9^f, or 0.4 where there is no larger one."""
    keys = jax.random.split(jax.random.key(1), 2)
    noise = np.stack([jax.random.normal(key, SHAPE[1:]) for key in keys])
    fraction = jnp.asarray(RNG.uniform(size=SHAPE), jnp.float32)
    row = _row(noise=jnp.float32(0.4), noise_upper=jnp.float32(upper))
    zeros = jnp.zeros(SHAPE)
    found = jax.jit(step)(initial_state(zeros), Prediction(zeros, zeros, fraction), row, keys).z
    expected = 0.4 ** (1 - fraction) * upper**fraction if upper else 0.4
    np.testing.assert_allclose(found, expected * noise, atol=1e-6)


def test_rows_meet_their_timesteps_keys_and_the_state_of_the_row_before():
    """A table that adds what the network says, and the noise, to what there is."""
    rows = make_rows(np.array([9.5, 7.0, 2.25]), base=1, x0=1, eps=2, noise=3)
    seen = []

    def predict(z, t):
        assert t.shape == z.shape[:1]
        assert t.dtype == jnp.float32
        seen.append(z.shape)
        return Prediction(x0=jnp.broadcast_to(t[:, None], z.shape), eps=jnp.ones_like(z))

    keys, z_T = image_keys(0, jnp.arange(2)), _normal(*SHAPE)
    noise = np.zeros(SHAPE)
    for i in range(3):
        for k in range(2):
            noise[k] += 3 * np.asarray(jax.random.normal(jax.random.fold_in(keys[k], i), (3,)))
    expected = z_T + 9.5 + 7.0 + 2.25 + 3 * 2 + noise
    np.testing.assert_allclose(sample(predict, z_T, rows, keys), expected, atol=1e-5)
    # The network stands in the program once, however many rows there are.
    assert len(seen) == 1


def test_bounds_choose_the_rows():
    rows = padded(make_rows(2.0 ** np.arange(5), base=1, x0=1), 8)
    keys, traces = image_keys(0, jnp.arange(2)), []

    def predict(z, t):
        traces.append(z.shape)
        return Prediction(x0=jnp.broadcast_to(t[:, None], z.shape), eps=jnp.zeros_like(z))

    run = jax.jit(functools.partial(advance, predict))
    state = initial_state(jnp.zeros(SHAPE))
    for start, stop, total in ((0, 5, 31), (0, 2, 3), (2, 5, 28), (3, 3, 0)):
        np.testing.assert_array_equal(run(state, rows, keys, start, stop).z, np.full(SHAPE, total))
    assert len(traces) == 1
    # Without bounds every row runs, and those of padding leave nothing.
    np.testing.assert_array_equal(run(state, rows, keys).z, np.zeros(SHAPE))


def test_the_table_takes_the_type_of_the_latents():
    """Steps of float32, and of float64 where a test asks for that."""
    rows = make_rows(np.array([1.0]), base=1 / 3)
    keys = image_keys(0, jnp.arange(2))

    def predict(z, t):
        assert t.dtype == z.dtype
        return Prediction(jnp.zeros_like(z), jnp.zeros_like(z))

    z = sample(predict, jnp.ones(SHAPE), rows, keys)
    assert z.dtype == jnp.float32
    np.testing.assert_array_equal(z, np.full(SHAPE, np.float32(1 / 3)))
    with jax.enable_x64(True):
        z = sample(predict, jnp.ones(SHAPE, jnp.float64), rows, keys)
        assert z.dtype == jnp.float64
        np.testing.assert_array_equal(z, np.full(SHAPE, 1 / 3))


def test_initial_state():
    z_T = _normal(*SHAPE)
    state = initial_state(z_T)
    np.testing.assert_array_equal(state.z, z_T)
    for zeros in (state.x0, state.base, *state.history):
        np.testing.assert_array_equal(zeros, np.zeros(SHAPE))


def test_make_rows_fills_what_is_not_given():
    rows = make_rows(np.array([5.0, 1.0]), x0=np.array([1.0, 2.0]), base=3)
    assert len(rows) == 2
    expected = {"x0": [1, 2], "base": [3, 3], "from_z": [1, 1]}
    for name in NAMES:
        column = getattr(rows, name)
        assert column.dtype == np.float64
        np.testing.assert_array_equal(column, expected.get(name, [0, 0]))
    np.testing.assert_array_equal(rows.t, [5, 1])
    np.testing.assert_array_equal(rows.index, [0, 1])


@pytest.mark.parametrize(
    ("second", "expected"),
    [([10.0, 20.0, 30.0], [1, 10, 2, 20, 3, 30]), ([10.0], [1, 10, 2, 3]), ([], [1, 2, 3])],
)
def test_interleave(second, expected):
    rows = interleave(make_rows(np.array([1.0, 2.0, 3.0])), make_rows(np.array(second)))
    np.testing.assert_array_equal(rows.t, expected)
    np.testing.assert_array_equal(rows.index, np.arange(len(expected)))


def test_padded():
    rows = padded(make_rows(np.array([4.0, 3.0])), 5)
    assert len(rows) == 5
    np.testing.assert_array_equal(rows.t, [4, 3, 0, 0, 0])
    np.testing.assert_array_equal(rows.from_z, [1, 1, 0, 0, 0])


def test_initial_noise_of_an_image_depends_on_seed_and_index_alone():
    shape = (4, 4, 3)
    whole = initial_noise(7, jnp.arange(8), shape)
    assert whole.shape == (8, *shape)
    assert whole.dtype == jnp.float32
    np.testing.assert_array_equal(initial_noise(7, jnp.array([5]), shape)[0], whole[5])
    np.testing.assert_array_equal(
        initial_noise(7, jnp.array([6, 2]), shape), whole[jnp.array([6, 2])]
    )
    assert not np.array_equal(initial_noise(8, jnp.arange(8), shape), whole)
    assert len(np.unique(np.asarray(whole))) > 0.99 * whole.size


def test_initial_noise_is_standard_normal():
    noise = np.asarray(initial_noise(0, jnp.arange(16), (32, 32, 4)))
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 4 * np.sqrt(2 / noise.size)


def test_image_keys_differ_from_the_keys_of_the_initial_noise():
    keys = image_keys(7, jnp.arange(3))
    assert keys.shape == (3,)
    first_draw = jax.vmap(lambda key: jax.random.normal(key, (8,)))(keys)
    assert not np.allclose(first_draw, initial_noise(7, jnp.arange(3), (8,)))
