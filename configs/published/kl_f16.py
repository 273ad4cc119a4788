"""KL first stage, f = 16, 16×16×16 latents: kl-f16. The argument is the number of
latent channels.

Paper: Table 8, appendix G; OpenImages, 6 images per GPU on an unknown number of GPUs.
Command: ldm-jax train --config configs/published/kl_f16.py --workdir runs/kl_f16 \
  --config.data.source.path=DIR
Published: R-FID 0.87, PSNR 24.08, SSIM 0.68 (trained on OpenImages, measured on ImageNet-Val 256²);
  with 8 channels, `kl_f16.py:8`, R-FID 2.63, PSNR 21.94, SSIM 0.59.
Not retrained here.
"""

from published_base import first_stage_config


def get_config(channels="16"):
    """Returns the configuration of latents with `channels` channels."""
    return first_stage_config(
        "autoencoder_kl",
        channel_mult=(1, 1, 2, 2, 4),
        # The reference's attn_resolutions=16 are pixels of 256.
        attention_factors=(16,),
        z_channels=int(channels),
        embed_dim=int(channels),
        steps=442_998,
        batch_size=6,
    )
