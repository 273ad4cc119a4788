"""`ldm-jax plan --config FILE --topology v5e:16x16`: what a run needs on chips elsewhere."""

import argparse
import functools
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.core.checks import UserError
from ldm_jax.parallel.collectives import KINDS

if TYPE_CHECKING:  # so that --help does not wait for JAX
    from ldm_jax.train.plan import Plan, Program

EXAMPLES = """\
  ldm-jax plan --config configs/shapes_text.py
  ldm-jax plan --config configs/published/sd_v1.py --topology v5e:16x16 --batch 2
  ldm-jax plan --config configs/published/sd_v1.py --topology v5p:2x4x4 --mesh 4,8,1 \\
    --programs train --fixed_batch --json
"""
DETAILS = """\
The programs are the real ones, compiled for chips that need not be here: TPU slices with
pip install "ldm-jax[tpu-plan]", as v5e:16x16, v5p:2x4x4 (32 chips, Google's v5p-64), v6e:16x16.
Large models take minutes per program; no weights are read or made. The exit status is 2 where a
program does not fit.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="Python file with get_config()"
    )
    parser.add_argument(
        "--topology", default="local", metavar="NAME", help="a TPU slice; by default what is here"
    )
    parser.add_argument(
        "--mesh", metavar="DATA,FSDP,TENSOR", help="by default that of config.train.mesh"
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="images per device and train step; by default what config.train.batch_size makes",
    )
    parser.add_argument(
        "--programs", default="train,sample", metavar="NAMES", help="train, sample or both"
    )
    parser.add_argument(
        "--fixed_batch",
        action="store_true",
        help="do not look for the largest batch that fits, which compiles two or three times more",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Prints memory, arithmetic, traffic and bounds of each program."""
    config = load_config(arguments.config)
    apply_overrides(config, overrides)
    from ldm_jax.parallel.mesh import make_mesh, read_mesh_sizes
    from ldm_jax.parallel.topology import topology_devices
    from ldm_jax.train.plan import make_plan

    shape = config.train.mesh if arguments.mesh is None else read_mesh_sizes(arguments.mesh)
    plan = make_plan(
        config,
        make_mesh(shape, topology_devices(arguments.topology)),
        batch=arguments.batch,
        programs=arguments.programs.split(","),
        search=not arguments.fixed_batch,
    )
    facts = {"topology": arguments.topology, **as_facts(plan)}
    print(json.dumps(facts) if arguments.json else as_text(arguments.topology, plan))
    _check_fits(plan)


def as_facts(plan: "Plan") -> dict[str, Any]:
    """Returns a plan as a JSON object; bytes and FLOPs are those of one device."""
    programs = {}
    for name, program in plan.programs.items():
        facts: dict[str, Any] = {"batch_per_device": program.batch, "runs": program.runs}
        facts["fits"] = plan.fits(program)
        cost: Any = program.cost
        if program.compiled:
            facts |= {
                **vars(cost),
                "collectives": {kind: vars(traffic) for kind, traffic in cost.collectives.items()},
            }
            if (bound := plan.bound(program)) is not None:
                facts |= {"roofline_seconds": bound.seconds, "limited_by": bound.limited_by}
        else:
            facts |= cost._asdict()
        programs[name] = facts
    return {
        "device_kind": plan.device_kind,
        "devices": plan.devices,
        "mesh": plan.mesh,
        "chip": plan.chip and plan.chip._asdict(),
        "memory_bytes": plan.memory_bytes,
        "held_bytes": plan.held_bytes,
        "programs": programs,
        "images_per_second": {
            name: rate._asdict() for name, rate in plan.images_per_second().items()
        },
        "largest_batch": plan.largest and plan.largest._asdict(),
    }


def as_text(topology: str, plan: "Plan") -> str:
    """Returns a plan as tables; bytes and FLOPs are those of one device."""
    lines = [f"{topology}: {plan.devices} × {plan.device_kind}, mesh {_pairs(plan.mesh)}"]
    if plan.chip:
        chip = plan.chip
        lines.append(
            f"{chip.name}: {_size(chip.hbm_bytes)}, {_flops(chip.flops)}FLOP/s in bfloat16, "
            f"{chip.bytes_per_second / 1e9:,.0f} GB/s"
        )
    held = {name: _size(count) for name, count in plan.held_bytes.items()}
    lines += [f"held by each device: {_pairs(held)}", ""]
    rows: list[list[str]] = [["on each device", *(x.replace("_", " ") for x in plan.programs)]]
    rows.append(["images", *(str(program.batch) for program in plan.programs.values())])
    for label, show in _ROWS.items():
        row = [label, *(_cell(show, program) for program in plan.programs.values())]
        rows += [row] if any(row[1:]) else []
    bounds = [plan.bound(program) for program in plan.programs.values()]
    if plan.chip:
        rows.append(["least time", *(_seconds(b and b.seconds) for b in bounds)])
        rows.append(["limited by", *(b.limited_by if b else "" for b in bounds)])
    fits = [plan.fits(program) for program in plan.programs.values()]
    rows.append(["fits", *({True: "yes", False: "no", None: "not known"}[x] for x in fits)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(f"{x:{w}}" for x, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in [*lines, "", *_conclusions(plan)])


def _conclusions(plan: "Plan") -> Iterator[str]:
    for name, rate in plan.images_per_second().items():
        estimate = "" if rate.estimate is None else f"; the compiler expects {rate.estimate:,.1f}"
        yield f"{name}: at most {rate.bound:,.1f} images/s on all devices{estimate}"
    if plan.chip is None:
        yield f"images/s: no peaks are known of {plan.device_kind}"
    if plan.largest is not None:
        sizes = {size: _size(x) for size, x in sorted(plan.largest.peak_bytes.items())}
        yield f"largest train batch per device: {plan.largest.batch} (compiled: {_pairs(sizes)})"
    elif plan.memory_bytes is None:
        yield f"largest train batch per device: the memory of {plan.device_kind} is not known"


def _bytes(field: str) -> Callable[[Any], str]:
    return lambda cost: _size(getattr(cost, field))


def _size(count: float) -> str:
    """Returns bytes as '1.23 GiB'."""
    return _scaled(count, 2**10, ("B", "KiB", "MiB", "GiB", "TiB"))


def _scaled(value: float, step: int, units: tuple[str, ...]) -> str:
    place = 0
    while place + 1 < len(units) and abs(value) >= step:
        value, place = value / step, place + 1
    return f"{value:.4g} {units[place]}"


def _flops(value: float) -> str:
    """Returns FLOPs as '1.23 T'."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T", "P"))


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value * 1e3:.4g} ms"


def _traffic(kind: str, cost: Any) -> str:
    """Returns a kind of collectives as '3 × of 1.5 MiB in all'."""
    found = cost.collectives.get(kind)
    return f"{found.count:,}: {_size(found.bytes)}" if found else ""


_ROWS: dict[str, Callable[[Any], str]] = {
    "arguments": _bytes("argument_bytes"),
    "outputs": _bytes("output_bytes"),
    "temporaries": _bytes("temporary_bytes"),
    "all of these": _bytes("peak_bytes"),
    "FLOPs of products": lambda cost: _flops(cost.flops),
    "compiler's FLOPs": lambda cost: _flops(cost.compiled_flops),
    "read and written": _bytes("bytes_accessed"),
    **{kind: functools.partial(_traffic, kind) for kind in KINDS},
    "compiler's time": lambda cost: _seconds(cost.optimal_seconds),
    "compiled in": lambda cost: f"{cost.compile_seconds:.0f} s",
}


def _cell(show: Callable[[Any], str], program: "Program") -> str:
    return show(program.compiled) if program.compiled else ""


def _pairs(values: dict[Any, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _check_fits(plan: "Plan") -> None:
    """Raises UserError for the first program that needs more memory than there is."""
    for name, program in plan.programs.items():
        if plan.fits(program) is not False:
            continue
        cost: Any = program.cost
        has = cast(int, plan.memory_bytes)
        if program.compiled:
            needed = cost.peak_bytes
        else:
            needed, has = cost.needed_bytes, cost.available_bytes
        best = plan.largest.batch if plan.largest and name == "train_step" else 0
        fewer = f"--batch={best}" if best else "fewer images"
        raise UserError(
            f"{name} with {program.batch} images per device needs {_size(needed)}, a "
            f"device has {_size(has)}. Legal: {fewer}, or a mesh with more fsdp."
        )
