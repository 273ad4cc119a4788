"""Text-to-image latent diffusion on captioned emoji at 64×64, with a transformer trained jointly.

Paper: section 4.3, at a hundredth of its size. The words are those of the captions
(`emoji_words.txt`); a Hugging Face tokenizer works as well:
  --config.data.tokenizer.name=huggingface with its own `path` in a config of yours.
Command: ldm-jax train --config configs/emoji_text.py --workdir runs/emoji_text \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/emoji_autoencoder
"""

from pathlib import Path

import emoji_autoencoder
from ml_collections.config_dict import placeholder

from ldm_jax.core.defaults import base_config

WORDS = tuple((Path(__file__).parent / "emoji_words.txt").read_text().split())
LENGTH = 16


def get_config():
    """Returns the configuration."""
    first_stage = emoji_autoencoder.get_config()
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
    return config
