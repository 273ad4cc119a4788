"""Painted regions as files: what is written is read, and nothing else."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.pipeline.painted import MAX_BYTES, PaintedRegion, read_regions, write_regions

SIZE = (8, 12)
LEFT = np.repeat([np.arange(12) < 6], 8, axis=0).astype(np.uint8) * 255
REGIONS = (PaintedRegion("a red circle", LEFT, 0.5, 2.0), PaintedRegion(3, 255 - LEFT))


def changed(**fields):
    """Returns a preset whose first region has other fields; None takes one away."""
    found = json.loads(write_regions(REGIONS))
    row = {**found["regions"][0], **fields}
    found["regions"][0] = {name: value for name, value in row.items() if value is not None}
    return json.dumps(found).encode()


def picture(width, height, kind="PNG"):
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, kind)
    return base64.b64encode(file.getvalue()).decode()


def test_what_is_written_is_read():
    for found, wanted in zip(read_regions(write_regions(REGIONS), SIZE), REGIONS, strict=True):
        assert (found.prompt, found.weight, found.feather) == (
            wanted.prompt,
            wanted.weight,
            wanted.feather,
        )
        np.testing.assert_array_equal(found.mask, wanted.mask)


def test_masks_follow_the_size_of_the_image():
    found = read_regions(write_regions(REGIONS), (16, 24))[1]
    assert found.mask.shape == (16, 24)
    assert found.mask[:, -6:].min() == 255
    assert found.mask[:, :6].max() == 0


def test_a_region_is_its_mask_times_the_weight_with_a_soft_border():
    hard, soft = PaintedRegion("x", LEFT, 0.5).region(), REGIONS[0].region()
    np.testing.assert_array_equal(hard.mask, 0.5 * (LEFT / 255))
    assert 0.2 < soft.mask[4, 5] < 0.3  # half of the weight at the border
    assert soft.mask[4, 0] > 0.45
    assert soft.mask[4, 11] < 0.05
    assert soft.mask.dtype == np.float32


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"x" * (MAX_BYTES + 1), "Legal: up to"),
        (b"\xff\xfe", "not a file of regions"),
        (b"[" * 100_000, "not a file of regions"),
        (b"[]", "JSON of the format 'ldm_jax.regions'"),
        (b'{"format": "ldm_jax.regions", "version": 2}', "got version 2. Legal: 1."),
        (b'{"format": "ldm_jax.regions", "version": 1, "regions": {}}', "a list of 1 to 16"),
        (changed(prompt=""), "regions[0]: legal is a prompt of 1 to"),
        (changed(prompt=-1), "regions[0].prompt=-1: legal is a text or a class number."),
        (changed(prompt=[1]), "legal is a text or a class number."),
        (changed(weight=1.5), "regions[0].weight: got 1.5. Legal: 0 to 1"),
        (changed(weight="1"), "regions[0].weight='1': legal is a number from 0 to 1."),
        (changed(feather=float("nan")), "regions[0].feather=nan: legal is a number"),
        (changed(mask=None), "legal are exactly the fields prompt, weight, feather, mask."),
        (changed(more=1), "legal are exactly the fields"),
        (changed(mask=7), "regions[0].mask: got int. Legal: a grey PNG in base64."),
        (changed(mask="/etc/passwd"), "regions[0].mask: not a PNG in base64"),
        (changed(mask=picture(8, 8, "GIF")), "regions[0].mask: not a PNG in base64"),
        (changed(mask=picture(5000, 1)), "Legal: up to 4096 a side."),
        (changed(mask="é"), "regions[0].mask: not a PNG in base64"),
        (changed(mask=picture(64, 64)[:80] + "===="), "regions[0].mask: "),
    ],
)
def test_other_files_are_refused_with_a_sentence(content, said):
    with pytest.raises(UserError) as error:
        read_regions(content, SIZE)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_there_must_be_something_to_save():
    with pytest.raises(UserError, match="there are none to save"):
        write_regions([])
