import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import SceneObject, Shapes, render_scene
from ldm_jax.evaluation.shapes_score import (
    UNKNOWN,
    caption_accuracy,
    caption_matches,
    parse_caption,
    read_objects,
)


def one_object_images(size, count=1000):
    source = Shapes(size, min_objects=1, max_objects=1, seed=11)
    examples = [source[i] for i in range(count)]
    return np.stack([e["image"] for e in examples]), [e["text"] for e in examples]


def blur(images, deviation):
    reach = np.arange(-6, 7)
    kernel = np.exp(-0.5 * (reach / deviation) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        pad = [(6, 6) if a == axis else (0, 0) for a in range(4)]
        padded = np.pad(images.astype(np.float32), pad, mode="edge")
        size = images.shape[axis]
        images = sum(
            weight * np.take(padded, range(k, k + size), axis) for k, weight in enumerate(kernel)
        )
    return images


@pytest.mark.parametrize("size", [32, 64])
def test_rendered_images_are_read_right(size):
    accuracy = caption_accuracy(*one_object_images(size))
    assert min(accuracy.values()) >= 0.995, accuracy


@pytest.mark.parametrize(("size", "deviation", "noise"), [(32, 0.8, 7.0), (64, 1.6, 8.0)])
def test_blur_and_noise_are_forgiven(size, deviation, noise):
    images, captions = one_object_images(size, 500)
    noisy = blur(images, deviation) + np.random.default_rng(0).normal(0, noise, images.shape)
    accuracy = caption_accuracy(np.clip(noisy, 0, 255).astype(np.uint8), captions)
    assert min(accuracy.values()) >= 0.98, accuracy


def test_large_images_and_several_objects():
    images, captions = one_object_images(160, 60)
    assert caption_accuracy(images, captions)["overall"] == 1.0
    # At 32 pixels, large neighbours of one colour touch and are read as one.
    for size, least in ((48, 100), (32, 97)):
        source = Shapes(size, max_objects=5, seed=2)
        right = [
            set(read_objects(example["image"])) == set(parse_caption(example["text"]))
            for example in map(source.__getitem__, range(100))
        ]
        assert sum(right) >= least


def test_each_wrong_attribute_is_seen():
    caption = "a small red circle at the top left"
    right = {"colour": "red", "shape": "circle", "size": "small", "row": "top", "column": "left"}
    image, _, _ = render_scene([SceneObject(**right)], 32)
    assert caption_matches(image, caption)
    scores = {}
    for name, wrong in [("colour", "blue"), ("shape", "square"), ("row", "bottom")]:
        image, _, _ = render_scene([SceneObject(**{**right, name: wrong})], 32)
        assert not caption_matches(image, caption)
        scores[name] = caption_accuracy(image[None], [caption])
    assert scores["colour"]["colour"] == 0
    assert scores["colour"]["shape"] == 1
    assert scores["shape"]["shape"] == 0
    assert scores["row"]["position"] == 0
    image, _, _ = render_scene([SceneObject(**{**right, "size": "large"})], 32)
    assert caption_matches(image, caption)  # the size is scored apart
    assert caption_accuracy(image[None], [caption])["size"] == 0


def test_no_object_two_objects_noise_and_blobs_do_not_match():
    caption = "a large red square at the middle center"
    square = parse_caption(caption)[0]
    other = SceneObject("red", "cross", "small", "top", "left")
    assert not caption_matches(np.full((32, 32, 3), 40, np.uint8), caption)
    assert not caption_matches(render_scene([square, other], 32)[0], caption)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert not caption_matches(noise, caption)
    image, _, _ = render_scene([], 32)
    image[4:28, 15:18] = (226, 58, 58)
    assert [item.shape for item in read_objects(image)] == [UNKNOWN]


def test_parsing():
    text = "A small red circle at the top left and a large cyan cross at the middle center"
    assert parse_caption(text) == [
        SceneObject("red", "circle", "small", "top", "left"),
        SceneObject("cyan", "cross", "large", "middle", "center"),
    ]
    with pytest.raises(UserError, match="got 'a red thing', expected 'a SIZE COLOUR SHAPE"):
        parse_caption("a red thing")


def test_errors():
    image, caption = np.zeros((32, 32, 3), np.uint8), "a small red circle at the top left"
    with pytest.raises(UserError, match=r"got shape \(32, 32\), expected \(s, s, 3\)"):
        read_objects(image[:, :, 0])
    with pytest.raises(UserError, match=r"got 2 objects in .* Legal: one"):
        caption_matches(image, f"{caption} and {caption}")
    with pytest.raises(UserError, match=r"got 1 images and 0 captions. Legal: equally many"):
        caption_accuracy(image[None], [])
