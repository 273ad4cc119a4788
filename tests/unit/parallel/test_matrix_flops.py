"""FLOPs of traced programs against their closed forms."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

from ldm_jax.parallel.matrix_flops import device_flops
from ldm_jax.parallel.mesh import make_mesh

PRODUCT = 2 * 8 * 16 * 32  # [8, 16] @ [16, 32]


def count(f, *shapes, devices=1):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return device_flops(jax.jit(f).trace(*arguments).jaxpr, devices)


def test_products_are_shared_by_the_devices():
    assert count(jnp.matmul, (8, 16), (16, 32)) == PRODUCT
    assert count(jnp.matmul, (8, 16), (16, 32), devices=4) == PRODUCT / 4
    assert count(jnp.matmul, (3, 8, 16), (3, 16, 32)) == 3 * PRODUCT
    assert count(jnp.sin, (8, 16)) == 0


def conv(x, w, strides=(1, 1), groups=1):
    return jax.lax.conv_general_dilated(
        x,
        w,
        strides,
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@pytest.mark.parametrize(
    ("strides", "groups", "inputs", "expected"),
    [
        ((1, 1), 1, 4, 2 * 2 * 8 * 8 * 6 * 9 * 4),
        ((2, 2), 1, 4, 2 * 2 * 4 * 4 * 6 * 9 * 4),
        ((1, 1), 2, 2, 2 * 2 * 8 * 8 * 6 * 9 * 2),
    ],
)
def test_convolutions_and_their_gradients(strides, groups, inputs, expected):
    shapes = (2, 8, 8, 4), (3, 3, inputs, 6)

    def loss(x, w):
        return jnp.sum(conv(x, w, strides, groups) ** 2)

    assert count(lambda x, w: conv(x, w, strides, groups), *shapes) == expected
    # Forward, and as much for the gradient of each argument.
    assert count(jax.grad(loss, argnums=(0, 1)), *shapes) == pytest.approx(3 * expected)


def test_loops_count_as_often_as_they_run():
    def scan(x, w):
        return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=5)[0]

    def counted(x, w):
        return jax.lax.fori_loop(0, 5, lambda i, x: x @ w, x)

    def until(x, w, n):
        return jax.lax.fori_loop(0, n[0].astype(int), lambda i, x: x @ w, x)

    once = 2 * 8 * 16 * 16
    assert count(scan, (8, 16), (16, 16)) == 5 * once
    assert count(counted, (8, 16), (16, 16)) == 5 * once
    assert count(until, (8, 16), (16, 16), (1,)) == once


def test_the_longest_branch_counts():
    def f(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert count(f, (8, 16), (16, 16)) == 2 * 2 * 8 * 16 * 16


def test_rematerialised_products_count_twice():
    def loss(w, x):
        return jnp.sum(jax.checkpoint(lambda w: jnp.sin(jnp.sin(x @ w) @ w))(w))

    once = 2 * 8 * 16 * 16
    plain = count(jax.grad(lambda w, x: jnp.sum(jnp.sin(jnp.sin(x @ w) @ w))), (16, 16), (8, 16))
    assert plain == 5 * once  # x has no gradient
    assert count(jax.grad(loss), (16, 16), (8, 16)) == 7 * once


def test_inside_shard_map_a_program_is_one_devices():
    mesh = make_mesh((8, 1, 1))
    f = jax.shard_map(
        jnp.matmul, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"), check_vma=False
    )
    assert count(f, (64, 16), (16, 32), devices=8) == PRODUCT


def test_pallas_kernels_count_over_their_grid():
    def kernel(x, w, y):
        y[...] = x[...] @ w[...]

    def f(x, w):
        return pl.pallas_call(
            kernel,
            grid=(4, 2),
            in_specs=[
                pl.BlockSpec((8, 16), lambda i, j: (i, 0)),
                pl.BlockSpec((16, 32), lambda i, j: (0, j)),
            ],
            out_specs=pl.BlockSpec((8, 32), lambda i, j: (i, j)),
            out_shape=jax.ShapeDtypeStruct((32, 64), jnp.float32),
        )(x, w)

    assert count(f, (32, 16), (16, 64)) == 8 * PRODUCT
