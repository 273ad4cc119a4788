"""VQ first stage without attention, f = 4, 64×64×3 latents, 8192 codes: vq-f4-noattn.

Paper: Table 8, appendix G; OpenImages, 8 images per GPU on an unknown number of GPUs.
Command: ldm-jax train --config configs/published/vq_f4_noattn.py --workdir runs/vq_f4_noattn \
  --config.data.source.path=DIR
Published: R-FID 1.06, PSNR 25.21, SSIM 0.76 (trained on OpenImages, measured on ImageNet-Val 256²).
Not retrained here.
"""

from published_base import first_stage_config


def get_config():
    """Returns the configuration."""
    return first_stage_config(
        "autoencoder_vq",
        channel_mult=(1, 2, 4),
        z_channels=3,
        embed_dim=3,
        num_codes=8192,
        mid_attention=False,
        steps=658_131,
        batch_size=8,
    )
