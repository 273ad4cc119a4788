"""Inpainting of shapes at 64×64 by one network, on latents (f = 4) or on pixels.

Paper: section 4.5, Table 6. The argument is latents or pixels.
Command: python experiments/inpainting_cost/run.py --size small
"""

from pathlib import Path

from ldm_jax.cli.config_args import load_config
from ldm_jax.core.checks import check_in

SHAPES = Path(__file__).parents[2] / "configs" / "shapes_tasks.py"


def get_config(argument="latents"):
    """Returns the configuration."""
    check_in("the config's argument", argument, ("latents", "pixels"))
    config = load_config(f"{SHAPES}:inpainting")
    if argument == "pixels":
        edge = config.data.image_size
        with config.unlocked(), config.ignore_type():
            config.task.first_stage.model = {"name": "identity"}
            config.task.first_stage.scale_factor = 1.0
            config.task.model.out_channels = 3
            config.task.conditioner.shape = (edge, edge, 4)
    config.train.update(log_every=5, sample_every=1_000_000)
    config.sample.grid_images = 0
    return config
