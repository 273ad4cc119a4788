"""Results are those of the function itself; the generator is there once for each shape."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.extend.core import subjaxprs

from ldm_jax.core.draws import batch_draws
from ldm_jax.models import UNet

KEY = jax.random.key(3)
X = jnp.zeros((1, 8, 8, 3))
T = jnp.zeros((1,))


def operations(function, *args):
    """Returns how often each operation stands in the program that is compiled."""
    found = Counter()

    def count(jaxpr):
        for equation in jaxpr.eqns:
            found[equation.primitive.name] += 1
        for inner in subjaxprs(jaxpr):
            count(inner)

    count(jax.make_jaxpr(function)(*args).jaxpr)
    return found


def assert_equal(found, wanted):
    """Holds trees to the last bit, keys as the words that they are."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.aval == b.aval  # the shape, the type, and whether that is weak
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("remat", ["none", "blocks", "attention"])
def test_a_network_starts_the_same(remat):
    fields = {"channels": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "num_groups": 4}
    model = UNet(3, **fields, attention_factors=(2,), num_heads=2, remat=remat)

    def init(key):
        return model.init(key, X, T)

    assert_equal(jax.jit(batch_draws(init))(KEY), jax.jit(init)(KEY))
    before, after = operations(init, KEY), operations(batch_draws(init), KEY)
    shapes = {x.shape for x in jax.tree.leaves(jax.eval_shape(init, KEY))}
    assert before["random_bits"] > 2 * len(shapes)
    assert after["random_bits"] <= len(shapes)
    assert after["random_fold_in"] == 1
    assert before["conv_general_dilated"] > after["conv_general_dilated"] == 0


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_a_generator_that_draws_otherwise_for_a_batch_is_left_alone(impl):
    key = jax.random.key(3, impl=impl)

    def draw(key):
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        return [jax.random.normal(key, (4,)) for key in [*keys, keys[0]]]

    assert_equal(jax.jit(batch_draws(draw))(key), jax.jit(draw)(key))


def test_effects_keep_their_order():
    def tell(key):
        total = jax.new_ref(jnp.float32(0))
        total[...] = jnp.sin(jax.random.normal(key))
        return total[...]

    assert_equal(jax.jit(batch_draws(tell))(KEY), jax.jit(tell)(KEY))


def test_keys_that_are_watched():
    def init(key):
        return Mixed().init({"params": key, "dropout": jax.random.key(4)}, jnp.ones((2, 4)))

    with jax.debug_key_reuse(True):
        jax.jit(batch_draws(init))(jax.random.key(3))


class Mixed(nn.Module):
    """Every kind of draw; arrays of one shape and another distribution; and none."""

    @nn.compact
    def __call__(self, x):
        init = nn.initializers
        for i, kind in enumerate((init.normal(0.5), init.normal(2.0), init.lecun_normal())):
            x = x @ self.param(f"kernel_{i}", kind, (4, 4))
        x = x @ self.param("wide", init.lecun_uniform(), (4, 6))
        x = x @ self.param("orthogonal", init.orthogonal(), (6, 6))
        for name, value in (("offset", 0.0), ("half", 0.5)):
            x = x + self.param(name, init.constant(value), (1, 6))
        mean = self.variable("statistics", "mean", lambda: x.mean(0, keepdims=True))
        return nn.Dropout(0.5, deterministic=False)(x) - mean.value


def test_any_module():
    rngs = {"params": KEY, "dropout": jax.random.key(4)}

    def init(rngs):
        return Mixed().init(rngs, jnp.ones((2, 4)))

    assert_equal(jax.jit(batch_draws(init))(rngs), jax.jit(init)(rngs))


def test_what_a_function_may_return():
    """Its arguments, constants, one value twice, keys, and integers."""
    table = np.arange(3.0)

    def function(key, tree):
        first, second, third = jax.random.split(key, 3)
        normal = jax.random.normal(first, (2,))
        fixed = {"table": table, "one": 1.0, "none": None}
        again = [normal, normal, tree["a"], jax.random.fold_in(second, tree["b"])]
        return fixed, again, jax.random.randint(third, (2,), 0, tree["b"]), second

    args = KEY, {"a": jnp.ones(2), "b": jnp.int32(7), "unused": jnp.zeros(9)}
    assert_equal(jax.jit(batch_draws(function))(*args), jax.jit(function)(*args))


def test_draws_that_follow_one_another_keep_their_order():
    """The second key comes from the first draw; both draws are of one shape."""

    def chain(key):
        first = jax.random.randint(key, (2,), 0, 1000)
        second = jax.random.randint(jax.random.fold_in(key, first[0]), (2,), 0, 1000)
        return first, second, jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, 1000)

    assert_equal(jax.jit(batch_draws(chain))(KEY), jax.jit(chain)(KEY))


def test_arrays_of_keys_beside_single_keys():
    def draw(keys, key):
        many = jax.vmap(lambda key: jax.random.bits(key, (2,)))(keys)
        return (
            many,
            jax.random.bits(key, (2,)),
            jax.random.split(key, 2),
            jax.random.fold_in(key, 2),
        )

    args = jax.random.split(KEY, 4), KEY
    assert_equal(jax.jit(batch_draws(draw))(*args), jax.jit(draw)(*args))


def test_loops_and_branches_around_a_draw():
    def function(key):
        drawn = jax.lax.map(
            lambda i: jax.random.normal(jax.random.fold_in(key, i), (2,)), jnp.arange(3)
        )
        return drawn, jax.lax.cond(drawn[0, 0] > 0, jax.random.normal, jax.random.uniform, key)

    assert_equal(jax.jit(batch_draws(function))(KEY), jax.jit(function)(KEY))


def test_shapes_alone():
    model = UNet(3, channels=8, channel_mult=(1,), num_res_blocks=1, num_groups=4)
    shapes = jax.eval_shape(lambda key: model.init(key, X, T), KEY)
    assert jax.eval_shape(batch_draws(lambda key: model.init(key, X, T)), KEY) == shapes
