"""What the published models share; each file beside this one states what is its own.

The files are lab records of Rombach et al. 2022 (arXiv 2112.10752v2, "the paper") and of the
reference's YAML files. The architectures are the published ones, to the last parameter. The
results they quote are the paper's: none of these models was retrained here.

  - First stages: the losses are the reference's as it ran them, with the dropout in LPIPS and the
    codebook's beta that it did not mean; `task.reference=False` mends both.
    The discriminator starts at step 50,001 of KL and 250,001 of VQ models. Some of the reference's
    files say 0, 1 or 11; those seem to be of runs that had been resumed.
  - `batch_size` is the published batch; where only the batch of one GPU is known, it is that one.
    `scale_learning_rate` then gives the learning rate of that batch.
  - `steps` is the published number of iterations, and where none is, the default.
  - Data are folders of images. What a model is conditioned on lies beside them (captions, classes,
    boxes, label maps), or `config.data.derive` makes it of each example: layouts of boxes, masks,
    low resolutions, and CLIP embeddings of neighbours from .npy files.
  - The reference drops no condition in training (its code has nothing for it), though some models
    were sampled with guidance. Those drop a tenth here, as Stable Diffusion did.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from ldm_jax.core.defaults import base_config

# What the reference's two losses do not share (`ldm/modules/losses/contperceptual.py`, and
# `vqperceptual.py` of taming-transformers).
_LOSSES: dict[str, dict[str, Any]] = {
    "autoencoder_kl": {
        "reduction": "sum",
        "kl_weight": 1e-6,
        "disc_start": 50_001,
        "disc_weight": 0.5,
    },
    "autoencoder_vq": {
        "reduction": "mean",
        "codebook_weight": 1.0,
        "disc_start": 250_001,
        "disc_weight": 0.75,
    },
}


def first_stage_config(
    name: str,
    *,
    steps: int,
    batch_size: int,
    disc_layers: int = 3,
    disc_weight: float | None = None,
    **model: Any,
) -> ConfigDict:
    """Returns the configuration of an autoencoder whose fields are `model`.

    Args:
      name: autoencoder_kl or autoencoder_vq.
      steps: of training.
      batch_size: of all devices.
      disc_layers: of the discriminator, `num_layers`.
      disc_weight: None takes that of most models of the kind.
      **model: fields of the autoencoder.
    """
    config = base_config()
    config.task = {
        "name": "adversarial_autoencoder",
        "model": {"name": name, **model},
        "discriminator": {"name": "patch", "num_layers": disc_layers},
        "reference": True,
        **_LOSSES[name],
    }
    if disc_weight is not None:
        config.task.disc_weight = disc_weight
    config.data = {
        "source": {"name": "folder", "path": placeholder(str)},
        "image_size": 256,
        "random_crop": True,
    }
    config.train.update(
        steps=steps,
        batch_size=batch_size,
        learning_rate=4.5e-6,
        scale_learning_rate=True,
        b1=0.5,
        b2=0.9,
        weight_decay=0.0,
        ema_decay=0.0,  # the reference averages no autoencoder
    )
    return config


def latent_diffusion_config(
    first_stage: Mapping[str, Any],
    unet: Mapping[str, Any],
    conditioner: Mapping[str, Any] | None = None,
    *,
    betas: tuple[float, float] = (0.0015, 0.0195),
    scale_factor: float | str = 1.0,
    image_size: int = 256,
    **task: Any,
) -> ConfigDict:
    """Returns the configuration of a diffusion model on latents of a first stage.

    Args:
      first_stage: `task.model` of the first stage's configuration.
      unet: fields of the U-Net; its `out_channels` are those of the latent.
      conditioner: name and fields; None for an unconditional model.
      betas: the ends of the schedule, which is linear in sqrt(beta) over 1000 timesteps.
      scale_factor: what latents are multiplied by, 1.0 for quantised first stages.
      image_size: in pixels.
      **task: other fields of the task.
    """
    config = base_config()
    start, end = betas
    config.task = {
        "name": "latent_diffusion",
        "model": {"name": "unet", "out_channels": first_stage.get("embed_dim", 3), **unet},
        "conditioner": {"name": "none"} if conditioner is None else dict(conditioner),
        "first_stage": {
            "model": dict(first_stage.items()),
            "workdir": placeholder(str),
            "scale_factor": scale_factor,
        },
        "schedule": {"name": "linear", "num_timesteps": 1000, "start": start, "end": end},
        "condition_drop_rate": 0.0,
        **task,
    }
    config.data = {
        "source": {"name": "folder", "path": placeholder(str)},
        "image_size": image_size,
    }
    return config


def huggingface_tokenizer(length: int = 77) -> dict[str, Any]:
    """Returns `data.tokenizer` for a local folder that holds a Hugging Face tokenizer."""
    return {"name": "huggingface", "path": placeholder(str), "length": length}
