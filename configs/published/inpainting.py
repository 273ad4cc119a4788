"""Inpainting on Places at 256×256, 215M parameters, over one of four first stages.

Paper: section 4.5, Tables 6, 7 and 15. The argument names the row of Table 6: vq_f4 (the default),
vq_f4_noattn, kl_f4, or none for LDM-1. Masks are drawn, wide strokes and boxes as LaMa's; of them
and the images the task makes `masked_image`: the latent of the image with its holes at -1, and the
mask at the latent's size, -1 and 1 in the holes.
Command: ldm-jax train --config configs/published/inpainting.py --workdir runs/inpainting \
  --config.data.source.path=DIR --config.task.first_stage.workdir=runs/vq_f4
Published: FID 2.15 (40–50 % masked: 11.87), LPIPS 0.144 for vq_f4; 2.37 (12.60), 0.145 for
  vq_f4_noattn; 30k crops of 512². Table 6, FID on 2k after 6 epochs: vq_f4 14.99, vq_f4_noattn
  15.95, kl_f4 15.21, none 24.74.
Time: 7.04, 6.66, 7.66 and 20.66 hours an epoch on 8 V100. Not retrained here.
"""

import kl_f4
import vq_f4
import vq_f4_noattn
from published_base import latent_diffusion_config

FIRST_STAGES = {
    "vq_f4": vq_f4.get_config().task.model,
    "vq_f4_noattn": vq_f4_noattn.get_config().task.model,
    "kl_f4": kl_f4.get_config().task.model,
    "none": {"name": "identity"},
}


def get_config(first_stage="vq_f4"):
    """Returns the configuration for one of `FIRST_STAGES`."""
    edge = 256 if first_stage == "none" else 64
    config = latent_diffusion_config(
        FIRST_STAGES[first_stage],
        {
            "channels": 128,
            "channel_mult": (1, 4, 8),
            "attention_factors": (8, 16, 32),  # no level has them: attention is in the middle
            "num_heads": 8,
        },
        {
            "name": "identity",
            "key": "masked_image",
            "route": "concat",
            "shape": (edge, edge, 4),
        },
        betas=(0.0015, 0.0205),  # these and the loss as in inpainting_big: not published
        scale_factor="auto" if first_stage == "kl_f4" else 1.0,
        loss_name="l1",
    )
    config.data.derive = {"mask": {}}
    # Table 15 prints 1e-6, which looks like the rate per image.
    config.train.update(steps=360_000, batch_size=128, learning_rate=1e-6, scale_learning_rate=True)
    config.sample.update(steps=50, spacing="reference")
    return config
