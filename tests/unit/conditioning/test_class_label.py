import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.conditioning import ClassLabel
from ldm_jax.core.checks import UserError

BATCH = {"class": jnp.array([4, 0], jnp.int32)}


def test_rows_of_the_table_come_out_by_route():
    for route, shape in (("context", (2, 1, 8)), ("embedding", (2, 8))):
        module = ClassLabel(5, 8, route=route)
        variables = module.init(jax.random.key(0), BATCH)
        table = np.asarray(variables["params"]["table"]["embedding"])
        assert table.shape == (6, 8)
        value = getattr(module.apply(variables, BATCH), route)
        np.testing.assert_array_equal(value, table[[4, 0]].reshape(shape))
        null = getattr(module.apply(variables, 1, method="null"), route)
        np.testing.assert_array_equal(null, table[[5]].reshape((1, *shape[1:])))


def test_table_starts_standard_normal():
    variables = ClassLabel(99, 100).init(jax.random.key(0), BATCH)
    values = np.asarray(jax.tree.leaves(variables)[0])
    assert abs(values.mean()) < 0.04
    assert abs(values.std() - 1) < 0.03


def test_unknown_route_lists_the_legal_ones():
    with pytest.raises(
        UserError, match=r"class_label.route: got 'concat'.* Legal: context, embedding."
    ):
        ClassLabel(5, 8, route="concat")


def test_one_hot_labels_are_refused():
    with pytest.raises(UserError, match=r"batch\['class'\]: got shape \(2, 5\)"):
        ClassLabel(5, 8).init(jax.random.key(0), {"class": jnp.zeros((2, 5), jnp.int32)})


def test_without_a_null_class_there_is_no_row_for_it():
    module = ClassLabel(5, 8, null_class=False)
    table = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    variables = module.init(jax.random.key(0), BATCH)
    assert variables["params"]["table"]["embedding"].shape == (5, 8)
    found = jax.jit(module.apply)({"params": {"table": {"embedding": table}}}, BATCH)
    np.testing.assert_array_equal(found.context, table[[4, 0]][:, None, :])
    with pytest.raises(UserError) as caught:
        module.apply(variables, 1, method="null")
    assert str(caught.value) == (
        "class_label.null_class=False: no null class to guide away from. Legal: "
        "guidance_scale=1.0 and condition_drop_rate=0.0, or null_class=True."
    )
