"""VQ first stage, f = 8, 32×32×4 latents, 16384 codes: vq-f8.

Paper: Table 8, appendix G; OpenImages, 10 images per GPU on an unknown number of GPUs.
Command: ldm-jax train --config configs/published/vq_f8.py --workdir runs/vq_f8 \
  --config.data.source.path=DIR
Published: R-FID 1.14, PSNR 23.07, SSIM 0.65 (trained on OpenImages, measured on ImageNet-Val 256²).
Time: 66 V100-days (Table 18).
Not retrained here.
"""

from published_base import first_stage_config


def get_config():
    """Returns the configuration."""
    return first_stage_config(
        "autoencoder_vq",
        channel_mult=(1, 2, 2, 4),
        # The reference's attn_resolutions=32 are pixels of 256.
        attention_factors=(8,),
        z_channels=4,
        embed_dim=4,
        num_codes=16384,
        disc_layers=2,
        disc_weight=0.6,
        steps=971_043,
        batch_size=10,
    )
