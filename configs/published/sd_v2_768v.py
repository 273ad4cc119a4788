"""Stable Diffusion 2 at 768×768 with v-prediction; the networks are those of sd_v2_base.

Source: model card of stabilityai/stable-diffusion-2.
Command: ldm-jax train --config configs/published/sd_v2_768v.py --workdir runs/sd_v2_768v \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/kl_f8 \
  --config.data.tokenizer.path=CLIP
Published: from sd_v2_base, 150k steps on v at 512², then these 140k. Not retrained here.
"""

import sd_v2_base


def get_config():
    """Returns the configuration."""
    config = sd_v2_base.get_config()
    config.task.parameterization = "v"
    config.data.image_size = 768
    config.train.update(steps=140_000)
    return config
