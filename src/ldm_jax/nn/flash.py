"""Attention on TPUs that never writes its logits to memory: Pallas kernels, sharded.

Dao et al. 2022, https://arxiv.org/abs/2205.14135. A head of Stable Diffusion is 40 wide and the
lanes of the chip are 128, so here tokens lie along the lanes: arrays are [d, tokens] and logits are
s = k^T q, [keys, queries]. Nothing that is read or written is padded, what belongs to a query is
one row, and each gradient leaves the chip once. JAX's own kernels ("splash attention") pad outputs
and gradients to 128 numbers a token, and keep 128 for the logarithm of each query's sum.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from ldm_jax.core.axes import BATCH_AXES, TENSOR, automatic_mesh, batch_divides
from ldm_jax.core.types import Array

# What the backward pass of the kernel reads besides q, k and v, for policies of rematerialisation.
RESIDUALS = "flash_residuals"

# Below this many keys the logits are small, and the kernel's own overhead is not.
SHORTEST = 256
# Keys and values of a head stay on the chip in the forward pass, the gradients of its queries in
# the backward pass: 8 bytes a number in bfloat16, of 64 MiB or more.
LARGEST = 2**22
_BLOCKS = (512, 256, 128)
_USUAL_MEMORY = 16 * 2**20  # bytes that Mosaic takes unless it is told that it may take more
_LOGITS = 6 * 2**20  # bytes of a few arrays as large as a block of logits


def takes_flash(queries: int, keys: int, head_dim: int) -> bool:
    """Returns whether the kernel can and should attend from so many tokens to so many."""
    whole = not queries % _BLOCKS[-1] and not keys % _BLOCKS[-1]
    return whole and keys >= SHORTEST and max(queries, keys) * head_dim <= LARGEST


def flash_attend(q: Array, k: Array, v: Array, interpret: bool = False) -> Array:
    """Returns softmax(q k^T / sqrt(d)) v per head, [b, n, heads, d], block by block.

    Logits and softmax are float32. A compiler cannot partition a kernel, so on a mesh each device
    runs it on its own images and heads.

    Args:
      q: [b, n, heads, d] queries; n a multiple of 128.
      k: [b, m, heads, d] keys; m a multiple of 128.
      v: [b, m, heads, d] values.
      interpret: runs the kernel's code without a TPU, slowly.
    """

    def local(q: Array, k: Array, v: Array) -> Array:
        scaled = q * q.shape[-1] ** -0.5
        o = _attend(*(jnp.transpose(x, (0, 2, 3, 1)) for x in (scaled, k, v)), interpret)
        return jnp.transpose(o, (0, 3, 1, 2))

    mesh = automatic_mesh()
    if mesh is None:
        return local(q, k, v)
    batch = BATCH_AXES if batch_divides(mesh, q.shape[0]) else None
    heads = TENSOR if q.shape[2] % mesh.shape[TENSOR] == 0 else None
    spec = PartitionSpec(batch, None, heads, None)
    return jax.shard_map(local, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(q, k, v)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _attend(q: Array, k: Array, v: Array, interpret: bool) -> Array:
    """Returns softmax(q k^T) v; everything is [b, heads, d, tokens]."""
    return _forward(q, k, v, interpret)[0]


def _attend_forward(q: Array, k: Array, v: Array, interpret: bool):
    o, logsumexp = (checkpoint_name(x, RESIDUALS) for x in _forward(q, k, v, interpret))
    return o, (q, k, v, o, logsumexp)


def _attend_backward(interpret: bool, kept: tuple[Array, ...], do: Array):
    q, k, v, o, logsumexp = kept
    return _backward(q, k, v, o, logsumexp, do, interpret)


_attend.defvjp(_attend_forward, _attend_backward)


def _forward(q: Array, k: Array, v: Array, interpret: bool) -> tuple[Array, Array]:
    """Returns o [b, heads, d, n] and, float32 [b, heads, 1, n], the log-sum-exp of the logits."""
    # Here, because Pallas takes half a second to import and most programs do without it.
    from jax.experimental import pallas as pl

    (b, heads, d, n), m = q.shape, k.shape[3]
    block, step = _block(n), _block(m)

    def kernel(q_ref, k_ref, v_ref, o_ref, logsumexp_ref):
        def add(i, carry):
            highest, total, o = carry
            keys = pl.ds(pl.multiple_of(i * step, step), step)
            s = _product(k_ref[:, keys], q_ref[...], 0, 0)
            new = jnp.maximum(highest, jnp.max(s, axis=0, keepdims=True))
            p, shrink = jnp.exp(s - new), jnp.exp(highest - new)
            total = shrink * total + jnp.sum(p, axis=0, keepdims=True)
            return new, total, shrink * o + _product(v_ref[:, keys], p.astype(v.dtype), 1, 0)

        row = jnp.zeros((1, block))
        start = row - jnp.inf, row, jnp.zeros((d, block))
        highest, total, o = jax.lax.fori_loop(0, m // step, add, start)
        o_ref[...] = (o / total).astype(o_ref.dtype)
        logsumexp_ref[...] = highest + jnp.log(total)

    def queries(rows: int):
        return pl.BlockSpec((None, None, rows, block), lambda b, h, i: (b, h, 0, i))

    keys = pl.BlockSpec((None, None, d, m), lambda b, h, i: (b, h, 0, 0))
    return _call(
        kernel,
        grid=(b, heads, n // block),
        in_specs=(queries(d), keys, keys),
        out_specs=(queries(d), queries(1)),
        out_shape=(
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((b, heads, 1, n), jnp.float32),
        ),
        interpret=interpret,
        # Keys and values twice, while the next head's are on their way; queries and results.
        memory=4 * d * m * q.itemsize + d * block * (4 * q.itemsize + 8) + _LOGITS,
    )(q, k, v)


def _backward(
    q: Array, k: Array, v: Array, o: Array, logsumexp: Array, do: Array, interpret: bool
) -> tuple[Array, Array, Array]:
    """Returns the gradients of q, k and v, given that of o."""
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    (b, heads, d, n), m = q.shape, k.shape[3]
    block, step = _block(m), _block(n)
    steps = n // step

    def kernel(*refs):
        q_ref, k_ref, v_ref, o_ref, logsumexp_ref, do_ref = refs[:6]
        dq_ref, dk_ref, dv_ref, dq_sum, dk_sum, dv_sum = refs[6:]
        j, i = pl.program_id(2), pl.program_id(3)
        queries = pl.ds(pl.multiple_of(i * step, step), step)

        @pl.when(i == 0)
        def _():
            dk_sum[...] = jnp.zeros_like(dk_sum)
            dv_sum[...] = jnp.zeros_like(dv_sum)

        @pl.when(j == 0)
        def _():
            dq_sum[:, queries] = jnp.zeros((d, step))

        q, k, do = q_ref[...], k_ref[...], do_ref[...]
        p = jnp.exp(_product(k, q, 0, 0) - logsumexp_ref[...])
        dp = _product(v_ref[...], do, 0, 0)
        di = jnp.sum(o_ref[...].astype(jnp.float32) * do, axis=0, keepdims=True)
        ds = (p * (dp - di)).astype(q.dtype)
        dq_sum[:, queries] += _product(k, ds, 1, 0)
        dk_sum[...] += _product(q, ds, 1, 1)
        dv_sum[...] += _product(do, p.astype(do.dtype), 1, 1)

        @pl.when(i == steps - 1)
        def _():
            dk_ref[...] = dk_sum[...].astype(dk_ref.dtype)
            dv_ref[...] = dv_sum[...].astype(dv_ref.dtype)

        @pl.when(j == m // block - 1)
        def _():
            dq_ref[:, queries] = dq_sum[:, queries].astype(dq_ref.dtype)

    def queries(rows: int):
        return pl.BlockSpec((None, None, rows, step), lambda b, h, j, i: (b, h, 0, i))

    keys = pl.BlockSpec((None, None, d, block), lambda b, h, j, i: (b, h, 0, j))
    whole = pl.BlockSpec((None, None, d, n), lambda b, h, j, i: (b, h, 0, 0))
    return _call(
        kernel,
        grid=(b, heads, m // block, steps),
        in_specs=(queries(d), keys, keys, queries(d), queries(1), queries(d)),
        out_specs=(whole, keys, keys),
        out_shape=tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)),
        scratch_shapes=[pltpu.VMEM((d, size), jnp.float32) for size in (n, block, block)],
        interpret=interpret,
        # Gradients of queries, a sum and two results; blocks of five inputs and of two results.
        memory=d * n * (4 + 2 * q.itemsize) + d * _BLOCKS[0] * (14 * q.itemsize + 8) + _LOGITS,
    )(q, k, v, o, logsumexp, do)


def _block(tokens: int) -> int:
    return next(size for size in _BLOCKS if tokens % size == 0)


def _product(a: Array, b: Array, axis_of_a: int, axis_of_b: int) -> Array:
    """Returns the product of two matrices along the given axes, in float32."""
    dimensions = (((axis_of_a,), (axis_of_b,)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, preferred_element_type=jnp.float32)


def _call(kernel: Any, *, grid: tuple[int, ...], memory: int, **options: Any) -> Any:
    """Returns `pallas_call` of a kernel; images and heads are independent, blocks have an order.

    Args:
      kernel: what to run.
      grid: images, heads, blocks.
      memory: bytes on the chip, about.
      **options: of `pallas_call`.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    order: Any = ("parallel",) * 2 + ("arbitrary",) * (len(grid) - 2)
    # Said only where it is needed: the oldest chips have no more than the usual.
    limit = max(memory * 5 // 4, _USUAL_MEMORY) if memory > _USUAL_MEMORY // 2 else None
    parameters = pltpu.CompilerParams(dimension_semantics=order, vmem_limit_bytes=limit)
    return pl.pallas_call(kernel, grid=grid, compiler_params=parameters, **options)
