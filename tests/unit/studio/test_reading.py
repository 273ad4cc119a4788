"""How a page asks for what a model reads, for every kind of condition."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ldm_jax.cli.config_args import apply_overrides, load_config
from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import Shapes
from ldm_jax.pipeline.painted import PaintedRegion
from ldm_jax.studio.reading import (
    ARRAY,
    CLASS,
    IMAGE,
    LAYOUT,
    MAP,
    MASKED,
    NOTHING,
    TEXT,
    image_condition,
    painted_condition,
    read_from,
)
from ldm_jax.train import assemble, assemble_data

TINY = Path(__file__).parents[2] / "e2e" / "tiny.py"
SIZE = (16, 16)


def model(name, *overrides):
    """Returns task and configuration of a tiny model, as a pipeline has them."""
    config = load_config(f"{TINY}:{name}")
    apply_overrides(config, ["--config.task.first_stage.workdir=none", *overrides])
    return SimpleNamespace(task=assemble.build_task(config), config=config)


@pytest.mark.parametrize(
    ("name", "kind", "reads"),
    [
        ("text", TEXT, "tokens"),
        ("class", CLASS, "class"),
        ("layout", LAYOUT, "layout"),
        ("semantic", MAP, "segmentation"),
        ("super_resolution", IMAGE, "low_res"),
        ("inpainting", MASKED, "masked_image"),
    ],
)
def test_the_kind_follows_from_the_conditioner(name, kind, reads):
    found = read_from(model(name))
    assert (found.kind, found.name) == (kind, reads)


def test_models_without_a_condition_and_with_vectors():
    plain = model("text", "--config.task.conditioner.name=none")
    assert read_from(plain).kind == NOTHING
    vectors = [
        "--config.task.conditioner.name=identity",
        "--config.task.conditioner.key=neighbours",
        "--config.task.conditioner.route=context",
        "--config.task.conditioner.shape=(4, 8)",
    ]
    found = read_from(model("class", *vectors))
    assert (found.kind, found.shape) == (ARRAY, (4, 8))


def test_painted_boxes_are_the_tokens_of_the_same_boxes_in_data():
    pipeline = model("layout")
    scene = Shapes(16, max_objects=1, seed=4)
    left, top, right, bottom, label = scene[0]["boxes"][0]
    mask = np.zeros(SIZE, np.uint8)
    mask[round(top * 16) : round(bottom * 16), round(left * 16) : round(right * 16)] = 255
    region = PaintedRegion(int(label), mask)
    found = painted_condition(read_from(pipeline), pipeline, [region], SIZE)["layout"]
    wanted = assemble_data.build_examples(pipeline.config, scene, None, [0], ("image", "layout"))
    assert found.shape == wanted["layout"].shape == (1, 8)
    assert found[0, 0] == wanted["layout"][0, 0]  # the class
    np.testing.assert_array_equal(found[0, 3:], wanted["layout"][0, 3:])  # empty places, frame
    corners = found[0, 1:3], wanted["layout"][0, 1:3]
    edge = int(np.sqrt(290))
    np.testing.assert_allclose(*([x // edge, x % edge] for x in corners), atol=1)


def test_painted_classes_are_a_map_and_later_ones_lie_on_top():
    pipeline = model("semantic")
    whole, left = np.full(SIZE, 255, np.uint8), np.zeros(SIZE, np.uint8)
    left[:, :5] = 255
    regions = [PaintedRegion(2, whole), PaintedRegion(4, left)]
    (found,) = painted_condition(read_from(pipeline), pipeline, regions, SIZE)["segmentation"]
    np.testing.assert_array_equal(found[:, :5], 4)
    np.testing.assert_array_equal(found[:, 5:], 2)
    (empty,) = painted_condition(read_from(pipeline), pipeline, [], SIZE)["segmentation"]
    assert not empty.any()


@pytest.mark.parametrize(
    ("name", "regions", "said"),
    [
        ("semantic", [PaintedRegion(5, np.ones(SIZE, np.uint8))], "class 5. Legal: 0 to 4."),
        ("semantic", [PaintedRegion("red", np.ones(SIZE, np.uint8))], "class 'red'"),
        ("layout", [PaintedRegion(1, np.zeros(SIZE, np.uint8))], "Legal: paint 1 or more."),
        ("layout", [PaintedRegion(1, np.full(SIZE, 255, np.uint8))] * 3, "got 3. Legal: up to 2."),
    ],
)
def test_what_cannot_be_painted_is_a_sentence(name, regions, said):
    pipeline = model(name)
    with pytest.raises(UserError) as error:
        painted_condition(read_from(pipeline), pipeline, regions, SIZE)
    assert said in str(error.value)


def test_an_image_that_is_read_has_the_size_and_range_of_training():
    reading = read_from(model("super_resolution"))
    image = np.full((8, 8, 3), 255, np.uint8)
    found = image_condition(reading, image)["low_res"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.ones((1, 8, 8, 3)))
    with pytest.raises(UserError, match="got an image of 4 x 8 pixels"):
        image_condition(reading, image[:4])
