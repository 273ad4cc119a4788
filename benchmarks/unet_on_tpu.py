"""Memory, traffic and time of Stable Diffusion 1's U-Net on a TPU v5p, without one.

  python benchmarks/unet_on_tpu.py                      # value and gradient; 6 to 10 minutes
  python benchmarks/unet_on_tpu.py --what forward       # 2 minutes
  python benchmarks/unet_on_tpu.py --attention_impl xla --remat none

Needs `pip install "ldm-jax[tpu-plan]"`. Compiles the U-Net (859,520,964 parameters, float32,
replicated; bfloat16 compute) for v5p:2x2x1, eight images of 64x64x4 and contexts of 77x768 on each
device, and prints one JSON line: the compiler's figures for one device, and their ratios to those
of the best JAX peer, compiled in the same way by libtpu 0.0.51.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, Conditioning
from ldm_jax.models import UNet
from ldm_jax.nn.attention import ATTENTION_IMPLS
from ldm_jax.nn.remat import REMAT
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.plan import Cost, measure
from ldm_jax.parallel.sharding import batch_sharding
from ldm_jax.parallel.topology import topology_devices

SIZE, TOKENS, CONTEXT = 64, 77, 768
# The peer, with its flash kernel where sequences have 4,096 tokens, and with plain attention.
# Bytes of temporaries, FLOPs and bytes accessed as the compiler counts them, and its seconds.
PEER = {
    ("gradient", "flash"): (13.45e9, 1.626e13, 1.642e11, 0.0956),
    ("gradient", "plain"): (40.10e9, 1.893e13, 2.953e11, 0.1514),
    ("forward", "plain"): (4.48e9, 6.31e12, 7.36e10, 0.0398),
}
NAMES = ("temporary_bytes", "compiled_flops", "bytes_accessed", "optimal_seconds")


def main() -> None:
    """Compiles, and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--what", default="gradient", choices=("gradient", "forward"))
    parser.add_argument("--topology", default="v5p:2x2x1")
    parser.add_argument("--batch", type=int, default=8, help="images on each device")
    parser.add_argument("--remat", default="elementwise", choices=tuple(REMAT))
    parser.add_argument("--attention_impl", default="auto", choices=ATTENTION_IMPLS)
    arguments = parser.parse_args()
    devices = topology_devices(arguments.topology)
    mesh = make_mesh((-1, 1, 1), devices)
    print(f"compiling for {arguments.topology} ...", file=sys.stderr)
    start = time.monotonic()
    with jax.set_mesh(mesh):
        cost = measure(traced(arguments, mesh), len(devices))
    if not isinstance(cost, Cost):
        sys.exit(f"does not fit: {cost}")
    found = {name: getattr(cost, name) for name in NAMES}
    ratios = {
        f"{peer} peer": {
            name: found[name] and round(found[name] / figure, 3)
            for name, figure in zip(NAMES, figures, strict=True)
        }
        for (what, peer), figures in PEER.items()
        if what == arguments.what
    }
    record = {
        **vars(arguments),
        **found,
        "flops_with_kernels": cost.flops,
        "ratios": ratios,
        "wall_seconds": round(time.monotonic() - start),
    }
    print(json.dumps(record))


def traced(arguments: argparse.Namespace, mesh: Any) -> Any:
    """Returns the traced program, with shapes for arguments."""
    model = UNet(
        out_channels=4,
        channels=320,
        channel_mult=(1, 2, 4, 4),
        num_res_blocks=2,
        attention_factors=(1, 2, 4),
        num_heads=8,
        transformer_depth=1,
        remat=arguments.remat,
        attention_impl=arguments.attention_impl,
        dtype=jnp.bfloat16,
    )

    def predict(params: Any, z_t: Array, t: Array, context: Array) -> Array:
        return model.apply({"params": params}, z_t, t, Conditioning(context=context))

    def loss(params: Any, z_t: Array, t: Array, context: Array, target: Array) -> Array:
        return jnp.mean(jnp.square(predict(params, z_t, t, context) - target))

    def init() -> Any:
        one = jnp.zeros((1, SIZE, SIZE, 4)), jnp.zeros(1), jnp.zeros((1, TOKENS, CONTEXT))
        return model.init(jax.random.key(0), *one[:2], Conditioning(context=one[2]))["params"]

    jit = functools.partial(jax.jit, compiler_options=compiler_options(mesh))
    whole, split = NamedSharding(mesh, PartitionSpec()), batch_sharding(mesh)
    params = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), jax.eval_shape(init)
    )
    assert sum(x.size for x in jax.tree.leaves(params)) == 859_520_964

    def batch(*shape: int) -> jax.ShapeDtypeStruct:
        rows = arguments.batch * mesh.size
        return jax.ShapeDtypeStruct((rows, *shape), jnp.float32, sharding=split)

    inputs = (batch(SIZE, SIZE, 4), batch(), batch(TOKENS, CONTEXT))
    if arguments.what == "forward":
        return jit(predict, out_shardings=split).trace(params, *inputs)
    gradient = jit(jax.value_and_grad(loss), out_shardings=whole)
    return gradient.trace(params, *inputs, inputs[0])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
