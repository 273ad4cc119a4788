"""Models of a few thousand parameters on 16×16 shapes: `--config tests/e2e/tiny.py:NAME`.

NAME is autoencoder, adversarial, text, class, classifier, or one of layout, semantic,
super_resolution and inpainting. All but the first two need `--config.task.first_stage.workdir=DIR`.
"""

import jax
import numpy as np
from ml_collections.config_dict import placeholder

from ldm_jax.core.defaults import base_config

AUTOENCODER = {
    "name": "autoencoder_kl",
    "channels": 8,
    "channel_mult": (1, 2),
    "num_res_blocks": 0,
    "embed_dim": 2,
    "z_channels": 2,
    "mid_attention": False,
    "num_groups": 4,
}
UNET = {
    "name": "unet",
    "out_channels": 2,
    "channels": 8,
    "channel_mult": (1,),
    "num_res_blocks": 0,
    "num_head_channels": 8,
    "transformer_depth": 1,
    "num_groups": 4,
}
CLASSIFIER = {
    "name": "unet_encoder",
    "out_channels": 24,
    "channels": 8,
    "channel_mult": (1,),
    "num_res_blocks": 0,
    "num_head_channels": 8,
    "num_groups": 4,
}
TEXT = {
    "name": "text_transformer",
    "vocab_size": 24,
    "length": 12,
    "dim": 8,
    "depth": 1,
    "num_heads": 2,
    "head_dim": 4,
}
CONDITIONERS = {
    "text": TEXT,
    "class": {"name": "class_label", "num_classes": 24, "dim": 8},
    "layout": {**TEXT, "key": "layout", "vocab_size": 290, "length": 8},
    "semantic": {
        "name": "spatial_rescaler",
        "num_classes": 5,
        "image_size": 16,
        "num_stages": 1,
    },
    "super_resolution": {
        "name": "identity",
        "key": "low_res",
        "route": "concat",
        "shape": (8, 8, 3),
    },
    "inpainting": {
        "name": "identity",
        "key": "masked_image",
        "route": "concat",
        "shape": (8, 8, 3),
    },
}
# What is made of every example; layout tokens are 16 × 17 corners at the least.
DERIVE = {
    "layout": {"layout": {"num_objects": 2, "vocab_size": 290}},
    "super_resolution": {"low_res": {"factor": 2}},
    "inpainting": {"mask": {}},
}


def get_config(name="autoencoder"):
    """Returns the configuration."""
    config = base_config()
    config.data = {
        "source": {"name": "shapes", "image_size": 16, "max_objects": 1, "num_examples": 64},
        "image_size": 16,
        "num_threads": 1,
        "prefetch": 1,
    }
    if name == "autoencoder":
        config.task = {"name": "autoencoder", "model": AUTOENCODER}
    elif name == "adversarial":
        config.task = {
            "name": "adversarial_autoencoder",
            "model": {**AUTOENCODER, "name": "autoencoder_vq", "num_codes": 16},
            "discriminator": {"name": "patch", "channels": 4, "num_layers": 2},
            "perceptual_weight": 0.0,  # LPIPS' weights are 59 MB
            "reduction": "mean",
            "disc_start": 1,
            "code_init": "data",
            "revive_below": 0.1,
        }
        config.data.holdout = 6
        config.evaluation.update(every=3, images=6, batch_size=4)
    elif name == "classifier":
        config.task = {
            "name": "latent_classifier",
            "model": CLASSIFIER,
            "first_stage": {"model": AUTOENCODER, "workdir": placeholder(str), "scale_images": 8},
            "schedule": {"name": "linear"},
        }
    else:
        first_stage = {"model": AUTOENCODER, "workdir": placeholder(str), "scale_images": 16}
        config.task = {
            "name": "latent_diffusion",
            "model": UNET,
            "conditioner": CONDITIONERS[name],
            "first_stage": first_stage,
        }
    if name in DERIVE:
        config.data.derive = DERIVE[name]
    if name == "text":
        config.data.tokenizer = {"name": "words", "vocabulary": "shapes", "length": 12}
    config.train.update(
        steps=3,
        batch_size=8,
        learning_rate=0.05,  # high enough for conditions to show in the images after three steps
        log_every=1,
        checkpoint_every=3,
        sample_every=3,
        ema_decay=0.9,
    )
    config.sample.update(steps=2, guidance_scale=2.0, grid_images=4, per_device_batch=1)
    return config


def random_weights(shapes):
    """Returns weights like an initialisation's, but none of them zero: every layer shows."""
    draw = np.random.default_rng(0)

    def fill(path, x):
        values = draw.standard_normal(x.shape)
        if x.ndim > 1:
            values *= 1.0 if "embedding" in str(path[-1]) else np.prod(x.shape[:-1]) ** -0.5
        else:
            values = 0.1 * values + ("scale" in str(path[-1]))
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)
