"""What training and sampling of a configuration would need and cost on a mesh, before it is there.

The programs are the ones that a run compiles: `train.step` and `train.sampling`, ahead of time.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, cast

import jax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, check_in, check_positive
from ldm_jax.parallel.chips import Chip, chip_of
from ldm_jax.parallel.mesh import batch_shards, check_batch_size
from ldm_jax.parallel.placement import placed_bytes
from ldm_jax.parallel.plan import Bound, Cost, Largest, TooLarge, largest_batch, measure, roofline
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.abstract_run import (
    AbstractRun,
    abstract_run,
    trace_sampling,
    trace_train_step,
)

TRAIN, SAMPLE = "train", "sample"
PROGRAMS = (TRAIN, SAMPLE)


@dataclasses.dataclass(frozen=True)
class Program:
    """One program of a run.

    Attributes:
      batch: images per device.
      cost: or what the compiler says where it does not fit.
      runs: of it for one batch: evaluations of a sampler, otherwise 1.
    """

    batch: int
    cost: Cost | TooLarge
    runs: int = 1

    @property
    def compiled(self) -> Cost | None:
        """What it costs; None where the compiler found no room for it."""
        return self.cost if isinstance(self.cost, Cost) else None


class Rate(NamedTuple):
    """Images per second of all devices.

    Attributes:
      bound: that the published peaks of arithmetic and of memory allow.
      estimate: by the compiler's times; None where it gives none.
    """

    bound: float
    estimate: float | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run would need and cost.

    Attributes:
      device_kind: of every device.
      mesh: sizes by axis.
      chip: None for devices that nothing is published of here.
      memory_bytes: that programs can have of a device; None where that is not known.
      held_bytes: of the run's arrays on one device, by name.
      programs: `train_step`, and `evaluation` and `decode` of sampling.
      largest: batch of the train step; None where it was not looked for.
    """

    device_kind: str
    mesh: dict[str, int]
    chip: Chip | None
    memory_bytes: int | None
    held_bytes: dict[str, int]
    programs: dict[str, Program]
    largest: Largest | None

    def fits(self, program: Program) -> bool | None:
        """Returns whether it does; None where the memory is not known."""
        if isinstance(program.cost, TooLarge):
            return False
        if self.memory_bytes is None:
            return None
        return program.cost.peak_bytes <= self.memory_bytes

    @property
    def devices(self) -> int:
        """How many there are in the mesh."""
        return math.prod(self.mesh.values())

    def bound(self, program: Program) -> Bound | None:
        """Returns the least time of one run of a program; None where the peaks are not known."""
        if self.chip is None or isinstance(program.cost, TooLarge):
            return None
        return roofline(program.cost, self.chip)

    def images_per_second(self) -> dict[str, Rate]:
        """Returns what all devices could make, of `train` and `sample`; of those that are known."""
        found = {}
        for name, parts in {TRAIN: ("train_step",), SAMPLE: ("evaluation", "decode")}.items():
            programs = [self.programs[part] for part in parts if part in self.programs]
            bounds = [self.bound(program) for program in programs]
            if not programs or None in bounds:
                continue
            images = programs[0].batch * self.mesh["data"] * self.mesh["fsdp"]
            least = sum(p.runs * b.seconds for p, b in zip(programs, bounds, strict=True) if b)
            expected = [cast(Cost, program.cost).optimal_seconds for program in programs]
            estimate = None
            if None not in expected:
                estimate = images / sum(
                    p.runs * x for p, x in zip(programs, expected, strict=True) if x
                )
            found[name] = Rate(images / least, estimate)
        return found


def make_plan(
    config: ConfigDict,
    mesh: Mesh,
    *,
    batch: int | None = None,
    programs: Collection[str] = PROGRAMS,
    search: bool = True,
) -> Plan:
    """Returns the plan of a configuration on a mesh, whose devices may be those of a topology.

    Args:
      config: of a run; weights that it names need not exist.
      mesh: where it would run.
      batch: of the train step, images per device; by default that of `config.train.batch_size`.
      programs: of PROGRAMS, what to compile.
      search: look for the largest batch of the train step, by two or three compilations more.

    Raises:
      UserError: a configuration that does not build, or does not fit the mesh.
    """
    for name in programs:
        check_in("--programs", name, PROGRAMS)
    run = abstract_run(config)
    if TRAIN not in programs and not isinstance(run.task, LatentDiffusionTask):
        raise UserError(
            f"--programs={SAMPLE}: config.task.name={config.task.name!r} has no sampling. "
            f"Legal: {TRAIN}."
        )
    train = config.train
    if batch is None:
        check_batch_size(mesh, train.batch_size, train.accumulation)
        batch = train.batch_size // batch_shards(mesh)
    check_positive("--batch", (batch,))
    if batch % train.accumulation:
        raise UserError(
            f"--batch={batch}: must be a multiple of config.train.accumulation="
            f"{train.accumulation}. Legal: {train.accumulation}, {2 * train.accumulation}, …"
        )
    device = mesh.devices.flat[0]
    chip = chip_of(device.device_kind)
    memory = _memory(device, chip)
    found: dict[str, Program] = {}
    largest = None
    if TRAIN in programs:
        costs: dict[int, Cost | TooLarge] = {}

        def measure_at(size: int) -> Cost | TooLarge:
            costs[size] = _measure("train step", trace_train_step(run, mesh, size), size, mesh)
            return costs[size]

        if search and memory is not None:
            largest = largest_batch(measure_at, batch, train.accumulation, memory)
        else:
            measure_at(batch)
        found["train_step"] = Program(batch, costs[batch])
    if SAMPLE in programs:
        found |= _sampling(run, mesh)
    return Plan(
        device_kind=device.device_kind,
        mesh=dict(mesh.shape),
        chip=chip,
        memory_bytes=memory,
        held_bytes=held_bytes(run, mesh),
        programs=found,
        largest=largest,
    )


def held_bytes(run: AbstractRun, mesh: Any) -> dict[str, int]:
    """Returns the bytes of a run's arrays on one device of a mesh, by name, and their `total`.

    Args:
      run: in shapes.
      mesh: a Mesh, or an AbstractMesh.
    """
    trees: Mapping[str, Any] = {
        "params": run.state.params,
        "ema_params": run.state.ema_params,
        "optimizer": run.state.opt_state,
        "mutable": run.state.mutable,
        "frozen": run.frozen,
    }
    sizes = {name: placed_bytes(mesh, tree) for name, tree in trees.items()}
    return {**sizes, "total": sum(sizes.values())}


def _sampling(run: AbstractRun, mesh: Mesh) -> dict[str, Program]:
    size = run.config.sample.per_device_batch
    found = {}
    for name, sampling in trace_sampling(run, mesh, size).items():
        cost = _measure(name, sampling.traced, size, mesh)
        found[name] = Program(size, cost, sampling.runs)
    return found


def _measure(name: str, traced: Any, size: int, mesh: Mesh) -> Cost | TooLarge:
    logging.info("compiling: %s, %d images per device, %d devices", name, size, mesh.size)
    cost = measure(traced, mesh.size)
    if isinstance(cost, TooLarge):
        logging.info("it does not fit")
    else:
        logging.info("compiled in %.0f s: %.2f GiB", cost.compile_seconds, cost.peak_bytes / 2**30)
    return cost


def _memory(device: Any, chip: Chip | None) -> int | None:
    """Returns the bytes that programs can have: as the device says, or as is known of its kind."""
    try:
        stats = device.memory_stats()
    except jax.errors.JaxRuntimeError:  # a device of a topology is none to ask
        stats = None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return None if chip is None else int(chip.program_bytes)
