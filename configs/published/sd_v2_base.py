"""Stable Diffusion 2 base at 512×512: v1 with heads of 64 channels and OpenCLIP's text encoder.

Source: model card of stabilityai/stable-diffusion-2-base.
Command: ldm-jax train --config configs/published/sd_v2_base.py --workdir runs/sd_v2_base \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/kl_f8 \
  --config.data.tokenizer.path=CLIP
CLIP is the folder `tokenizer` of the published model, which pads with 0.
Published: 550k steps at 256², then these 850k. Not retrained here.
"""

import sd_v1


def get_config():
    """Returns the configuration."""
    config = sd_v1.get_config()
    unet = config.task.model
    del unet.num_heads
    unet.update(num_head_channels=64, linear_projections=True)
    # ViT-H/14 without its last layer.
    config.task.conditioner.update(dim=1024, depth=23, num_heads=16, activation="gelu")
    config.train.update(steps=850_000)
    return config
