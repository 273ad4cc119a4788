"""Stable Diffusion v1 at 512×512: the last stage of v1-4, whose captions are dropped.

Source: model card and configs/stable-diffusion/v1-inference.yaml of CompVis/stable-diffusion.
Command: ldm-jax train --config configs/published/sd_v1.py --workdir runs/sd_v1 \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/kl_f8 \
  --config.data.tokenizer.path=CLIP
CLIP is a folder with the tokenizer of openai/clip-vit-large-patch14.
Published: 237k steps at 256², 194k at 512², 515k on aesthetic images (v1-2), then these 225k;
  32 × 8 A100, 150,000 A100-hours. Samples: 50 steps, guidance 7.5. Not retrained here.
"""

import kl_f8
from published_base import huggingface_tokenizer, latent_diffusion_config


def get_config():
    """Returns the configuration."""
    config = latent_diffusion_config(
        kl_f8.get_config().task.model,
        {
            "channels": 320,
            "channel_mult": (1, 2, 4, 4),
            "attention_factors": (1, 2, 4),
            "num_heads": 8,
            "transformer_depth": 1,
            "remat": "blocks",
        },
        {"name": "clip_text"},
        betas=(0.00085, 0.012),
        scale_factor=0.18215,
        image_size=512,
        train_conditioner=False,
        condition_drop_rate=0.1,
    )
    config.data.tokenizer = huggingface_tokenizer()
    config.train.update(
        steps=225_000,
        batch_size=2048,
        accumulation=2,
        schedule={"name": "lambda_linear"},
        warmup_steps=10_000,
    )
    config.sample.update(steps=50, spacing="reference", guidance_scale=7.5)
    return config
