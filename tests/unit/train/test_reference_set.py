"""Real images in their order, from a configuration or a folder."""

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.core.defaults import base_config
from ldm_jax.train.reference_set import open_reference


def config(**data):
    found = base_config()
    source = {"name": "shapes", "image_size": 16, "max_objects": 1, "num_examples": 40}
    found.data = {"image_size": 16, "source": source, **data}
    return found


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        open_reference(*arguments)
    return str(caught.value)


def test_the_order_is_a_shuffle_that_starts_over():
    found = open_reference(config(), "train")
    numbers = np.arange(40)
    images = found.images(numbers)
    assert images.shape == (40, 16, 16, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(found.images(numbers[5:9] + 80), images[5:9])
    texts = found.captions(numbers)
    assert texts == [found._source[k]["text"] for k in found._order]
    assert sorted(found._order) == list(range(40))
    assert list(found._order) != list(range(40))
    classes = found.conditions(numbers[:3], ("class",), {"class": 24})
    assert classes["class"].tolist() == [found._source[k]["class"] for k in found._order[:3]]
    np.testing.assert_array_equal(classes["image"], images[:3])


def test_a_key_tells_sets_and_preprocessing_apart():
    settings = {
        "same": config(num_threads=3),
        "holdout": config(holdout=4),
        "background": config(background=(0, 0, 0)),
        "grey": config(channels=1),
    }
    base = open_reference(config(), "train").key
    keys = {name: open_reference(x, "train").key for name, x in settings.items()}
    assert keys.pop("same") == base
    assert all(key != base for key in keys.values())
    held = open_reference(config(holdout=4), "held_out")
    assert len(held) == 4
    assert held.key != keys["holdout"]
    assert held.preprocessing["resize"] == "Pillow's bicubic, antialiased"
    assert held.preprocessing["crop"] == "central square"


def test_a_folder_takes_the_place_of_the_data(tmp_path):
    levels = (10, 20, 30)
    for level in levels:
        Image.new("RGB", (20, 24), (level,) * 3).save(tmp_path / f"{level}.png")
    derive = {"low_res": {"factor": 2}}
    found = open_reference(config(holdout=4, derive=derive), str(tmp_path))
    images = found.images(np.arange(3))
    assert sorted(images[:, 0, 0, 0].tolist()) == list(levels)
    assert found.key["part"] == "folder"
    with pytest.raises(UserError) as caught:
        found.captions(np.arange(1))
    assert str(caught.value) == (
        f"{tmp_path}: its images have no captions. Legal: a set with captions for the CLIP score."
    )
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert open_reference(config(holdout=4, derive=derive), str(moved)).key == found.key
    Image.new("RGB", (20, 24), (40,) * 3).save(moved / "40.png")
    assert open_reference(config(), str(moved)).key != found.key


def test_mistakes_are_told(tmp_path):
    assert refusal(config(), "held_out") == (
        "--reference=held_out: this run holds nothing out. Legal: train, a folder, or a run with "
        "config.data.holdout or config.data.evaluation_source."
    )
    assert refusal(config(), "valid") == (
        "--reference=valid: no such folder. Legal: train, held_out, or a folder of images."
    )
    assert refusal(config(), "train", "test") == (
        "--split=test: got the source 'shapes', which has no splits. Legal: with "
        "--reference=train, and a data source that has splits, such as tfds."
    )
    assert refusal(config(holdout=4), "held_out", "test") == (
        "--split=test: got held_out. Legal: with --reference=train, and a data source that has "
        "splits, such as tfds."
    )
