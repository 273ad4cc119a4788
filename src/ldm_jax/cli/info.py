"""`ldm-jax info --config FILE`: what a config builds, without building it."""

import argparse
import json
import math
from typing import Any

from ldm_jax.cli.config_args import apply_overrides, load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("--config", required=True, help="Python file with get_config()")
    parser.add_argument("--workdir", help="ignored; accepted so that a train command fits")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(arguments: argparse.Namespace, overrides: list[str]) -> None:
    """Prints the parameter table, latent shape, legal sizes and effective learning rate."""
    config = load_config(arguments.config)
    apply_overrides(config, overrides)
    facts, table = describe(config)
    if arguments.json:
        print(json.dumps(facts))
        return
    print(table)
    for name, value in facts.items():
        print(f"{name}: {value}")


def describe(config) -> tuple[dict[str, Any], str]:
    """Returns facts about a config, and its parameter table as text; allocates nothing."""
    import jax
    from clu import parameter_overview

    from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
    from ldm_jax.train import assemble
    from ldm_jax.train.frozen import abstract_frozen

    task = assemble.build_task(config)
    spec = assemble.batch_spec(config, task, config.train.batch_size)
    params, _ = jax.eval_shape(lambda: task.init(jax.random.key(0), spec))
    size, channels = config.data.image_size, config.data.get("channels", 3)
    frozen = abstract_frozen(task, size, channels)
    stage = task.first_stage if isinstance(task, LatentDiffusionTask) else task.model
    rate, rule = assemble.effective_learning_rate(config)
    unit = assemble.size_multiple(task)
    facts = {
        "task": config.task.name,
        "parameters": {name: _count(tree) for name, tree in params.items()},
        "trained_parameters": _count(params),
        "frozen_parameters": _count(frozen.params) if frozen else 0,
        "image_size": [size, size, channels],
        "latent_shape": list(stage.latent_shape(size, size)),
        "legal_image_sizes": f"multiples of {unit} pixels",
        "size_multiple": unit,
        "batch_size": config.train.batch_size,
        "effective_learning_rate": rate,
        "learning_rate_rule": rule,
    }
    return facts, parameter_overview.get_parameter_overview(params, include_stats=False)


def _count(tree: Any) -> int:
    import jax

    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
