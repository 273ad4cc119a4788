import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.diffusion.parameterization import Prediction
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import make_steps
from ldm_jax.samplers.base import Sampler, image_keys, initial_noise, sample, sample_chunk

STEPS = make_steps(make_schedule(), 4)


def test_sample_threads_state_timesteps_and_keys_through_the_rows():
    """A sampler that only records what it is given."""

    def update(state, z, prediction, step, keys):
        row = jnp.stack([step.t, step.alpha_bar, step.alpha_bar_next, prediction.x0[0, 0]])
        seen = jax.vmap(jax.random.key_data)(keys)
        count, rows, key_rows = state
        return z + prediction.eps, (
            count + 1,
            rows.at[count].set(row),
            key_rows.at[count].set(seen),
        )

    width = jax.random.key_data(jax.random.key(0)).shape[-1]
    sampler = Sampler(
        init=lambda z_T: (0, jnp.zeros((4, 4)), jnp.zeros((4, *z_T.shape[:1], width), jnp.uint32)),
        update=update,
    )

    def predict(z, t):
        assert t.shape == z.shape[:1]
        assert t.dtype == jnp.float32
        return Prediction(x0=jnp.broadcast_to(t[:, None], z.shape), eps=jnp.ones_like(z))

    keys = image_keys(0, jnp.arange(2))
    z_T = jnp.zeros((2, 3))
    z, (count, rows, key_rows) = sample_chunk(
        sampler, predict, (z_T, sampler.init(z_T)), STEPS, keys
    )
    assert count == 4
    np.testing.assert_array_equal(z, np.full((2, 3), 4.0))
    np.testing.assert_array_equal(rows[:, 0], [999, 749, 499, 249])
    np.testing.assert_array_equal(rows[:, 1], STEPS.alpha_bar)
    np.testing.assert_array_equal(rows[:, 2], STEPS.alpha_bar_next)
    np.testing.assert_array_equal(rows[:, 3], rows[:, 0])
    for i in range(4):
        for k in range(2):
            expected = jax.random.key_data(jax.random.fold_in(keys[k], i))
            np.testing.assert_array_equal(key_rows[i, k], expected)
    np.testing.assert_array_equal(sample(sampler, predict, z_T, STEPS, keys), z)


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
