"""Every study at every size: its points, train steps of their configurations, and its page."""

import importlib.util
import sys
from pathlib import Path

import jax
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.sweep.page import fill_page
from ldm_jax.sweep.point import check_points
from ldm_jax.sweep.results import read_rows
from ldm_jax.sweep.study import parse_arguments
from ldm_jax.train.abstract_run import abstract_run, trace_train_step

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
STUDIES = sorted(
    path.parent.name
    for path in EXPERIMENTS.glob("*/run.py")
    if "\nSTUDY = Study(" in path.read_text()
)
# What the size `paper` needs beside data.
PAPER = {
    "compression": [],
    "kl_or_vq": ["--first_stages", "stages"],
    "guidance": ["--model", "model"],
    "inpainting_cost": ["--first_stages", "stages"],
    "latent_scale": ["--first_stage", "stage"],
    "parameterization": ["--first_stage", "stage"],
    "samplers": ["--model", "model"],
}


@pytest.fixture(scope="module")
def load():
    """Imports the run.py of a study, which finds its neighbours as its command does."""
    loaded = {}

    def study(name):
        if name not in loaded:
            folder = EXPERIMENTS / name
            known = set(sys.modules)
            sys.path.insert(0, str(folder))
            try:
                spec = importlib.util.spec_from_file_location(f"study_{name}", folder / "run.py")
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
            finally:
                sys.path.remove(str(folder))
                for other in {path.stem for path in folder.glob("*.py")} - known:
                    sys.modules.pop(other, None)  # another study may have files of these names
            loaded[name] = module.STUDY
        return loaded[name]

    return study


def make_points(study, size, *more):
    arguments = parse_arguments(study, ["--size", size, "--data", "data", *more])
    return study.make_points(arguments, "judge 1")


def trace(point):
    config = point.make_config()
    run, mesh = abstract_run(config), make_mesh((1, 1, 1), jax.devices()[:1])
    return trace_train_step(run, mesh, config.train.batch_size)


def test_the_issue_s_eight_are_here():
    assert sorted([*PAPER, "conditioning"]) == STUDIES


@pytest.mark.parametrize("name", STUDIES)
def test_points_differ_and_seeds_are_theirs_alone(load, name):
    study = load(name)
    small = make_points(study, "small", "--seeds", "0", "3")
    smoke = make_points(study, "smoke")
    keys = [*check_points(small), *check_points(smoke)]
    assert len(set(keys)) == len(small) + len(smoke)
    half = len(small) // 2
    for point, other in zip(small[:half], small[half:], strict=True):
        assert (point.name, point.seed, other.seed) == (other.name, 0, 3)
        assert (point.overrides, point.settings) == (other.overrides, other.settings)
    assert len(smoke) >= 2
    assert str(EXPERIMENTS) not in str([point.describe() for point in small])


@pytest.mark.parametrize("name", STUDIES)
def test_smoke_traces(load, name):
    first, *_, last = make_points(load(name), "smoke")
    for point in (first, last):
        assert trace(point).jaxpr.eqns


@pytest.fixture
def given(tmp_path):
    """Returns the flags of the size `paper`, with a folder of made-up models."""

    def flags(name):
        for stage in ("kl-f4", "vq-f4", "vq-f4-noattn"):
            (tmp_path / stage).mkdir(exist_ok=True)
            (tmp_path / stage / "weights").write_text(stage)
        return [PAPER[name][0], str(tmp_path)] if PAPER[name] else []

    return flags


@pytest.mark.slow  # the published networks are large
@pytest.mark.parametrize("name", PAPER)
def test_the_paper_s_size_traces(load, given, name):
    points = make_points(load(name), "paper", *given(name))
    different = {str(point.make_config().task): point for point in points}
    for point in different.values():
        assert trace(point).jaxpr.eqns


@pytest.mark.parametrize("name", [name for name, more in PAPER.items() if more])
def test_the_paper_s_size_asks_for_what_it_needs(load, name):
    study = load(name)
    flag = PAPER[name][0]
    with pytest.raises(UserError, match=f"{flag}=None: legal with --size=paper"):
        make_points(study, "paper")
    with pytest.raises(UserError, match=f"{flag}=.*: legal with --size=paper"):
        make_points(study, "small", *PAPER[name])


@pytest.mark.parametrize("name", ["guidance", "latent_scale", "kl_or_vq"])
def test_other_weights_make_other_points(load, given, tmp_path, name):
    study, flags = load(name), given(name)
    first = list(check_points(make_points(study, "paper", *flags)))
    assert list(check_points(make_points(study, "paper", *flags))) == first
    for stage in tmp_path.iterdir():
        (stage / "weights").write_text("trained for longer")
    assert not set(check_points(make_points(study, "paper", *flags))) & set(first)


@pytest.mark.parametrize("name", STUDIES)
def test_the_page_shows_what_was_measured(load, name, tmp_path):
    """Holds once there are results: table and sentences follow from the file."""
    study = load(name)
    page, rows = study.folder / "README.md", read_rows(study.folder / "results.jsonl")
    text = study.write_report(rows, tmp_path) if rows else ""
    copy = tmp_path / "README.md"
    copy.write_text(page.read_text())
    fill_page(copy, "small", text)
    assert copy.read_text() == page.read_text()
