"""A first stage with KL or VQ regularisation, or the diffusion model on it.

Paper: section 3.1, Table 8. The argument names the first stage, of Fashion-MNIST at 32×32 or (the
published ones, on CelebA-HQ at 256×256) of f = 4; `model-` before it, the diffusion model on it.
Command: python experiments/kl_or_vq/run.py --size small --data TFDS_DIR
"""

from pathlib import Path

from ldm_jax.cli.config_args import load_config
from ldm_jax.core.checks import check_in

CONFIGS = Path(__file__).parents[2] / "configs"
# KL with its weight, or VQ with its codes; four channels, f = 4.
SMALL = {
    "kl": {"name": "autoencoder_kl"},
    "kl-weak": {"name": "autoencoder_kl"},
    "vq-1024": {"name": "autoencoder_vq", "num_codes": 1024},
    "vq-256": {"name": "autoencoder_vq", "num_codes": 256},
}
KL_WEIGHTS = {"kl": 1e-3, "kl-weak": 1e-6}
PUBLISHED = {"kl-f4": "kl_f4", "vq-f4": "vq_f4", "vq-f4-noattn": "vq_f4_noattn"}
_MODEL = "model-"


def get_config(argument="model-kl"):
    """Returns the configuration of a first stage, or of a diffusion model on it."""
    names = [*SMALL, *PUBLISHED]
    check_in("the config's argument", argument, [*names, *(_MODEL + name for name in names)])
    stage = argument.removeprefix(_MODEL)
    first_stage = _small_stage(stage) if stage in SMALL else _published(PUBLISHED[stage])
    if stage == argument:
        return first_stage
    if stage in SMALL:
        config = load_config(str(CONFIGS / "fashion_mnist_class.py"))
    else:
        config = _published("celebahq")
    with config.unlocked(), config.ignore_type():
        config.task.first_stage.model = first_stage.task.model.to_dict()
        config.task.first_stage.scale_factor = "auto"  # so that one schedule fits all
    return config


def _small_stage(name):
    config = load_config(str(CONFIGS / "fashion_mnist_autoencoder.py"))
    with config.unlocked():
        config.task.model.update(SMALL[name])
        config.task.kl_weight = KL_WEIGHTS.get(name, 0.0)
    return config


def _published(name):
    return load_config(str(CONFIGS / "published" / f"{name}.py"))
