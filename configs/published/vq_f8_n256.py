"""VQ first stage, f = 8, 32×32×4 latents, 256 codes: vq-f8-n256.

Paper: Table 8, appendix G; OpenImages, 10 images per GPU on an unknown number of GPUs.
Command: ldm-jax train --config configs/published/vq_f8_n256.py --workdir runs/vq_f8_n256 \
  --config.data.source.path=DIR
Published: R-FID 1.49, PSNR 22.35, SSIM 0.62 (trained on OpenImages, measured on ImageNet-Val 256²).
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
        num_codes=256,
        steps=1_608_649,
        batch_size=10,
    )
