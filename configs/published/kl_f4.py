"""KL first stage, f = 4, 64×64×3 latents: kl-f4.

Paper: Table 8, appendix G; OpenImages, 10 images per GPU on an unknown number of GPUs.
Command: ldm-jax train --config configs/published/kl_f4.py --workdir runs/kl_f4 \
  --config.data.source.path=DIR
Published: R-FID 0.27, PSNR 27.53, SSIM 0.82 (trained on OpenImages, measured on ImageNet-Val 256²).
Not retrained here.
"""

from published_base import first_stage_config


def get_config():
    """Returns the configuration."""
    return first_stage_config(
        "autoencoder_kl",
        channel_mult=(1, 2, 4),
        z_channels=3,
        embed_dim=3,
        steps=176_991,
        batch_size=10,
    )
