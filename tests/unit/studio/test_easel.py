"""What the easel sends is checked before anything is made of it."""

import json

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.pipeline.painted import PaintedRegion
from ldm_jax.studio.easel import easel_json, layers_of, painted_mask, painted_regions, selected
from ldm_jax.studio.files import as_data_url
from ldm_jax.studio.reading import CLASS, TEXT, Reading
from ldm_jax.studio.settings import Settings

SIZE = (8, 8)


def mask():
    painted = np.zeros(SIZE, np.uint8)
    painted[2:5, 1:4] = 255
    return painted


def paint(**layers):
    return json.dumps({"layers": {name: as_data_url(x) for name, x in layers.items()}})


def form(**changes):
    fields = {f"region{k}_{name}": 1.0 for k in (1, 2) for name in ("weight", "feather")}
    return {**fields, "region1_prompt": "a cross", "region2_prompt": "", **changes}


def test_layers_that_go_to_the_easel_come_back_from_it():
    regions = (PaintedRegion("a cross", mask(), 1.0, 1.0),)
    sent = json.loads(
        easel_json(np.zeros((2, *SIZE, 3), np.uint8), layers_of(Settings(regions=regions)))
    )
    assert sent["size"] == list(SIZE)
    assert len(sent["images"]) == 2
    (found,) = painted_regions(json.dumps(sent), form(), Reading(TEXT, most=2), SIZE)
    assert found.prompt == "a cross"
    np.testing.assert_array_equal(found.mask, mask())


def test_a_layer_without_paint_is_no_region():
    sent = paint(**{"1": mask(), "2": 0 * mask()})
    assert len(painted_regions(sent, form(), Reading(TEXT, most=2), SIZE)) == 1


def test_a_region_says_what_belongs_there():
    with pytest.raises(UserError, match="region 2: is painted, but has no prompt"):
        painted_regions(paint(**{"2": mask()}), form(), Reading(TEXT, most=2), SIZE)
    with pytest.raises(UserError, match=r"region 1: got .a cross.\. Legal: a class number"):
        painted_regions(paint(**{"1": mask()}), form(), Reading(CLASS, most=2), SIZE)


def test_a_mark_is_there_where_it_must_be():
    np.testing.assert_array_equal(painted_mask(paint(mask=mask()), SIZE), mask())
    assert painted_mask("", SIZE, wanted=False) is None
    with pytest.raises(UserError, match="nothing is marked"):
        painted_mask(paint(mask=0 * mask()), SIZE)


@pytest.mark.parametrize("sent", ["{", "[" * 100_000])
def test_what_is_no_json_is_a_sentence(sent):
    with pytest.raises(UserError, match="not legal"):
        selected(sent)


@pytest.mark.parametrize("sent", ["", "[]", '{"selected": -1}', '{"selected": "0"}'])
def test_the_first_picture_is_chosen_unless_another_is(sent):
    assert selected(sent) == 0
    assert selected('{"selected": 2}') == 2
