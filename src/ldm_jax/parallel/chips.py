"""What accelerators can do at most, as their makers publish it."""

from typing import NamedTuple


class Chip(NamedTuple):
    """One accelerator, as JAX shows one device.

    Attributes:
      name: as people say it.
      hbm_bytes: of memory, as published.
      program_bytes: of it that programs get.
      flops: bfloat16 matrix products, dense, per second.
      bytes_per_second: between memory and the chip.
    """

    name: str
    hbm_bytes: float
    program_bytes: float
    flops: float
    bytes_per_second: float


# By `device_kind`. TPU: the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of Google Cloud's
# documentation, whose memory sizes are binary. NVIDIA: the data sheets of A100 (SXM), H100 (SXM)
# and H200 (SXM), bfloat16 tensor cores without sparsity; their sizes are decimal. What programs get
# is what libtpu 0.0.51 says when one is too large; of the others it is not known before they run.
CHIPS = {
    "TPU v4": Chip("v4", 32 * 2**30, 32 * 2**30, 275e12, 1.2e12),
    "TPU v5 lite": Chip("v5e", 16 * 2**30, 15.75 * 2**30, 197e12, 0.819e12),
    "TPU v5": Chip("v5p", 95 * 2**30, 95.73 * 2**30, 459e12, 2.765e12),
    "TPU v6 lite": Chip("v6e", 32 * 2**30, 31.24 * 2**30, 918e12, 1.64e12),
    "NVIDIA A100-SXM4-40GB": Chip("A100 40 GB", 40e9, 40e9, 312e12, 1.555e12),
    "NVIDIA A100-SXM4-80GB": Chip("A100 80 GB", 80e9, 80e9, 312e12, 2.039e12),
    "NVIDIA H100 80GB HBM3": Chip("H100", 80e9, 80e9, 989.4e12, 3.35e12),
    "NVIDIA H200": Chip("H200", 141e9, 141e9, 989.4e12, 4.8e12),
}


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip that a device calls itself; None for one that is not in the table."""
    return CHIPS.get(device_kind)
