"""LDM-4 for ×4 super-resolution on ImageNet, 64×64 to 256×256: bsr_sr.

Paper: section 4.4, Tables 5, 11 and 15. `low_res`, float32 [64, 64, 3] in [-1, 1], is made of
the images: the YAML degrades with bsrgan_light, the tables are for bicubic downsampling with
antialiasing, which is --config.data.derive.low_res.kind=bicubic. The crop is the largest square,
anywhere; the reference's has a random side of half of it or more.
Command: ldm-jax train --config configs/published/super_resolution.py \
  --workdir runs/super_resolution --config.data.source.path=DIR \
  --config.task.first_stage.workdir=runs/vq_f4
Published: FID 2.8 (training features: 4.8), IS 166.3, PSNR 24.4, SSIM 0.69; 100 steps,
  ImageNet-Val, 4.62 images/s on an A100. Not retrained here.
"""

import vq_f4
from published_base import latent_diffusion_config


def get_config():
    """Returns the configuration."""
    config = latent_diffusion_config(
        vq_f4.get_config().task.model,
        # Not reproduced: the tables print 169M, and 552M for "big". The published YAML has
        # 113,622,563; with scale_shift_norm and resblock_updown it would have 129,338,403.
        {
            "channels": 160,
            "channel_mult": (1, 2, 2, 4),
            "attention_factors": (8, 16),  # the 16 is no level
            "num_head_channels": 32,
        },
        {"name": "identity", "key": "low_res", "route": "concat", "shape": (64, 64, 3)},
        betas=(0.0015, 0.0155),
    )
    config.data.random_crop = True
    config.data.derive = {"low_res": {"factor": 4, "kind": "bsr_light"}}
    config.train.update(steps=860_000, batch_size=64, learning_rate=1e-6, scale_learning_rate=True)
    config.sample.update(steps=100, spacing="reference")
    return config
