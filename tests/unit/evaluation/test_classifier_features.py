"""The small classifier of a domain: training it, its file, and its features."""

import functools
import json

import jax
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.evaluation.classifier_features import classifier, write_classifier
from ldm_jax.evaluation.classifier_training import accuracy, train_classifier
from ldm_jax.evaluation.features import Extraction, file_sha256
from ldm_jax.evaluation.metric_names import metric_name
from ldm_jax.interop.safetensors_io import SafetensorsFile, SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.models.image_classifier import ImageClassifier

MODEL = ImageClassifier(num_classes=3, image_size=8, channels=(8, 16), hidden=12)


def examples(n, seed):
    """Returns noisy stripes, upright, lying or neither, uint8 [n, 16, 16, 1], and which [n]."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, n)
    y, x = np.mgrid[:16, :16] // 4 % 2
    patterns = np.stack([x, y, np.zeros_like(x)])[classes]
    noisy = 60 + 120 * patterns + rng.normal(0, 20, patterns.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)[..., None], classes


@functools.cache
def trained():
    return train_classifier(MODEL, *examples(300, 0), steps=40, batch_size=32)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "stripes.safetensors"
    write_classifier(path, MODEL, trained(), "stripes", {"accuracy": 1.0})
    return path


def test_learns_to_tell_classes_apart():
    images, classes = examples(200, 1)
    before = MODEL.init(jax.random.key(0), images[:1])["params"]
    assert accuracy(MODEL, before, images, classes, 64) < 0.7
    assert accuracy(MODEL, trained(), images, classes, 64) > 0.95


def test_training_follows_from_the_seed():
    same, other = (
        train_classifier(MODEL, *examples(300, 0), steps=40, batch_size=32, seed=seed)
        for seed in (0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, trained(), same)
    assert np.any(same["logits"]["kernel"] != other["logits"]["kernel"])


def test_extractor_gives_what_the_network_gives(path):
    images, _ = examples(5, 1)
    extractor = classifier(path)
    found = Extraction(extractor, ("features", "logits"), 8)(images)
    # Grey images count as three equal channels.
    expected = jax.jit(MODEL.apply)({"params": trained()}, images.repeat(3, axis=-1))
    np.testing.assert_allclose(found["features"], expected.features, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["logits"], expected.logits, rtol=1e-5, atol=1e-5)
    assert found["features"].shape == (5, 12)
    weights = trained()["logits"]
    logits = found["features"] @ weights["kernel"] + weights["bias"][None, :]
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-4)


def test_extractor_carries_its_domain(path):
    extractor = classifier(path, sha256=file_sha256(path))
    assert extractor.name == "stripes classifier"
    assert extractor.fingerprint == file_sha256(path)
    assert extractor.resize == "bilinear to 8x8, antialiased"
    assert metric_name("fid", extractor.name) == "Fréchet distance (stripes classifier)"
    assert metric_name("is", extractor.name) == "classifier score (stripes classifier)"
    with SafetensorsFile(path) as file:
        assert json.loads(file.metadata["image_classifier"])["about"] == {"accuracy": 1.0}


def write(path, leaves, note):
    infos = {name: TensorInfo(x.shape, x.dtype) for name, x in leaves.items()}
    with SafetensorsWriter(path, infos, note) as writer:
        for name, leaf in leaves.items():
            writer.write(name, leaf)


def test_refuses_another_file(path, tmp_path):
    def refusal(path, **settings):
        with pytest.raises(UserError) as caught:
            classifier(path, **settings)
        assert "\n" not in str(caught.value)
        return str(caught.value).removeprefix("extractor classifier: ")

    legal = "Legal: a file that write_classifier has written."
    assert refusal(None) == f"got no weights. {legal}"
    missing = tmp_path / "x.safetensors"
    assert refusal(missing) == f"{missing}: no such file. Expected a file of weights."
    assert refusal(path, sha256="0") == (
        f"{path} has sha256 {file_sha256(path)}, expected 0. Legal: the file that the reference "
        "statistics were made with."
    )
    with SafetensorsFile(path) as file:
        note, leaves = file.metadata, {name: file[name] for name in file.keys()}
    write(missing, leaves, {})
    assert refusal(missing) == f"{missing} is no classifier. {legal}"
    write(missing, leaves, {"image_classifier": '{"settings": [3]}'})
    assert refusal(missing) == f"{missing} is no classifier. {legal}"
    write(missing, {k: x for k, x in leaves.items() if k != "logits/bias"}, note)
    assert refusal(missing) == f"{missing}: 'logits/bias' is missing or too much. {legal}"
    write(missing, leaves | {"logits/bias": np.zeros(4, np.float32)}, note)
    assert refusal(missing) == f"{missing}: 'logits/bias': got shape (4,), expected (3,)."
    write(missing, leaves | {"logits/bias": np.zeros(3, np.float16)}, note)
    assert refusal(missing) == (f"{missing}: 'logits/bias': got float16, expected float32. {legal}")


@pytest.mark.parametrize("domain", ["", "Inception"])
def test_refuses_a_domain_that_says_nothing_or_too_much(domain, tmp_path):
    with pytest.raises(UserError) as caught:
        write_classifier(tmp_path / "x.safetensors", MODEL, trained(), domain, {})
    assert str(caught.value) == (
        f"extractor classifier: domain: got {domain!r}. Legal: the data's name."
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (np.array([0, 3]), "classes: got 0 to 3. Legal: 0 to 2."),
        (np.array([-1, 0]), "classes: got -1 to 0. Legal: 0 to 2."),
        (np.array([0]), "classes: got shape (1,), expected (2,)."),
    ],
)
def test_refuses_labels_that_do_not_fit(classes, message):
    with pytest.raises(UserError) as caught:
        train_classifier(MODEL, examples(2, 0)[0], classes, steps=1)
    assert str(caught.value) == f"classifier: {message}"
