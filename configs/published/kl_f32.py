"""KL first stage, f = 32, 8×8×64 latents: kl-f32. The argument is the number of latent
channels.

Paper: Table 8, appendix G; OpenImages, 6 images per GPU on an unknown number of GPUs.
Command: ldm-jax train --config configs/published/kl_f32.py --workdir runs/kl_f32 \
  --config.data.source.path=DIR
Published: R-FID 2.04, PSNR 22.27, SSIM 0.61 (trained on OpenImages, measured on ImageNet-Val 256²);
  with 16 channels, `kl_f32.py:16`, R-FID 7.3, PSNR 20.38, SSIM 0.53.
Not retrained here.
"""

from published_base import first_stage_config


def get_config(channels="64"):
    """Returns the configuration of latents with `channels` channels."""
    return first_stage_config(
        "autoencoder_kl",
        channel_mult=(1, 1, 2, 2, 4, 4),
        # The reference's attn_resolutions=16,8 are pixels of 256.
        attention_factors=(16, 32),
        z_channels=int(channels),
        embed_dim=int(channels),
        steps=406_763,
        batch_size=6,
    )
