"""Keys are functions of (seed, step, purpose, example)."""

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.core.rng import Purpose, StepKeys, example_keys, normal, randint, step_key, uniform


def data(keys):
    return np.asarray(jax.random.key_data(keys))


def by_hand(seed, step, purpose, index):
    key = jax.random.key(seed)
    for number in (step, purpose, index):
        key = jax.random.fold_in(key, number)
    return key


def test_purposes_keep_their_numbers():
    """Renumbering would change every image of every saved model."""
    assert {p.name: p.value for p in Purpose} == {
        "PARAMS": 0,
        "POSTERIOR": 1,
        "TIMESTEP": 2,
        "NOISE": 3,
        "DROPOUT": 4,
        "CONDITION_DROP": 5,
        "SAMPLE_INIT": 6,
        "SAMPLE_STEP": 7,
        "LATENT_STATISTICS": 8,
        "LPIPS_DROPOUT": 9,
        "DISCRIMINATOR_POSTERIOR": 10,
        "CODE_REVIVAL": 11,
        "LIKELIHOOD": 12,
    }


def test_keys_fold_in_seed_step_purpose_and_index():
    keys = StepKeys(step=jnp.int32(5), indices=jnp.array([7, 2]), seed=3)(Purpose.NOISE)
    assert keys.shape == (2,)
    np.testing.assert_array_equal(data(keys[0]), data(by_hand(3, 5, 3, 7)))
    np.testing.assert_array_equal(data(keys[1]), data(by_hand(3, 5, 3, 2)))


def test_all_keys_differ():
    seen = {
        data(step_key(seed, step, purpose)).tobytes()
        for seed in range(3)
        for step in range(3)
        for purpose in Purpose
    }
    assert len(seen) == 3 * 3 * len(Purpose)


def test_draws_depend_on_their_own_key_alone():
    draws = {
        "normal": jax.jit(lambda keys: normal(keys, (3, 2))),
        "uniform": jax.jit(uniform),
        "randint": jax.jit(lambda keys: randint(keys, 0, 1000)),
    }
    keys = example_keys(jax.random.key(0), jnp.arange(8))
    for draw in draws.values():
        whole = np.asarray(draw(keys))
        assert whole.shape[0] == 8
        np.testing.assert_array_equal(whole[[6, 1]], draw(keys[jnp.array([6, 1])]))
        assert len(np.unique(whole)) == whole.size


def test_distributions():
    keys = example_keys(jax.random.key(1), jnp.arange(4000))
    x = np.asarray(normal(keys, (2,)))
    assert abs(x.mean()) < 0.05
    assert abs(x.std() - 1) < 0.05
    u, k = np.asarray(uniform(keys)), np.asarray(randint(keys, 2, 5))
    assert 0 <= u.min() < 0.01 < 0.99 < u.max() < 1
    assert k.dtype == np.int32
    np.testing.assert_allclose(np.bincount(k)[2:] / 4000, 1 / 3, atol=0.04)


def test_a_shared_key_follows_the_first_example():
    def shared(indices):
        return data(StepKeys(jnp.int32(1), jnp.array(indices), 0).shared(Purpose.DROPOUT))

    np.testing.assert_array_equal(shared([4, 5]), data(by_hand(0, 1, 4, 4)))
    assert (shared([4, 5]) != shared([5, 4])).any()


def test_step_keys_cross_jit():
    keys = StepKeys(jnp.int32(2), jnp.arange(3), 9)
    traced = jax.jit(lambda keys: keys(Purpose.TIMESTEP))(keys)
    np.testing.assert_array_equal(data(traced), data(keys(Purpose.TIMESTEP)))
