"""Text-to-image latent diffusion on captioned emoji at 64×64, with a transformer trained jointly.

Paper: section 4.3, at a hundredth of its size. The words are those of the captions
(`emoji_words.txt`); a Hugging Face tokenizer works as well:
  --config.data.tokenizer.name=huggingface with its own `path` in a config of yours. `:small` is
what two CPU cores train in half an hour: see experiments/emoji.
Command: ldm-jax train --config configs/emoji_text.py --workdir runs/emoji_text \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/emoji_autoencoder
"""

from pathlib import Path

import emoji_autoencoder
from ml_collections.config_dict import placeholder

from ldm_jax.core.defaults import base_config

WORDS = tuple((Path(__file__).parent / "emoji_words.txt").read_text().split())
LENGTH = 16


def small(config):
    """The network of `shapes_text.py`, a little wider, on latents of 8×8×8."""
    config.task.model = {
        "name": "unet",
        "out_channels": 8,
        "channels": 64,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attention_factors": (1, 2),
        "num_head_channels": 32,
        "transformer_depth": 1,
        "scale_shift_norm": True,
        "num_groups": 16,
    }
    config.task.conditioner.update(dim=128, depth=2, num_heads=4, pooled_dim=256)
    config.task.conditioner.embedding_std = 1.0
    # v weighs the noisy timesteps, where the caption decides, more than eps does.
    config.task.parameterization = "v"
    config.train.update(
        steps=4000,
        batch_size=32,
        learning_rate=1.5e-3,
        warmup_steps=50,
        b2=0.99,
        ema_decay=0.998,
        log_every=20,
        checkpoint_every=500,
        sample_every=2000,
    )
    config.sample.update(steps=30, guidance_scale=2.0, grid_images=36, per_device_batch=32)


def get_config(size="full"):
    """Returns the configuration, 'full' or 'small'."""
    first_stage = emoji_autoencoder.get_config(size)
    config = base_config()
    config.task = {
        "name": "latent_diffusion",
        "model": {
            "name": "unet",
            "out_channels": 4,
            "channels": 128,
            "channel_mult": (1, 2, 3),
            "num_res_blocks": 2,
            "attention_factors": (1, 2, 4),
            "num_head_channels": 32,
            "transformer_depth": 1,
        },
        "conditioner": {
            "name": "text_transformer",
            "vocab_size": len(WORDS) + 2,  # padding and unknown
            "length": LENGTH,
            "dim": 256,
            "depth": 4,
            "num_heads": 8,
            "head_dim": 32,
        },
        "first_stage": {
            "model": first_stage.task.model.to_dict(),
            "workdir": placeholder(str),
            "scale_factor": "auto",
            "scale_images": 3712,
        },
        "schedule": {"name": "linear", "num_timesteps": 1000, "start": 0.0015, "end": 0.0195},
        "condition_drop_rate": 0.1,
    }
    config.data = {
        **first_stage.data.to_dict(),
        "tokenizer": {"name": "words", "vocabulary": WORDS, "length": LENGTH},
    }
    config.train.update(
        steps=60_000,
        batch_size=128,
        learning_rate=3e-4,
        schedule={"name": "cosine"},
        warmup_steps=1000,
        clip_norm=1.0,
        sample_every=10_000,
    )
    config.sample.update(steps=50, guidance_scale=3.0, grid_images=36)
    if size == "small":
        with config.unlocked(), config.ignore_type():
            small(config)
    return config
