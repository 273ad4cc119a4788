"""What is read of images, and how it is named."""

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.train.feature_readers import extractor_reader, make_extractor, pair_reader

DRAW = np.random.default_rng(0)


class Originals:
    """Images in place of a reference set."""

    preprocessing = {"image_size": 16}

    def __init__(self):
        self.all = DRAW.integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)

    def images(self, numbers):
        return self.all[numbers]


def refusal(act):
    with pytest.raises(UserError) as caught:
        act()
    return str(caught.value)


def test_an_extractor_is_named_with_its_weights(tmp_path):
    assert make_extractor("pixels").name == "pixels 8x8"
    assert refusal(lambda: make_extractor("pixel")) == (
        "--extractor: got 'pixel'; did you mean 'pixels'? Legal: inception, classifier, clip, "
        "pixels."
    )
    assert refusal(lambda: make_extractor("pixels:8")) == "--extractor=pixels:8: legal is pixels."
    assert refusal(lambda: make_extractor("clip:")) == "--extractor=clip:: legal is clip:PATH."
    missing = tmp_path / "no.safetensors"
    assert str(missing) in refusal(lambda: make_extractor(f"classifier:{missing}"))


def test_everything_that_an_extractor_knows_is_read():
    extractor = make_extractor("pixels")
    reader = extractor_reader(extractor, (16, 16, 3), 8, make_mesh())
    assert reader.shapes == {"features": (192,)}
    assert reader.key == {
        "name": "pixels 8x8",
        "sha256": extractor.fingerprint,
        "resize": "bilinear to 8x8, antialiased",
    }
    images = DRAW.integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    found = reader.read(np.arange(5), images)["features"]
    means = images.reshape(5, -1, 3).mean(axis=1) / 255
    np.testing.assert_allclose(found.reshape(5, 64, 3).mean(axis=1), means, atol=0.02)


def test_pairs_are_of_the_same_number():
    originals = Originals()
    reader = pair_reader("psnr", originals, 8, make_mesh())
    assert (reader.key, reader.shapes) == ({"name": "psnr", "sha256": None}, {"psnr": ()})
    numbers = np.array([3, 7])
    others = originals.all[[3, 8]]
    error = np.square(originals.all[7].astype(np.float64) - others[1]).mean()
    expected = [100, 10 * np.log10(255**2 / error)]
    np.testing.assert_allclose(reader.read(numbers, others)["psnr"], expected, rtol=1e-5)


def test_what_cannot_be_compared_is_told():
    small = Originals()
    small.preprocessing = {"image_size": 8}
    assert refusal(lambda: pair_reader("ssim", small, 8, make_mesh())) == (
        "--metrics=ssim: images of 8 pixels. Legal: 11 and more."
    )
