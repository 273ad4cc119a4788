"""The constraint on activations."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from ldm_jax.core.axes import BATCH_AXES, automatic_mesh, shard_batch
from ldm_jax.parallel.mesh import make_mesh


def test_without_a_mesh_it_is_the_identity():
    x = jnp.ones((4, 2))
    assert automatic_mesh() is None
    assert shard_batch(x) is x


@pytest.mark.parametrize(("rows", "spec"), [(8, P(BATCH_AXES)), (1, P()), (6, P())])
def test_splits_the_batch_or_keeps_it_whole(rows, spec):
    mesh = make_mesh((2, 2, 2))
    with jax.set_mesh(mesh):
        assert automatic_mesh() is not None
        y = jax.jit(lambda x: shard_batch(x * 2))(jnp.ones((rows, 3)))
    assert y.sharding.is_equivalent_to(jax.NamedSharding(mesh, spec), 2)
    assert (y == 2).all()


def test_on_another_programs_mesh_it_is_the_identity():
    with jax.set_mesh(jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))):
        assert automatic_mesh() is None


def test_one_device_of_shard_map_sees_no_mesh():
    seen = []

    def local(x):
        seen.append(automatic_mesh())
        return shard_batch(x)

    mesh = make_mesh((8, 1, 1))
    rows = P(BATCH_AXES)
    y = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=rows, out_specs=rows))(jnp.arange(8.0))
    assert seen == [None]
    assert (y == jnp.arange(8.0)).all()
