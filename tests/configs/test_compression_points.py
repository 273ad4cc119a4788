"""The compression study at every size: its points, and train steps of their configurations."""

import sys
from pathlib import Path

import jax
import pytest

from ldm_jax.cli.config_args import load_config
from ldm_jax.parallel.matrix_flops import device_flops
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.train.abstract_run import abstract_run, trace_train_step

FOLDER = Path(__file__).parents[2] / "experiments" / "compression"


@pytest.fixture(scope="module")
def study():
    """The modules of the experiment, which find each other as its script does."""
    names = ("points", "report")
    sys.path.insert(0, str(FOLDER))
    try:
        modules = [__import__(name) for name in names]
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:  # another experiment may have files of these names
            sys.modules.pop(name)
    return dict(zip(names, modules, strict=True))


@pytest.fixture(scope="module")
def points(study):
    def make(size, seeds=(0,), **more):
        return study["points"].make_points(size, list(seeds), "judge 1", "data", **more)

    return make


def names(points):
    return [f"{point.name} {point.seed}" for point in points]


def factor(run):
    height = run.task.first_stage.latent_shape(run.task.image_size, run.task.image_size)[0]
    return run.task.image_size // height


def test_each_size_has_its_factors_seed_by_seed(points):
    assert names(points("smoke")) == ["LDM-1 0", "LDM-4 0"]
    small = [f"LDM-{f} {seed}" for seed in (0, 2) for f in (1, 2, 4, 8)]
    assert names(points("small", (0, 2))) == small
    for dataset in ("imagenet", "celebahq"):
        found = points("paper", dataset=dataset)
        assert names(found) == [f"LDM-{f} 0" for f in (1, 2, 4, 8, 16, 32)]


def test_every_point_is_another(points):
    every = [*points("smoke"), *points("small", (0, 1)), *points("paper")]
    every += points("paper", dataset="celebahq")
    assert len({point.key() for point in every}) == len(every) == 2 + 8 + 6 + 6


def test_a_first_stage_is_a_part_of_its_point(study, points):
    first_stage = study["points"].first_stage
    pixels, _, four, _ = points("small")
    assert first_stage(pixels) is None
    assert first_stage(points("paper")[2]) is None
    stage = first_stage(four)
    assert four.settings["first_stage"]["key"] == stage.key()
    other_seed = points("small", (5,))[2]
    assert other_seed.settings == four.settings  # or seeds would have no mean
    settings = [point.make_config().task for point in (four, stage)]
    assert settings[0].first_stage.model.to_dict() == settings[1].model.to_dict()


def test_the_paper_s_size_is_the_paper_s(points):
    four = points("paper", first_stages=Path("stages"))[2]
    config = four.make_config()
    assert config.task.first_stage.workdir == "stages/f4"
    assert config.train.steps == four.settings["steps"][-1] == 2_000_000
    assert (four.settings["images"], four.settings["scored_with"]) == (5000, 100)
    assert list(four.settings["sampler_steps"]) == [10, 20, 50, 100, 200]
    celeba = points("paper", dataset="celebahq")[3].make_config()
    assert (celeba.train.batch_size, celeba.train.steps) == (96, 500_000)


def trace(config):
    run, mesh = abstract_run(config), make_mesh((1, 1, 1), jax.devices()[:1])
    traced = trace_train_step(run, mesh, config.train.batch_size)
    return run, device_flops(traced.jaxpr, 1)


@pytest.mark.slow  # four networks are traced
def test_small_models_are_alike_and_spend_alike(points):
    budgets, parameters = [], []
    for point in points("small"):
        run, flops = trace(point.make_config())
        assert factor(run) == int(point.name.removeprefix("LDM-"))
        budgets.append(flops * point.settings["steps"][-1])
        parameters.append(sum(x.size for x in jax.tree.leaves(run.state.params)))
    assert max(budgets) < 1.15 * min(budgets)
    assert max(parameters) < 1.15 * min(parameters)


@pytest.mark.parametrize("f", ["2", "4", "8"])
def test_small_first_stages_trace(f):
    run, flops = trace(load_config(f"{FOLDER / 'fashion_mnist.py'}:first_stage_{f}"))
    assert run.task.model.downsampling_factor == int(f)
    assert flops > 0


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["imagenet", "celebahq"])
def test_the_paper_s_size_traces(points, dataset):
    per_step = []
    for point in points("paper", dataset=dataset):
        run, flops = trace(point.make_config())
        assert factor(run) == int(point.name.removeprefix("LDM-"))
        per_step.append(flops / run.config.train.batch_size)
    assert per_step == sorted(per_step, reverse=True)  # an image costs less, the higher f
