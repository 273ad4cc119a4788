"""Models that several points of a study, or several studies, share."""

import dataclasses
from pathlib import Path

from ldm_jax.core.lock import folder_lock
from ldm_jax.sweep.point import Point
from ldm_jax.train.loop import train

# Overrides that make a training of any model a matter of seconds, at the size `smoke`.
SMOKE = {"train.steps": 2, "train.warmup_steps": 1, "train.batch_size": 4}
SMOKE_DIFFUSION = {**SMOKE, "task.first_stage.scale_images": 16, "sample.per_device_batch": 4}


def trained(point: Point, workdir: Path) -> Path:
    """Returns the folder of a trained model, which all points and studies of a workdir share.

    It is trained where it is missing, to its end where it was cut. Of several processes that ask
    for it at the same time one trains it, and the others wait.

    Args:
      point: the model's configuration.
      workdir: of all studies.
    """
    name = f"{point.name}-{point.seed}-{point.key()[:8]}"
    folder = workdir / "models" / name
    with folder_lock(workdir / "models" / "turns" / name, "--workdir", "training", wait=True):
        train(point.make_config(), folder)
    return folder


def trained_on(stage: Point, point: Point, workdir: Path) -> Path:
    """Returns the folder of a diffusion model, trained after its first stage; see `trained`."""
    folder = trained(stage, workdir)
    model = dataclasses.replace(
        point,
        settings={"first_stage": stage.key()},
        places={**point.places, "task.first_stage.workdir": str(folder)},
    )
    return trained(model, workdir)
