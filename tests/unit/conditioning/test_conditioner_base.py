import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import Conditioner, Conditioning, NoConditioning, drop
from ldm_jax.conditioning.base import one_cell
from ldm_jax.core.checks import UserError

MASK = jnp.array([True, False, True])


def test_drop_replaces_masked_rows_of_every_route():
    given = Conditioning(
        context=jnp.ones((3, 2, 4)), concat=jnp.ones((3, 2, 2, 1)), embedding=jnp.ones((3, 5))
    )
    null = jax.tree.map(lambda x: 7 * x[:1], given)
    dropped = jax.jit(drop)(given, null, MASK)
    for leaf in jax.tree.leaves(dropped):
        rows = np.asarray(leaf).reshape(3, -1)
        assert np.unique(rows, axis=1)[:, 0].tolist() == [7.0, 1.0, 7.0]


def test_drop_takes_a_null_map_of_one_cell_and_of_no_other_size():
    given = Conditioning(concat=jnp.ones((3, 2, 6, 2)))
    whole = Conditioning(concat=jnp.broadcast_to(jnp.array([4.0, 5.0]), (1, 3, 3, 2)))
    with pytest.raises(UserError) as error:
        drop(given, whole, MASK)
    assert str(error.value) == (
        "null conditioning, concat: got shape (1, 3, 3, 2), expected (3, 2, 6, 2) as in the "
        "conditioning. Legal: the same shape, or batch 1, and maps of one cell."
    )
    null = one_cell(whole)
    dropped = np.asarray(jax.jit(drop)(given, null, MASK).concat)
    np.testing.assert_array_equal(dropped[1], np.ones((2, 6, 2)))
    for row in (0, 2):
        np.testing.assert_array_equal(dropped[row], np.tile([4.0, 5.0], (2, 6, 1)))


def test_drop_leaves_absent_routes_absent():
    given = Conditioning(embedding=jnp.ones((3, 2), jnp.bfloat16))
    dropped = drop(given, Conditioning(embedding=jnp.zeros((1, 2))), MASK)
    assert dropped.context is None
    assert dropped.concat is None
    assert dropped.embedding.dtype == jnp.bfloat16


def test_drop_takes_a_null_of_full_batch():
    given = Conditioning(embedding=jnp.zeros((3, 1)))
    null = Conditioning(embedding=jnp.array([[1.0], [2.0], [3.0]]))
    assert drop(given, null, MASK).embedding.ravel().tolist() == [1.0, 0.0, 3.0]


def test_a_conditioner_drops_as_the_function_does_unless_it_knows_better():
    class Halved(Conditioner):
        drop_rate: float = 0.25

        def drop(self, conditioning, null, mask):
            return jax.tree.map(lambda x: x / 2, conditioning)

    given = Conditioning(embedding=jnp.ones((3, 1)))
    null = Conditioning(embedding=jnp.zeros((1, 1)))
    plain = Conditioner().apply({}, given, null, MASK, method="drop")
    assert plain.embedding.ravel().tolist() == [0.0, 1.0, 0.0]
    assert Conditioner().drop_rate is None
    halved = Halved().apply({}, given, null, MASK, method="drop")
    assert halved.embedding.ravel().tolist() == [0.5, 0.5, 0.5]
    assert (Halved().drop_rate, Halved(drop_rate=0.5).drop_rate) == (0.25, 0.5)


def test_base_class_is_abstract():
    with pytest.raises(NotImplementedError):
        Conditioner().null(1)


def test_no_conditioning_is_empty_and_reads_nothing():
    module = NoConditioning()
    assert module.inputs == ()
    assert module.apply({}, {}) == Conditioning() == module.apply({}, 3, method="null")
