"""What XLA is told beyond its defaults."""

from jax.sharding import Mesh

_OPTIONS = {"tpu": {"xla_disable_hlo_passes": "space-to-batch-converter"}}


def compiler_options(mesh: Mesh) -> dict[str, str] | None:
    """Returns the `compiler_options` of `jax.jit` for programs that convolve on a mesh.

    A TPU works on eight rows at once. Where a device has fewer than eight images, XLA cuts them
    into strips and counts these as images; between the convolutions, group normalisation then reads
    and writes float32 copies, masks and broadcasts of whole maps, and four images take longer than
    eight. Without that pass they take half of it, and eight or more are what they were:
    docs/scaling.md, "Few images on a device".

    JAX refuses a program with options inside of another: these are called by the host alone.
    """
    return _OPTIONS.get(mesh.devices.flat[0].platform)
