"""`ldm-jax info --config FILE`: what a config or a run builds, without building it."""

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.core.checks import UserError

EXAMPLES = """\
  ldm-jax info --config configs/shapes_text.py
  ldm-jax info --config configs/shapes_text.py --config.task.model.channels=128 --json
  ldm-jax info --workdir runs/text --mesh 2,4,1
"""
DETAILS = """\
--mesh counts bytes on devices that need not exist: a table of where parameters land, and what one
device holds of parameters, their average, the optimizer and what is frozen.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--config", metavar="FILE", help="Python file with get_config()")
    parser.add_argument(
        "--workdir", metavar="DIR", help="a run or a model to take the config of, without --config"
    )
    parser.add_argument(
        "--mesh", metavar="DATA,FSDP,TENSOR", help="also say what lands where on such a mesh"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Prints the parameter table, latent shape, legal sizes and effective learning rate."""
    config = _read(arguments)
    apply_overrides(config, overrides)
    facts, table = describe(config)
    if arguments.mesh is not None:
        where, table = describe_placement(config, arguments.mesh)
        facts |= where
    if arguments.json:
        print(json.dumps(facts))
        return
    print(table)
    shown = {name: value for name, value in facts.items() if name != "placement"}
    width = max(map(len, shown))
    for name, value in shown.items():
        print(f"{name.replace('_', ' '):{width}}  {_readable(value)}")


def _read(arguments: argparse.Namespace) -> ConfigDict:
    if arguments.config:
        return load_config(arguments.config)
    if not arguments.workdir:
        raise UserError("info: needs a configuration. Legal: --config=FILE, or --workdir=DIR.")
    from ldm_jax.train.exchange import read_model_config

    return read_model_config(arguments.workdir)


def describe(config) -> tuple[dict[str, Any], str]:
    """Returns facts about a config, and its parameter table as text; allocates no parameters.

    `parameters` and the table are of the task's networks, trained or frozen; the first stage of a
    diffusion model is counted apart, as `first_stage_parameters`.
    """
    import jax
    from clu import parameter_overview

    from ldm_jax.tasks.first_stage import Frozen
    from ldm_jax.tasks.latent_task import LatentTask
    from ldm_jax.train import assemble, assemble_data
    from ldm_jax.train.frozen import abstract_frozen
    from ldm_jax.train.preflight import check_config

    task = check_config(config)
    spec = assemble_data.batch_spec(config, task, config.train.batch_size)
    params, _ = jax.eval_shape(lambda: task.init(jax.random.key(0), spec))
    size, channels = config.data.image_size, config.data.get("channels", 3)
    frozen = abstract_frozen(task, size)
    stage = task.first_stage if isinstance(task, LatentTask) else task.model
    networks = dict(params)
    if isinstance(frozen, Frozen):
        first_stage, constants = frozen.params, (frozen.params, frozen.conditioner)
        if frozen.conditioner is not None:
            networks["conditioner"] = frozen.conditioner
    else:
        first_stage, constants = params["autoencoder"], frozen
    _, rule = assemble.effective_learning_rate(config)
    _, schedule = assemble.build_optimizers(config, task)
    unit = assemble.size_multiple(task)
    facts = {
        "task": config.task.name,
        "parameters": {name: _count(tree) for name, tree in networks.items()},
        "first_stage_parameters": _count(first_stage),
        "trained_parameters": _count(params),
        "frozen_parameters": _count(constants),
        "image_size": [size, size, channels],
        "latent_shape": list(stage.latent_shape(size, size)),
        "legal_image_sizes": f"multiples of {unit} pixels",
        "size_multiple": unit,
        "batch_size": config.train.batch_size,
        "effective_learning_rate": _highest(schedule, config.train.steps),
        "learning_rate_rule": rule,
    }
    return facts, parameter_overview.get_parameter_overview(networks, include_stats=False)


def describe_placement(config: ConfigDict, mesh_text: str) -> tuple[dict[str, Any], str]:
    """Returns what every device of a mesh would hold, and a table of it; no device is needed.

    The average and the optimizer's moments lie as their parameters do, so that the table has
    parameters and what is frozen alone.
    """
    from ldm_jax.parallel.mesh import make_abstract_mesh, read_mesh_sizes
    from ldm_jax.parallel.placement import placement_table, placements
    from ldm_jax.train.abstract_run import abstract_run
    from ldm_jax.train.plan import held_bytes

    mesh = make_abstract_mesh(read_mesh_sizes(mesh_text))
    run = abstract_run(config)
    rows = placements(mesh, {"params": run.state.params, "frozen": run.frozen})
    facts = {
        "mesh": dict(mesh.shape),
        "bytes_per_device": held_bytes(run, mesh),
        "placement": [row._asdict() for row in rows],
    }
    return facts, placement_table(rows)


def _highest(schedule: Callable[[Any], Any], steps: int) -> float:
    """Returns the highest learning rate of a run, to seven digits, over at most 10,001 steps."""
    import jax
    import numpy as np

    asked = np.unique(np.linspace(0, steps - 1, min(steps, 10_001)).round().astype(np.int32))
    return float(f"{float(np.max(jax.vmap(schedule)(asked))):.7g}")


def _readable(value: Any) -> str:
    """Returns [32, 32, 3] as '32 × 32 × 3', counts with separators, and mappings as a list."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " × ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _count(tree: Any) -> int:
    import jax

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
