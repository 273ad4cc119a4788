"""What the small first stages share: the paper's losses and latents, at widths for small images.

Latents have the channels of Table 8 (f = 1, where the paper works on pixels, those of f = 2).
Codebooks have 1024 codes, started from data and revived when dead, since small data sets do not
fill 16,384. The recipe, and what was learned of it, is in experiments/first_stage/README.md:
`disc_start` at half of the run, one learning rate for both players, `reduction` 'mean'.
"""

from typing import Any

from ml_collections import ConfigDict

from ldm_jax.core.checks import check_in
from ldm_jax.core.defaults import base_config

CHANNEL_MULT = {
    1: (1,),
    2: (1, 2),
    4: (1, 2, 4),
    8: (1, 2, 2, 4),
    16: (1, 1, 2, 2, 4),
    32: (1, 1, 2, 2, 4, 4),
}
LATENT_CHANNELS = {
    "kl": {1: 2, 2: 2, 4: 3, 8: 4, 16: 16, 32: 64},
    "vq": {1: 2, 2: 2, 4: 3, 8: 4, 16: 8, 32: 16},
}
STAGES = tuple(f"{kind}_f{factor}" for kind in LATENT_CHANNELS for factor in CHANNEL_MULT)


def first_stage_config(stage: str, **model: Any) -> ConfigDict:
    """Returns the configuration of a stage without its data; `model` are fields of all."""
    kind, _, factor = check_in("the config's argument", stage, STAGES).partition("_f")
    channels = LATENT_CHANNELS[kind][int(factor)]
    config = base_config()
    config.task = {
        "name": "adversarial_autoencoder",
        "model": {
            "name": f"autoencoder_{kind}",
            "channel_mult": CHANNEL_MULT[int(factor)],
            "z_channels": channels,
            "embed_dim": channels,
            **model,
        },
        "discriminator": {"name": "patch", "channels": 64, "num_layers": 3},
        "reduction": "mean",
        "perceptual_weight": 1.0,
        "disc_weight": 0.5,
    }
    if kind == "kl":
        config.task.kl_weight = 1e-6
    else:
        config.task.model.num_codes = 1024
        config.task.update(code_init="data", revive_below=0.05)
    config.train.update(
        learning_rate=5e-4,
        schedule={"name": "cosine"},
        warmup_steps=200,
        b1=0.5,
        b2=0.9,
        weight_decay=0.0,
        clip_norm=1.0,
        ema_decay=0.999,
        sample_every=2000,
    )
    config.evaluation.update(every=1000, metrics=("psnr", "ssim", "lpips"))
    return config
