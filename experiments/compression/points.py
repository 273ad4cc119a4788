"""The points of the study: a compression factor and a seed each, at three sizes."""

import dataclasses
from pathlib import Path
from typing import Any

from ldm_jax.sweep.models import files_sha256
from ldm_jax.sweep.point import Point

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OURS = HERE / "fashion_mnist.py"
# Of the size `paper`: the config, and what is scored after which steps, by DDIM with how many.
DATASETS = {
    "imagenet": (
        "compression_imagenet",
        {
            "steps": (125_000, 250_000, 500_000, 1_000_000, 2_000_000),
            "scored_with": 100,
            "reference": 50_000,
        },
    ),
    "celebahq": (
        "compression_celebahq",
        {
            "steps": (62_500, 125_000, 250_000, 500_000),
            "scored_with": 200,
            "reference": 25_000,  # 5,000 of the 30,000 are left to compare with
        },
    ),
}
PAPER_FACTORS = ("1", "2", "4", "8", "16", "32")
# The last of each takes about 25 TFLOP, so that the curves of Figure 6 end together.
SMALL_STEPS = {
    "1": (250, 450, 670),
    "2": (250, 500, 1170),
    "4": (250, 500, 1000, 1670),
    "8": (250, 500, 1000, 2000, 3340),
}
SMOKE_FACTORS = ("1", "4")
SAMPLER_STEPS = (10, 20, 50, 100, 200)  # Figure 7
SIZES = {
    "smoke": {"images": 4, "reference": 16, "scored_with": 2, "sampler_steps": (2, 3)},
    "small": {
        "images": 250,
        "reference": 10_000,
        "scored_with": 50,
        "sampler_steps": SAMPLER_STEPS,
    },
    "paper": {"images": 5_000, "sampler_steps": SAMPLER_STEPS},
}


def make_points(
    size: str,
    seeds: list[int],
    judge: str,
    data: str,
    dataset: str = "imagenet",
    first_stages: Path = Path("first_stages"),
) -> list[Point]:
    """Returns the points of a size, seed by seed.

    Args:
      size: of SIZES.
      seeds: of each factor.
      judge: what tells its extractor from others.
      data: what `config.data.source.path` is.
      dataset: of DATASETS, for the size `paper`.
      first_stages: for `paper`, the folder of trained ones: f2, f4, …, whatever layout they have.
    """
    make = {"smoke": _smoke, "small": _small, "paper": _paper}[size]
    settings = {**SIZES[size], "judge": judge}
    factors = {"smoke": SMOKE_FACTORS, "small": tuple(SMALL_STEPS), "paper": PAPER_FACTORS}[size]
    places = {"data.source.path": data}
    return [
        make(factor, seed, settings, places, dataset, first_stages)
        for seed in seeds
        for factor in factors
    ]


def first_stage(point: Point) -> Point | None:
    """Returns the first stage that a point trains; None where it takes one, or needs none."""
    told: dict[str, Any] | None = point.settings.get("first_stage")
    if told is None or "files" in told:
        return None
    config = f"{OURS}:{told['argument']}"
    places = {"data.source.path": point.places["data.source.path"]}
    return Point("first_stage", config, point.seed, overrides=told["overrides"], places=places)


def _small(factor: str, seed: int, settings: dict, places: dict, *_: Any, **changes: Any) -> Point:
    overrides = changes.get("overrides", {})
    settings = {**settings, "steps": changes.get("steps", SMALL_STEPS[factor])}
    if factor != "1":
        settings["first_stage"] = {
            "argument": f"first_stage_{factor}",
            "overrides": changes.get("stage", {}),
        }
    point = Point(f"LDM-{factor}", f"{OURS}:{factor}", seed, overrides, settings, places)
    # Its configuration is a part of what the result follows from; seeds are told by the point.
    stage = first_stage(dataclasses.replace(point, seed=0))
    if stage is not None:
        settings["first_stage"]["key"] = stage.key()
    return point


def _smoke(factor: str, seed: int, settings: dict, places: dict, *_: Any) -> Point:
    batch = {"train.batch_size": 4, "train.warmup_steps": 1}
    changed = {"task.first_stage.scale_images": 16, "sample.per_device_batch": 4, **batch}
    stage = {"train.steps": 2, **batch}
    return _small(factor, seed, settings, places, overrides=changed, steps=(1, 2), stage=stage)


def _paper(
    factor: str, seed: int, settings: dict, places: dict, dataset: str, first_stages: Path
) -> Point:
    name, scored = DATASETS[dataset]
    settings = {**settings, "dataset": dataset}
    if factor != "1":
        stage = first_stages / f"f{factor}"
        places = {**places, "task.first_stage.workdir": str(stage)}
        settings["first_stage"] = {"files": files_sha256(stage)} if stage.exists() else None
    config = f"{ROOT / 'configs' / 'published' / name}.py:{factor}"
    return Point(f"LDM-{factor}", config, seed, {}, {**settings, **scored}, places)
