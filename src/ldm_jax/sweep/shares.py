"""What each of several processes on one machine may use: GPUs, or cores where there are none."""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ldm_jax.core.checks import UserError


class Share(NamedTuple):
    """A part of a machine.

    Attributes:
      environment: variables that hold a process to it, set before JAX starts.
      cores: that it runs on.
    """

    environment: Mapping[str, str]
    cores: frozenset[int]


def make_shares(
    processes: int, gpus: Sequence[str] | None = None, cores: Sequence[int] | None = None
) -> list[Share]:
    """Returns as many shares, as even as can be; together they are what this process may use.

    TPUs are not shared: there, points run one by one on all chips.

    Args:
      processes: how many.
      gpus: as in CUDA_VISIBLE_DEVICES; by default those that this process sees.
      cores: by default those that this process may run on.

    Raises:
      UserError: more processes than GPUs, or than cores where there are no GPUs.
    """
    gpus = visible_gpus(os.environ) if gpus is None else gpus
    cores = sorted(os.sched_getaffinity(0)) if cores is None else cores
    what, most = ("GPUs", len(gpus)) if gpus else ("cores", len(cores))
    if processes != 1 and not 1 <= processes <= most:
        raise UserError(f"--processes={processes}, for {most} {what}. Legal: 1 to {most}.")
    found = []
    for own_gpus, own_cores in zip(_parts(gpus, processes), _parts(cores, processes), strict=True):
        if gpus:
            environment = {"CUDA_VISIBLE_DEVICES": ",".join(own_gpus)}
        else:
            # A batch split over two CPU devices keeps two cores busier than one device does.
            environment = {"JAX_NUM_CPU_DEVICES": "2" if len(own_cores) > 1 else "1"}
        found.append(Share(environment, frozenset(own_cores or cores)))
    return found


def visible_gpus(environment: Mapping[str, str], devices: Path = Path("/dev")) -> list[str]:
    """Returns the GPUs that JAX would use, without starting it: it takes their memory.

    Args:
      environment: of the process.
      devices: the folder that holds nvidia0, nvidia1, …
    """
    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return []
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    found = [path.name.removeprefix("nvidia") for path in devices.glob("nvidia[0-9]*")]
    return sorted(found, key=int)


@contextlib.contextmanager
def started_in(share: Share) -> Iterator[None]:
    """While entered, a process that is started is held to a share."""
    before = {name: os.environ.get(name) for name in share.environment}
    cores = os.sched_getaffinity(0)
    os.environ.update(share.environment)
    # XLA counts the cores when it makes its threads.
    os.sched_setaffinity(0, share.cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _parts(things: Sequence, count: int) -> list[Sequence]:
    """Returns a sequence cut into `count` parts whose lengths differ by one at most."""
    ends = [len(things) * k // count for k in range(count + 1)]
    return [things[start:end] for start, end in itertools.pairwise(ends)]
