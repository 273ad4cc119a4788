"""Label maps and classes of shapes at 32×32, each by concatenation and by cross-attention.

Paper: section 3.3, the switch of Figure 3. The argument is the condition and its route.
Command: python experiments/conditioning/run.py --size small
"""

from pathlib import Path

from ldm_jax.cli.config_args import load_config
from ldm_jax.core.checks import check_in

SHAPES = Path(__file__).parents[2] / "configs" / "shapes_tasks.py"
_EDGE, _LATENT, _WIDTH = 32, 8, 8
CONDITIONERS = {
    "map-concat": {
        "name": "spatial_rescaler",
        "num_classes": 5,
        "image_size": _EDGE,
        "out_channels": _WIDTH,
    },
    "map-attention": {
        "name": "routes:MapTokens",
        "num_classes": 5,
        "image_size": _EDGE,
        "dim": 64,
    },
    "class-concat": {
        "name": "routes:ClassMap",
        "num_classes": 24,
        "edge": _LATENT,
        "dim": _WIDTH,
    },
    "class-attention": {"name": "class_label", "num_classes": 24, "dim": 64, "null_class": False},
}


def get_config(argument="map-concat"):
    """Returns the configuration of a condition and its route; all have the same network."""
    check_in("the config's argument", argument, CONDITIONERS)
    task = "semantic" if argument.startswith("map") else "class"
    config = load_config(f"{SHAPES}:{task}")
    with config.unlocked(), config.ignore_type():
        config.task.conditioner = CONDITIONERS[argument]
        config.task.condition_drop_rate = 0.0
        # Without a context these are layers of self-attention, and all else is the same.
        config.task.model.transformer_depth = 1
        config.task.model.attention_factors = (1, 2)
    config.train.update(steps=800, sample_every=1_000_000)
    config.sample.update(guidance_scale=1.0, grid_images=0)
    return config
