"""The models that are measured, in the words of diffusers' configuration files."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Preset:
    """One text-to-image model and the size of its work.

    Attributes:
      unet: arguments of diffusers' UNet2DConditionModel.
      vae: arguments of diffusers' AutoencoderKL.
      tokens: length of the context.
      batch: images at once, unless the command line says otherwise.
      steps: of DDIM.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    tokens: int = 77
    batch: int = 8
    steps: int = 50

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a latent."""
        return self.unet["sample_size"], self.unet["sample_size"], self.unet["in_channels"]


def _preset(size: int, widths: tuple, context: int, vae_widths: tuple, **fields: Any) -> Preset:
    levels = len(vae_widths)
    unet = {
        "sample_size": size,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": widths,
        "cross_attention_dim": context,
        "attention_head_dim": 8,
        "norm_num_groups": min(32, widths[0]),
    }
    vae = {
        "block_out_channels": vae_widths,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 2,
        "latent_channels": 4,
        "norm_num_groups": min(32, vae_widths[0]),
    }
    return Preset(unet, vae, **fields)


PRESETS = {
    # For the smoke test alone.
    "tiny": _preset(8, (8, 8, 16, 16), 16, (8, 8), tokens=5, batch=2, steps=3),
    # 34,327,748 parameters in the U-Net; 16x16 latents of 64x64 images.
    "small": _preset(16, (64, 128, 256, 256), 128, (64, 128, 128)),
    # Stable Diffusion 1: 859,520,964 parameters in the U-Net; 512x512 images.
    "sd_v1": _preset(64, (320, 640, 1280, 1280), 768, (128, 256, 512, 512), batch=4),
}

_TINY, _SD_V1 = PRESETS["tiny"], PRESETS["sd_v1"]
_TWO_LEVELS = {
    "block_out_channels": (8, 16),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
}
# U-Nets that are trained, on latents and contexts computed beforehand; batches of one device.
TRAINING = {
    "smoke": dataclasses.replace(_TINY, unet={**_TINY.unet, **_TWO_LEVELS}),
    "cpu": PRESETS["small"],
    "sd_v1_256": dataclasses.replace(_SD_V1, unet={**_SD_V1.unet, "sample_size": 32}, batch=64),
    "sd_v1_512": dataclasses.replace(_SD_V1, batch=16),
}
