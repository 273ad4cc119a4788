"""KL first stage, f = 32, 8×8×64 latents: kl-f32.

Paper: Table 8, appendix G; OpenImages, 6 images per GPU on an unknown number of GPUs.
Command: ldm-jax train --config configs/published/kl_f32.py --workdir runs/kl_f32 \
  --config.data.source.path=DIR
Published: R-FID 2.04, PSNR 22.27, SSIM 0.61 (trained on OpenImages, measured on ImageNet-Val 256²).
Not retrained here.
"""

from published_base import first_stage_config


def get_config():
    """Returns the configuration."""
    return first_stage_config(
        "autoencoder_kl",
        channel_mult=(1, 1, 2, 2, 4, 4),
        # The reference's attn_resolutions=16,8 are pixels of 256.
        attention_factors=(16, 32),
        z_channels=64,
        embed_dim=64,
        steps=406_763,
        batch_size=6,
    )
