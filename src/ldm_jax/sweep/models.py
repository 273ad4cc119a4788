"""Models that several points of a study, or several studies, share."""

import dataclasses
import hashlib
from pathlib import Path

from ldm_jax.core.checks import UserError
from ldm_jax.core.lock import folder_lock
from ldm_jax.evaluation.features import file_sha256
from ldm_jax.sweep.point import Point
from ldm_jax.train.loop import train

# Overrides that make a training of any model a matter of seconds, at the size `smoke`.
SMOKE = {"train.steps": 2, "train.warmup_steps": 1, "train.batch_size": 4}
SMOKE_DIFFUSION = {**SMOKE, "task.first_stage.scale_images": 16, "sample.per_device_batch": 4}


def files_sha256(path: str | Path) -> str:
    """Returns 16 hexadecimal digits of a model's files: of their names and all that is in them.

    Raises:
      UserError: there are none.
    """
    path = Path(path).expanduser()
    files = sorted(x for x in path.rglob("*") if x.is_file()) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise UserError(f"{path}: no such model. Legal: a folder or file of a trained one.")
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        digest.update(f"{name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()[:16]


def first_stage(name: str, config: str, size: str, data: str | None = None) -> Point:
    """Returns a first stage that a study trains, of seed 0: one serves all seeds of a model.

    Args:
      name: of the point.
      config: as after --config.
      size: of the study.
      data: the place of its data, where they have one.
    """
    places = {} if data is None else {"data.source.path": data}
    return Point(name, config, 0, SMOKE if size == "smoke" else {}, places=places)


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
