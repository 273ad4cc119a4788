import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.models.image_classifier import ImageClassifier


def test_shapes_and_types():
    images = jax.ShapeDtypeStruct((2, 28, 40, 1), jnp.uint8)
    found, _ = jax.eval_shape(ImageClassifier(10).init_with_output, jax.random.key(0), images)
    assert (found.features.shape, found.logits.shape) == ((2, 128), (2, 10))
    assert found.features.dtype == found.logits.dtype == jnp.float32


def test_products_are_in_float32():
    # Without this, TPUs multiply in bfloat16, and the score depends on the machine.
    model = ImageClassifier(3, image_size=8, channels=(8, 8), hidden=4)
    images = np.zeros((1, 8, 8, 3), np.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    lines = jax.jit(model.apply).lower(shapes, images).as_text().splitlines()
    products = [x for x in lines if "stablehlo.convolution" in x or "stablehlo.dot_general" in x]
    assert len(products) == 4
    assert all(product.count("HIGHEST") == 2 for product in products)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_classes": 0}, "num_classes: got 0. Legal: 1 or more."),
        ({"image_size": 7}, "image_size: got 7 for 3 stages. Legal: 8 or more."),
        ({"channels": ()}, "channels=(): legal is at least one whole number."),
    ],
)
def test_refuses_settings_that_leave_nothing(settings, message):
    with pytest.raises(UserError) as caught:
        ImageClassifier(**({"num_classes": 3} | settings))
    assert str(caught.value) == f"image_classifier.{message}"
