"""Extractors of features, and running them over many images."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.evaluation import inception_features
from ldm_jax.evaluation.extractors import EXTRACTORS
from ldm_jax.evaluation.features import Extracted, Extraction, Extractor, file_sha256
from ldm_jax.evaluation.fid import FeatureStatistics, fid
from ldm_jax.evaluation.inception_features import FILE, inception
from ldm_jax.evaluation.metric_names import metric_name
from ldm_jax.evaluation.pixel_features import pixels
from ldm_jax.models.inception import InceptionOutput
from ldm_jax.parallel.mesh import make_mesh


def images(n, size=16, channels=3, seed=0):
    shape = (n, size, size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def plain(params, images):
    """Features and logits that NumPy can follow."""
    x = images.astype(jnp.float32).mean(axis=(1, 2)) @ params["mix"]["kernel"]
    return Extracted(x, logits=-x)


MIX = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
PLAIN = Extractor("plain", "0" * 64, "none", {"mix": {"kernel": MIX}}, plain)


# Many images.


@pytest.mark.parametrize("sizes", [None, (4, 2, 1), (2, 2, 2)], ids=str)
def test_batches_and_devices_make_no_difference(sizes):
    extract = Extraction(PLAIN, ("features", "logits"), 5, sizes and make_mesh(sizes))
    x = images(21)
    found = extract(x)
    expected = x.astype(np.float64).mean(axis=(1, 2)) @ MIX
    np.testing.assert_allclose(found["features"], expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(found["logits"], -found["features"])
    np.testing.assert_array_equal(extract(x[3:5])["features"], found["features"][3:5])
    np.testing.assert_allclose(PLAIN.features(x[:2]), found["features"][:2], rtol=1e-5, atol=1e-4)


def test_refuses_what_it_cannot_read():
    def refusal(act):
        with pytest.raises(UserError) as caught:
            act()
        return str(caught.value)

    assert refusal(lambda: Extraction(PLAIN, ("feature",))) == (
        "extractor: outputs: got 'feature'; did you mean 'features'? Legal: features, logits, "
        "spatial."
    )
    assert refusal(lambda: Extraction(PLAIN, batch_size=0)) == (
        "evaluation: batch_size=0. Legal: 1 or more."
    )
    spatial = Extraction(PLAIN, ("spatial",))
    assert refusal(lambda: spatial(images(2))) == "extractor plain: has no spatial."
    extract = Extraction(PLAIN)
    assert refusal(lambda: extract(images(2)[0])) == (
        "extractor: images: got shape (16, 16, 3), expected ('any', 'any', 'any', 'any')."
    )
    assert refusal(lambda: extract(images(2, channels=4))) == (
        "extractor: channels of the images: got 4. Legal: 1, 3."
    )
    assert refusal(lambda: extract(images(2).astype(np.float32))) == (
        "extractor: images: got 2 of float32. Legal: 1 or more of uint8, in [0, 255], as images "
        "are stored."
    )


# Pixels.


def test_pixels_are_means_of_areas():
    found = pixels(4)
    flat = np.repeat(np.repeat(images(3, 4), 4, axis=1), 4, axis=2)
    np.testing.assert_allclose(pixels(16).features(flat), flat.reshape(3, -1) / 255, atol=1e-6)
    coarse = found.features(np.full((2, 32, 32, 1), 51, np.uint8))
    np.testing.assert_allclose(coarse, np.full((2, 4 * 4 * 3), 0.2), rtol=1e-5)
    assert found.name == "pixels 4x4"
    assert found.fingerprint != pixels(8).fingerprint
    assert metric_name("fid", found.name) == "Fréchet distance (pixels 4x4)"


def test_equal_sets_are_at_distance_zero():
    first, second = (FeatureStatistics(4 * 4 * 3) for _ in range(2))
    extract = Extraction(pixels(4), batch_size=8)
    x = images(40)
    first.update(extract(x)["features"])
    second.update(extract(x[::-1])["features"])
    assert fid(first, second) < 1e-3


def test_pixels_refuse_no_size():
    with pytest.raises(UserError) as caught:
        pixels(0)
    assert str(caught.value) == "extractor pixels.size: got 0. Legal: 1 or more."


# Inception; its network and its file have tests of their own.


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Returns a file that stands for Inception's, of which nothing but the bytes is read."""
    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    monkeypatch.setattr(inception_features, "load_inception", lambda path: {"fc": np.ones(1)})
    return path


def test_published_weights_give_the_plain_name(weights, monkeypatch):
    found = hashlib.sha256(b"weights").hexdigest()
    assert file_sha256(weights) == found
    monkeypatch.setattr(inception_features, "SHA256", found)
    extractor = inception(weights, found)
    assert (extractor.name, extractor.fingerprint) == ("inception", found)
    assert metric_name("fid", extractor.name) == "FID"


def test_other_weights_must_be_meant_and_are_never_called_fid(weights):
    found = file_sha256(weights)
    with pytest.raises(UserError) as caught:
        inception(weights)
    assert str(caught.value) == (
        f"extractor inception: {weights} has sha256 {found}, expected {inception_features.SHA256}. "
        f"Legal: the file {FILE} that pytorch-fid publishes, or sha256={found} if this one is "
        "meant."
    )
    extractor = inception(weights, sha256=found)
    assert extractor.name == f"inception {found[:8]}"
    assert metric_name("fid", extractor.name) == f"Fréchet distance (inception {found[:8]})"


def test_without_weights_it_says_what_to_fetch(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError) as caught:
        EXTRACTORS["inception"]()
    assert str(caught.value) == (
        f"extractor inception: no file {tmp_path}/ldm_jax/weights/{FILE}. Legal: {FILE} (91 MiB) "
        "of pytorch-fid's release 'fid_weights' on GitHub, put there or named as the extractor's "
        "weights."
    )


def test_the_name_of_the_file_is_the_start_of_its_hash():
    assert inception_features.SHA256.startswith(FILE.removesuffix(".pth").rpartition("-")[2])


def test_inception_gives_all_three_outputs(weights, monkeypatch):
    class FakeInception:
        """Returns numbers that tell which output is which, and that the parameters arrive."""

        def bind(self, variables):
            fill = variables["params"]["fc"][0]
            return lambda x: InceptionOutput(
                features=jnp.full((len(x), 4), fill),
                logits=jnp.full((len(x), 5), 2 * fill),
                spatial=jnp.full((len(x), 6), 3 * fill),
            )

    monkeypatch.setattr(inception_features, "Inception", FakeInception)
    extractor = inception(weights, sha256=file_sha256(weights))
    found = Extraction(extractor, ("features", "logits", "spatial"))(images(2))
    for name, width, value in (("features", 4, 1), ("logits", 5, 2), ("spatial", 6, 3)):
        np.testing.assert_array_equal(found[name], np.full((2, width), value))
