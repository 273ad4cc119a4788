import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ldm_jax.conditioning import ClipImage
from ldm_jax.core.checks import UserError

FIELDS = {
    "resolution": 6,
    "patch": 2,
    "dim": 8,
    "depth": 2,
    "num_heads": 2,
    "projection_dim": 5,
    "activation": "gelu",
}
MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
DEVIATION = np.array([0.26862954, 0.26130258, 0.27577711])
IMAGES = np.random.default_rng(3).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)


@functools.cache
def variables():
    shapes = jax.eval_shape(ClipImage(**FIELDS).init, jax.random.key(0), {"image": IMAGES})
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(0.5 * rng.normal(size=x.shape), x.dtype), shapes)


def dense(x, p):
    return x @ p["kernel"] + p.get("bias", 0)


def layer_norm(x, p):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return y * p["scale"] + p["bias"]


def gelu(x):
    return np.vectorize(lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2))))(x)


def numpy_encode(images):
    """The tower on images of its own resolution, patch by patch."""
    p = jax.tree.map(np.asarray, variables()["params"])
    x = (images / 255 - MEAN) / DEVIATION
    corners = [(i, j) for i in (0, 2, 4) for j in (0, 2, 4)]
    patches = [x[:, i : i + 2, j : j + 2].reshape(len(x), -1) for i, j in corners]
    x = np.stack(patches, axis=1) @ p["patch_embedding"]["kernel"].reshape(12, 8)
    token = np.broadcast_to(p["class_embedding"], (len(x), 1, 8))
    x = np.concatenate([token, x], axis=1) + p["position_embedding"]
    x = layer_norm(x, p["norm_in"])
    for i in range(2):
        layer = p[f"layer_{i}"]
        y, attn = layer_norm(x, layer["norm_attn"]), layer["attn"]
        q, k, v = (dense(y, attn[n]).reshape(*y.shape[:2], 2, 4) for n in ("to_q", "to_k", "to_v"))
        weights = np.exp(np.einsum("bnhd,bmhd->bhnm", q, k) / 2)
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("bhnm,bmhd->bnhd", weights, v).reshape(x.shape)
        x = x + dense(mixed, attn["to_out"])
        y = dense(layer_norm(x, layer["norm_ff"]), layer["ff"]["hidden"])
        x = x + dense(gelu(y), layer["ff"]["out"])
    return dense(layer_norm(x[:, 0], p["norm_out"]), p["projection"])


def encode(images, **fields):
    module = ClipImage(**{**FIELDS, **fields})
    return np.asarray(jax.jit(module.apply)(variables(), {"image": images}).context)


def test_encoding_equals_numpy():
    expected = numpy_encode(IMAGES)
    found = encode(IMAGES)
    assert found.shape == (2, 1, 5)
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-3, atol=1e-4)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encode(IMAGES, normalized=True)[:, 0], unit, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("size", [(40, 40), (33, 20), (4, 4)])
def test_images_of_any_size_are_resized_as_pillow_does(size):
    # Pillow clips between rows and columns, where noise of full contrast would overshoot.
    image = np.random.default_rng(1).integers(60, 200, (*size, 3), dtype=np.uint8)
    pillow = Image.fromarray(image).resize((6, 6), Image.Resampling.BICUBIC)
    module = ClipImage(**FIELDS)
    found = jax.jit(lambda x: module.apply({}, x, method="prepare"))(image[None])[0]
    levels = 255 * (np.asarray(found) * DEVIATION + MEAN)
    np.testing.assert_allclose(levels, np.asarray(pillow), atol=1.6)  # it rounds twice


def test_null_is_zero_and_what_is_read():
    module = ClipImage(**FIELDS)
    null = jax.jit(lambda: module.apply({}, 3, method="null"))().context
    np.testing.assert_array_equal(null, np.zeros((3, 1, 5)))
    assert module.input_shapes(64) == {"image": jax.ShapeDtypeStruct((64, 64, 3), jnp.uint8)}


def test_the_image_tower_of_vit_l_14():
    batch = {"image": jnp.zeros((1, 256, 256, 3), jnp.uint8)}
    shapes = jax.eval_shape(ClipImage().init, jax.random.key(0), batch)
    # Counted by transformers: CLIPVisionModelWithProjection of openai/clip-vit-large-patch14.
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) == 303_966_208


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"num_heads": 3}, r"clip_image.num_heads=3 must divide dim=8. Legal: 1, 2, 4, 8."),
        ({"patch": 4}, r"clip_image.patch=4 must divide resolution=6. Legal: 1, 2, 3, 6."),
        ({"activation": "relu"}, r"clip_image.activation: got 'relu'.* Legal: gelu, quick_gelu."),
        ({"depth": 0}, r"clip_image.depth: got 0. Legal: 1 or more."),
        ({"attention_impl": "cudnn"}, r"attention_impl='cudnn': got dtype=float32."),
    ],
)
def test_illegal_fields(fields, text):
    with pytest.raises(UserError, match=text):
        ClipImage(**{**FIELDS, **fields})


def test_grey_images_are_refused():
    with pytest.raises(UserError, match=r"batch\['image'\]: got shape \(1, 6, 6, 1\)"):
        ClipImage(**FIELDS).apply(variables(), {"image": IMAGES[:1, :, :, :1]})
