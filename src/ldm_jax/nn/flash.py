"""Attention on TPUs that never writes its logits to memory: JAX's Pallas kernel, sharded."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from ldm_jax.core.axes import BATCH_AXES, TENSOR, automatic_mesh, batch_divides
from ldm_jax.core.types import Array

# What the backward pass of the kernel reads besides q, k and v, for policies of rematerialisation.
RESIDUALS = "flash_residuals"

# Below this many keys the logits are small, and the kernel's own overhead is not.
SHORTEST = 256
_BLOCKS = (512, 256, 128)


def takes_flash(queries: int, keys: int) -> bool:
    """Returns whether the kernel can and should attend from so many tokens to so many."""
    return keys >= SHORTEST and not queries % _BLOCKS[-1] and not keys % _BLOCKS[-1]


def flash_attend(q: Array, k: Array, v: Array, interpret: bool = False) -> Array:
    """Returns softmax(q k^T / sqrt(d)) v per head, [b, n, heads, d], block by block.

    Dao et al. 2022, https://arxiv.org/abs/2205.14135, algorithm 1, in the kernel that ships with
    JAX ("splash attention"), whose logits and softmax are float32. A compiler cannot partition a
    kernel, so on a mesh each device runs it on its own images and heads.

    Args:
      q: [b, n, heads, d] queries; n a multiple of 128.
      k: [b, m, heads, d] keys; m a multiple of 128.
      v: [b, m, heads, d] values.
      interpret: runs the kernel's code without a TPU, slowly.
    """

    def local(q: Array, k: Array, v: Array) -> Array:
        return _attend_on_one_device(q, k, v, interpret)

    mesh = automatic_mesh()
    if mesh is None:
        return local(q, k, v)
    batch = BATCH_AXES if batch_divides(mesh, q.shape[0]) else None
    heads = TENSOR if q.shape[2] % mesh.shape[TENSOR] == 0 else None
    spec = PartitionSpec(batch, None, heads, None)
    return jax.shard_map(local, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(q, k, v)


def _attend_on_one_device(q: Array, k: Array, v: Array, interpret: bool) -> Array:
    # Here, because Pallas takes half a second to import and most programs do without it.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    shape = (q.shape[1], k.shape[1])
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.FullMask(shape)] * q.shape[2]),
        block_sizes=_block_sizes(splash, *shape),
        residual_checkpoint_name=RESIDUALS,
        interpret=interpret,
    )
    heads_first = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    return jnp.swapaxes(jax.vmap(kernel)(*heads_first), 1, 2)


def _block_sizes(splash: Any, queries: int, keys: int) -> Any:
    """Returns blocks of at most 512 tokens, and tokens along the lanes of the chip.

    A head of SD is 40 wide, and lanes are 128: with tokens along them nothing is padded, which
    takes 10 % off the bytes and a third off the memory of a layer with its gradient (v5p, libtpu
    0.0.51). Separate kernels for the gradients of queries and of keys: the fused one writes the
    former once per block of keys, another 20 % of the bytes.
    """
    query_block = next(size for size in _BLOCKS if queries % size == 0)
    key_block = next(size for size in _BLOCKS if keys % size == 0)
    along_lanes = splash.QKVLayout.SEQ_MINOR
    return splash.BlockSizes(
        block_q=query_block,
        block_kv=key_block,
        block_kv_compute=key_block,
        block_q_dkv=query_block,
        block_kv_dkv=key_block,
        block_kv_dkv_compute=key_block,
        block_q_dq=query_block,
        block_kv_dq=key_block,
        use_fused_bwd_kernel=False,
        q_layout=along_lanes,
        k_layout=along_lanes,
        v_layout=along_lanes,
    )
