"""VQ first stage, f = 16, 16×16×8 latents, 16384 codes: vq-f16.

Paper: Table 8, appendix G; OpenImages, 14 images per GPU on an unknown number of GPUs.
Command: ldm-jax train --config configs/published/vq_f16.py --workdir runs/vq_f16 \
  --config.data.source.path=DIR
Published: R-FID 5.15, PSNR 20.83, SSIM 0.54 (trained on OpenImages, measured on ImageNet-Val 256²).
Not retrained here.
"""

from published_base import first_stage_config


def get_config():
    """Returns the configuration."""
    return first_stage_config(
        "autoencoder_vq",
        channel_mult=(1, 1, 2, 2, 4),
        # The reference's attn_resolutions=16 are pixels of 256.
        attention_factors=(16,),
        z_channels=8,
        embed_dim=8,
        num_codes=16384,
        disc_layers=2,
        steps=1_101_166,
        batch_size=14,
    )
