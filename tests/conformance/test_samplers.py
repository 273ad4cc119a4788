"""Every sampler with every spacing; a new registry line is tested without touching this file."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.parameterization import from_eps
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import SPACINGS, make_levels
from ldm_jax.samplers import SAMPLERS
from ldm_jax.samplers.base import (
    Rows,
    advance,
    image_keys,
    initial_noise,
    initial_state,
    padded,
    sample,
)

SCHEDULE = make_schedule(num_timesteps=100, start=0.015, end=0.195)
SHAPE = (4, 4, 2)
NUM_STEPS = 10
CAPACITY = 24
VARIANTS = [
    *[(name, {}) for name in SAMPLERS],
    ("ddim", {"eta": 1.0}),
    ("ddpm", {"variance": "beta"}),
    ("dpmpp_2m_sde", {"eta": 0.5, "solver": "heun"}),
    ("lms", {"order": 2}),
    ("unipc", {"order": 3, "solver": "bh1"}),
    ("deis", {"order": 3}),
]
IDS = ["-".join([name, *[f"{k}={v}" for k, v in kwargs.items()]]) for name, kwargs in VARIANTS]
# Those that draw noise are listed: a sampler that lost its noise would pass the other tests.
STOCHASTIC = {
    "ddpm",
    "ddim-eta=1.0",
    "ddpm-variance=beta",
    "euler_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde-eta=0.5-solver=heun",
    "dpmpp_3m_sde",
    "lcm",
}
TRACES = []


def _predict(z, t):
    """A network without weights: nonlinear, mixes pixels of one image, depends on t."""
    mixed = z + 0.3 * jnp.roll(z, 1, axis=1) + 0.001 * t[:, None, None, None]
    return from_eps(jnp.tanh(mixed), z, alpha_bar_at(SCHEDULE, t))


@jax.jit
def _advance(state, rows, keys, start, stop):
    """One program for every sampler, spacing and number of steps, and for pieces of a run."""
    TRACES.append(state.z.shape)
    return advance(_predict, state, rows, keys, start, stop)


def _run(z_T, rows, keys):
    return _advance(initial_state(z_T), padded(rows, CAPACITY), keys, 0, len(rows)).z


def _rows(variant, num_steps=NUM_STEPS, spacing="trailing"):
    name, kwargs = variant
    return SAMPLERS[name](make_levels(SCHEDULE, num_steps, spacing), **kwargs)


def _inputs(seed, indices):
    return _draw(seed, jnp.asarray(indices, jnp.int32))


@jax.jit
def _draw(seed, indices):
    return initial_noise(seed, indices, SHAPE), image_keys(seed, indices)


def _rows_or_refusal(*args):
    try:
        return _rows(*args), ""
    except UserError as error:
        return None, str(error)


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_steps", [1, NUM_STEPS])
def test_shape_dtype_finite_and_deterministic_without_retrace(variant, spacing, num_steps):
    rows, refusal = _rows_or_refusal(variant, num_steps, spacing)
    if refusal:
        # The reference's quadratic spacing repeats its last level.
        assert (spacing, num_steps) == ("reference_quad", NUM_STEPS)
        assert "two of them are at one noise level" in refusal
        return
    z_T, keys = _inputs(0, range(4))
    z_0 = _run(z_T, rows, keys)
    assert z_0.shape == z_T.shape
    assert z_0.dtype == jnp.float32
    assert np.all(np.isfinite(z_0))
    np.testing.assert_array_equal(_run(z_T, rows, keys), z_0)
    other = _inputs(1, range(4, 8))
    assert not np.array_equal(_run(other[0], rows, other[1]), z_0)
    # Whatever ran before: other samplers, options, spacings and numbers of steps.
    assert TRACES.count(z_T.shape) == 1


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_a_table_is_float64_on_the_host_and_asks_within_training(variant):
    for spacing in ("trailing", "karras", "leading"):
        rows = _rows(variant, NUM_STEPS, spacing)
        assert isinstance(rows, Rows)
        for name in Rows.__dataclass_fields__:
            column = getattr(rows, name)
            assert isinstance(column, np.ndarray), name
            assert column.shape == (len(rows),), name
            assert np.all(np.isfinite(column)), name
        assert rows.t.dtype == rows.x0.dtype == np.float64
        np.testing.assert_array_equal(rows.index, np.arange(len(rows)))
        assert np.all((rows.t >= 0) & (rows.t <= SCHEDULE.num_timesteps - 1))
        assert NUM_STEPS <= len(rows) <= 2 * NUM_STEPS


@pytest.mark.parametrize(("variant", "name"), list(zip(VARIANTS, IDS, strict=True)), ids=IDS)
def test_only_stochastic_samplers_draw_noise_and_never_at_the_end(variant, name):
    rows = _rows(variant)
    assert np.any(rows.noise) == (name in STOCHASTIC)
    assert rows.noise[-1] == 0
    z_T, keys = _inputs(0, range(4))
    same = np.array_equal(_run(z_T, rows, keys), _run(z_T, rows, _inputs(1, range(4))[1]))
    assert same == (name not in STOCHASTIC)


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_an_image_is_the_same_in_every_batch(variant):
    rows = _rows(variant)
    z_T, keys = _inputs(3, range(4))
    whole = _run(z_T, rows, keys)
    for k in range(4):
        z_T, keys = _inputs(3, [k])
        alone = _run(z_T, rows, keys)
        # The network's sums may be taken in another order in another program.
        np.testing.assert_allclose(alone[0], whole[k], rtol=1e-5, atol=1e-6)


def test_the_noise_of_an_image_is_bit_equal_in_every_batch():
    @jax.jit
    def noise(keys, index):
        keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
        return jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys)

    z_8, keys_8 = _inputs(3, range(8))
    for indices in ([0, 1, 2, 3], [4, 5, 6, 7], [5]):
        z, keys = _inputs(3, indices)
        rows = jnp.asarray(indices)
        np.testing.assert_array_equal(z, z_8[rows])
        np.testing.assert_array_equal(jax.random.key_data(keys), jax.random.key_data(keys_8)[rows])
        np.testing.assert_array_equal(noise(keys, 6), noise(keys_8, 6)[rows])


@pytest.mark.parametrize("variant", VARIANTS, ids=IDS)
def test_chunks_equal_the_whole_bit_for_bit(variant):
    """By bounds that one program takes as inputs; some pieces part the two rows of a step."""
    rows = _rows(variant)
    z_T, keys = _inputs(5, range(4))
    whole = _run(z_T, rows, keys)
    state, table = initial_state(z_T), padded(rows, CAPACITY)
    for start, stop in itertools.pairwise((0, 3, 4, 8, len(rows))):
        state = _advance(state, table, keys, start, stop)
    np.testing.assert_array_equal(state.z, whole)


def test_one_run_is_the_same_with_static_bounds():
    rows = _rows(("dpmpp_2s_ancestral", {}))
    z_T, keys = _inputs(5, range(4))
    static = jax.jit(functools.partial(sample, _predict))(z_T, rows, keys)
    np.testing.assert_allclose(static, _run(z_T, rows, keys), rtol=1e-5, atol=1e-6)
