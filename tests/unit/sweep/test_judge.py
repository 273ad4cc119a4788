"""Scores of sets of images, in the name of who sees them."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import CLASS_NAMES
from ldm_jax.evaluation.classifier_features import classifier
from ldm_jax.evaluation.pixel_features import pixels
from ldm_jax.sweep.judge import Judge, make_classifier, real_images

SOURCE = {"name": "shapes", "image_size": 16, "max_objects": 1, "num_examples": 40}


@pytest.fixture
def config():
    return ConfigDict({"data": {"source": SOURCE, "image_size": 16}})


def test_a_shift_of_all_colours_is_its_square_over_all_features():
    images = np.random.default_rng(0).integers(0, 200, (12, 8, 8, 3), dtype=np.uint8)
    judge = Judge(pixels(4), [images[:5], images[5:]])
    scores = judge.scores(images + np.uint8(20))
    # The covariance stays, and each of 4 x 4 x 3 means moves by 20 / 255.
    assert scores["Fréchet distance (pixels 4x4)"] == pytest.approx(48 * (20 / 255) ** 2, rel=1e-4)
    assert judge.scores(images)["Fréchet distance (pixels 4x4)"] < 1e-6
    assert set(scores) == {"Fréchet distance (pixels 4x4)", "kernel distance (pixels 4x4)"}
    assert scores["kernel distance (pixels 4x4)"] > 0


def test_real_images_are_examples_and_ranges_share_none(config):
    found = real_images(config, 0, 40)
    assert found["image"].shape == (40, 16, 16, 3)
    assert found["image"].dtype == np.uint8
    assert len(np.unique(found["image"].reshape(40, -1), axis=0)) == 40
    parts = [real_images(config, first, 20) for first in (0, 20)]
    for key in ("image", "class"):
        np.testing.assert_array_equal(np.concatenate([x[key] for x in parts]), found[key])


def test_more_images_than_there_are_is_refused(config):
    with pytest.raises(UserError) as told:
        real_images(config, 30, 11)
    assert str(told.value) == "sweep: images from number 30 on: got 11. Legal: 1 to 10."


def test_a_classifier_is_trained_once_and_bears_its_domain(config, tmp_path):
    path = tmp_path / "deep" / "classifier.safetensors"
    arguments = (config, path, "shapes", 2, 30, 10)
    assert 0 <= make_classifier(*arguments) <= 1
    written = path.read_bytes()
    assert make_classifier(*arguments) is None
    assert path.read_bytes() == written
    extractor = classifier(path)
    assert extractor.name == "shapes classifier"
    images = real_images(config, 0, 8)["image"]
    assert set(Judge(extractor, [images]).scores(images)) == {
        "Fréchet distance (shapes classifier)",
        "kernel distance (shapes classifier)",
    }


def test_classes_that_a_part_lacks_are_classes_all_the_same(config, tmp_path):
    path = tmp_path / "classifier.safetensors"
    make_classifier(config, path, "shapes", 1, 6, 2)  # eight images, of more than eight classes
    images = real_images(config, 0, 2)["image"]
    extractor = classifier(path)
    assert extractor.apply(extractor.params, images).logits.shape == (2, len(CLASS_NAMES))


def test_data_without_classes_train_no_classifier(config, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ldm_jax.sweep.judge.real_images", lambda *_: {"image": np.zeros((3, 16, 16, 3), np.uint8)}
    )
    with pytest.raises(UserError) as told:
        make_classifier(config, tmp_path / "a.safetensors", "plain", 1, 2, 1)
    assert str(told.value) == (
        "sweep: the plain classifier: got data without classes. Legal: a source with classes."
    )
