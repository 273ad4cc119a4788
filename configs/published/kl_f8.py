"""KL first stage, f = 8, 32×32×4 latents: kl-f8, that of Stable Diffusion and of churches.

Paper: Table 8, appendix G; OpenImages, 4 images per GPU on an unknown number of GPUs.
Command: ldm-jax train --config configs/published/kl_f8.py --workdir runs/kl_f8 \
  --config.data.source.path=DIR
Published: R-FID 0.90, PSNR 24.19, SSIM 0.69 (trained on OpenImages, measured on ImageNet-Val 256²).
Not retrained here.
"""

from published_base import first_stage_config


def get_config():
    """Returns the configuration."""
    return first_stage_config(
        "autoencoder_kl",
        channel_mult=(1, 2, 4, 4),
        z_channels=4,
        embed_dim=4,
        steps=246_803,
        batch_size=4,
    )
