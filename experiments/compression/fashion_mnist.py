"""LDM-{1,2,4,8} and their first stages on Fashion-MNIST at 32×32, for two CPU cores.

Paper: section 4.1 and Table 13, scaled down: a U-Net has one level less per halving of the latent,
so that all of them end at 4×4 cells, and the latents have the paper's channels. f = 1 works on
pixels. First stages are KL autoencoders without perceptual and adversarial terms, as in
configs/fashion_mnist_autoencoder.py. The argument is f, or first_stage_f.
Command: python experiments/compression/run.py --size small --data TFDS_DIR
"""

from pathlib import Path

from ldm_jax.cli.config_args import load_config
from ldm_jax.core.checks import check_in

CONFIGS = Path(__file__).parents[2] / "configs"
# Of the first stage: multipliers of its channels, and the channels of the latent.
FIRST_STAGES = {"2": ((1, 2), 2), "4": ((1, 2, 4), 3), "8": ((1, 2, 2, 4), 4)}
# Of the U-Net: channels, their multipliers, attention factors. All have about 3M parameters.
UNETS = {
    "1": (32, (1, 1, 2, 4), (4, 8)),
    "2": (32, (1, 2, 4), (2, 4)),
    "4": (64, (1, 2), (1, 2)),
    "8": (128, (1,), (1,)),
}
_STAGE = "first_stage_"


def get_config(argument="4"):
    """Returns the configuration of LDM-f, or of a first stage."""
    stages = [_STAGE + factor for factor in FIRST_STAGES]
    check_in("the config's argument", argument, [*UNETS, *stages])
    factor = argument.removeprefix(_STAGE)
    return _first_stage(factor) if argument in stages else _diffusion(factor)


def _first_stage(factor):
    config = load_config(str(CONFIGS / "fashion_mnist_autoencoder.py"))
    channel_mult, latent = FIRST_STAGES[factor]
    config.task.model.update(channel_mult=channel_mult, z_channels=latent, embed_dim=latent)
    config.train.sample_every = config.train.steps
    return config


def _diffusion(factor):
    config = load_config(str(CONFIGS / "fashion_mnist_class.py"))
    channels, channel_mult, attention_factors = UNETS[factor]
    with config.unlocked(), config.ignore_type():
        if factor == "1":
            config.task.first_stage.model = {"name": "identity", "image_channels": 1}
            config.task.model.out_channels = 1
        else:
            stage = _first_stage(factor).task.model
            config.task.first_stage.model = stage.to_dict()
            config.task.model.out_channels = stage.embed_dim
        config.task.model.update(
            channels=channels, channel_mult=channel_mult, attention_factors=attention_factors
        )
        config.task.conditioner.dim = 4 * channels
        config.task.conditioner.null_class = False
        config.task.condition_drop_rate = 0.0  # as in the paper's Figure 6, nothing is guided
        # Checkpoints on the way are scored, which a decay to the end of the run would hold back.
        config.train.schedule = {"name": "constant"}
    config.train.update(batch_size=32, learning_rate=1e-3, sample_every=1_000_000)
    config.sample.update(guidance_scale=1.0, grid_images=0, per_device_batch=50)
    return config
