"""What a point is, and what makes it another one."""

import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.sweep.point import Point, check_points

CONFIG = """
from ldm_jax.core.defaults import base_config
from ml_collections.config_dict import placeholder

def get_config(width="8"):
    config = base_config()
    config.task = {"name": "t", "model": {"name": "unet", "channels": int(width), "mult": (1, 2)}}
    config.data = {"source": {"name": "folder", "path": placeholder(str)}}
    return config
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "study" / "widths.py"
    path.parent.mkdir()
    path.write_text(CONFIG)
    return path


def test_overrides_places_and_the_seed_are_in_the_configuration(config):
    overrides = {"train.steps": 7, "task.model.mult": (1, 2, 4), "train.schedule.name": "cosine"}
    point = Point("a", f"{config}:16", 3, overrides, places={"data.source.path": "/here"})
    made = point.make_config()
    assert made.seed == 3
    assert (made.train.steps, made.task.model.channels) == (7, 16)
    assert made.task.model.mult == (1, 2, 4)
    assert made.train.schedule.name == "cosine"
    assert made.data.source.path == "/here"


def test_what_changes_a_result_makes_another_point(config):
    key = Point("a", f"{config}:16").key()
    assert len(key) == 16
    assert int(key, 16) >= 0
    others = [
        Point("b", f"{config}:16"),
        Point("a", f"{config}:8"),
        Point("a", f"{config}:16", seed=1),
        Point("a", f"{config}:16", overrides={"train.steps": 7}),
        Point("a", f"{config}:16", settings={"images": 5}),
    ]
    assert len({key, *(point.key() for point in others)}) == 6
    config.write_text(CONFIG.replace("(1, 2)", "(1, 3)"))
    assert Point("a", f"{config}:16").key() != key


def test_the_same_run_said_otherwise_is_the_same_point(config):
    key = Point("a", f"{config}:16", settings={"steps": (1, 2)}).key()
    same = [
        Point("a", f"{config}:16", settings={"steps": [1, 2]}),
        Point("a", f"{config}:16", settings={"steps": (1, 2)}, places={"data.source.path": "/x"}),
        Point("a", str(config), overrides={"task.model.channels": 16}, settings={"steps": (1, 2)}),
        Point("a", f"{config}:16", overrides={"data.source.path": "y"}, settings={"steps": (1, 2)}),
    ]
    assert {point.key() for point in same} == {key}


def test_a_description_names_no_folder_of_the_machine(config):
    overrides = {"data.source.path": "/secret", "task.model.mult": (1, 2)}
    point = Point("a", f"{config}:16", 3, overrides, {"steps": (1, 2)})
    assert point.describe() == {
        "name": "a",
        "config": "study/widths.py:16",
        "seed": 3,
        "overrides": {"task.model.mult": [1, 2]},
        "settings": {"steps": [1, 2]},
    }


def test_points_have_names_of_their_own(config):
    points = [Point("a", str(config)), Point("a", str(config), seed=1)]
    assert list(check_points(points).values()) == points
    with pytest.raises(UserError) as told:
        check_points([*points, Point("a", f"{config}:16")])
    assert str(told.value) == (
        "sweep: two points are named a and have the seed 0. Legal: another name, or another seed."
    )
    with pytest.raises(UserError, match=r"^sweep: got no points. Legal: at least one.$"):
        check_points([])


def test_names_are_those_of_folders_and_places_change_nothing(config):
    with pytest.raises(UserError) as told:
        Point("../a", str(config))
    assert str(told.value) == (
        "sweep: point '../a': legal are letters, digits, and _ . + - after them."
    )
    with pytest.raises(UserError) as told:
        Point("a", str(config), places={"train.steps": 3})
    assert str(told.value).startswith(
        "sweep: point a: 'train.steps' is no place. Legal: an override, or fields named workdir, "
    )


def test_an_override_that_does_not_fit_is_refused(config):
    point = Point("a", str(config), overrides={"train.stepz": 3})
    with pytest.raises(UserError, match=r"has no field 'stepz'; did you mean 'steps'\?"):
        point.key()
