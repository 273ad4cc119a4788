"""A residual block on a TPU with few images, with our options of the compiler and without them.

  python benchmarks/few_images_on_tpu.py                          # 2 minutes
  python benchmarks/few_images_on_tpu.py --gradient --size 64 --channels 320 --topology v5p:2x2x1

Needs `pip install "ldm-jax[tpu-plan]"` and no TPU. By default the block is one of the autoencoder's
first level, 128 channels at 512x512 in bfloat16. Prints a JSON line for each number of images,
the compiler's bytes and seconds, and the lines as a table last.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array
from ldm_jax.nn.resnet import ResBlock
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.topology import topology_devices


def main() -> None:
    """Compiles, and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:2x2")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--gradient", action="store_true", help="value and gradient")
    arguments = parser.parse_args()
    device = topology_devices(arguments.topology)[0]
    ours = compiler_options(make_mesh(devices=[device]))
    records = []
    for images in arguments.batches:
        traced = trace(images, arguments, device)
        costs = {"defaults": cost(traced, None), "ours": cost(traced, ours)}
        records.append({"images": images, **costs})
        print(json.dumps(records[-1]), flush=True)
    print(table(records))


def trace(images: int, arguments: argparse.Namespace, device: Any) -> Any:
    """Returns the block on maps of that many images, traced for one device."""
    block = ResBlock(arguments.channels, eps=1e-6, zero_init=False, dtype=jnp.bfloat16)
    shape = (images, arguments.size, arguments.size, arguments.channels)

    def place(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=SingleDeviceSharding(device))

    def loss(params: Any, x: Array) -> Array:
        return jnp.mean(jnp.square(block.apply(params, x).astype(jnp.float32)))

    program = jax.value_and_grad(loss, argnums=(0, 1)) if arguments.gradient else block.apply
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.zeros(shape)))
    return jax.jit(program).trace(jax.tree.map(place, params), place(x))


def cost(traced: Any, options: dict[str, str] | None) -> dict[str, float]:
    """Returns the bytes that a program reads and writes, and the compiler's seconds."""
    found = traced.lower().compile(options).cost_analysis()
    return {"bytes": found["bytes accessed"], "seconds": found["optimal_seconds"]}


def table(records: list[dict[str, Any]]) -> str:
    """Returns the records as Markdown."""
    head = "| images on the device | read and written | without that pass | time | without it |"
    lines = [head, "|---" * 5 + "|"]
    for record in records:
        bytes_, seconds = (
            [_cell(record[kind][what] * scale, unit) for kind in ("defaults", "ours")]
            for what, scale, unit in (("bytes", 1e-9, "GB"), ("seconds", 1e3, "ms"))
        )
        lines.append("| " + " | ".join([str(record["images"]), *bytes_, *seconds]) + " |")
    return "\n".join(lines)


def _cell(value: float, unit: str) -> str:
    """Returns nothing for what the compiler does not know, which it gives as a negative number."""
    return f"{value:.2f} {unit}" if value > 0 else ""


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
