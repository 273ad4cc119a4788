"""One point: both stages trained, images scored on the way, and sampling timed in the end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from points import first_stage

from ldm_jax.parallel.matrix_flops import device_flops
from ldm_jax.parallel.mesh import batch_shards, make_mesh
from ldm_jax.pipeline import Pipeline
from ldm_jax.sweep.drawing import draw, draw_timed
from ldm_jax.sweep.judge import Judge, open_judge, real_images
from ldm_jax.sweep.kept import kept
from ldm_jax.sweep.models import trained
from ldm_jax.sweep.point import Point
from ldm_jax.train.abstract_run import abstract_run, trace_train_step
from ldm_jax.train.hooks import METRICS_FILE
from ldm_jax.train.loop import train


def measure_point(
    point: Point, folder: Path, *, extractor: Mapping[str, Any], arguments: Any = None
) -> dict[str, Any]:
    """Returns scores over training and over steps of sampling; it goes on from what was kept.

    Args:
      point: of `points.make_points`.
      folder: of the point.
      extractor: name and weights of the judge's.
      arguments: of the command, all of which the point knows.
    """
    del arguments
    config, settings = point.make_config(), point.settings
    judge = open_judge(config, extractor, settings["reference"])
    stage = first_stage(point)
    if stage is not None:
        config.task.first_stage.workdir = str(trained(stage, folder.parents[1]))
    costs = kept(folder / "costs.json", lambda: _costs(config))

    over_training = []
    for steps in settings["steps"]:
        score = folder / f"score_{steps}.json"
        if not score.is_file():
            config.train.steps = steps
            train(config, folder / "diffusion")
        over_training.append(kept(score, lambda: _score(settings, judge, folder, costs)))
    over_sampling = [
        kept(
            folder / f"sampling_{count}.json",
            lambda count=count: _sample(judge, folder, count, settings),
        )
        for count in settings["sampler_steps"]
    ]
    bounds = kept(folder / "bounds.json", lambda: _bounds(judge, folder, settings))
    last = over_training[-1]
    return {
        "scores": last["scores"],
        "checkpoint_step": last["step"],
        "seconds": last["seconds"],
        **costs,
        **bounds,
        "over_training": over_training,
        "over_sampling": over_sampling,
    }


def _score(settings: Mapping, judge: Judge, folder: Path, costs: Mapping) -> dict[str, Any]:
    """Returns the scores of the newest checkpoint, and what it has cost."""
    pipeline = Pipeline.from_checkpoint(folder / "diffusion")
    images = draw(pipeline, settings["images"], steps=settings["scored_with"])
    rows = map(json.loads, (folder / "diffusion" / METRICS_FILE).read_text().splitlines())
    seconds = next(row["useful_seconds"] for row in rows if row["step"] == pipeline.step)
    return {
        "step": pipeline.step,
        "training_flops": costs["flops_per_step"] * pipeline.step,
        "seconds": round(seconds, 1),
        "scores": judge.scores(images),
    }


def _sample(judge: Judge, folder: Path, steps: int, settings: Mapping) -> dict[str, Any]:
    """Returns scores and throughput of the last checkpoint, decoding included."""
    pipeline = Pipeline.from_checkpoint(folder / "diffusion")
    images, seconds = draw_timed(pipeline, settings["images"], steps=steps)
    found = {"steps": steps, "images_per_second": len(images) / seconds}
    return {**found, "scores": judge.scores(images)}


def _bounds(judge: Judge, folder: Path, settings: Mapping) -> dict[str, Any]:
    """Returns the scores of other real images, and of these after the first stage."""
    pipeline = Pipeline.from_checkpoint(folder / "diffusion")
    images = real_images(pipeline.config, settings["reference"], settings["images"])["image"]
    decoded = pipeline.reconstruct(images)
    return {"real": judge.scores(images), "reconstructed": judge.scores(decoded)}


def _costs(config: Any) -> dict[str, float]:
    """Returns parameters, and the FLOPs of a train step, the first stage's encoder included."""
    run, mesh = abstract_run(config), make_mesh(config.train.mesh)
    traced = trace_train_step(run, mesh, config.train.batch_size // batch_shards(mesh))
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(run.state.params)),
        "flops_per_step": device_flops(traced.jaxpr, mesh.size) * mesh.size,
    }
