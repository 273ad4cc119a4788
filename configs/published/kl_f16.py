"""KL first stage, f = 16, 16×16×16 latents: kl-f16.

Paper: Table 8, appendix G; OpenImages, 6 images per GPU on an unknown number of GPUs.
Command: ldm-jax train --config configs/published/kl_f16.py --workdir runs/kl_f16 \
  --config.data.source.path=DIR
Published: R-FID 0.87, PSNR 24.08, SSIM 0.68 (trained on OpenImages, measured on ImageNet-Val 256²).
Not retrained here.
"""

from published_base import first_stage_config


def get_config():
    """Returns the configuration."""
    return first_stage_config(
        "autoencoder_kl",
        channel_mult=(1, 1, 2, 2, 4),
        # The reference's attn_resolutions=16 are pixels of 256.
        attention_factors=(16,),
        z_channels=16,
        embed_dim=16,
        steps=442_998,
        batch_size=6,
    )
