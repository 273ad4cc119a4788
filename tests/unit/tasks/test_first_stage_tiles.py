"""Large images through the first stage in windows: no visible seams, and the same scale."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.core.windows import over_windows
from ldm_jax.models import Autoencoder, VQAutoencoder
from ldm_jax.tasks.first_stage import FirstStage, Frozen, LatentScale

MODEL = Autoencoder(
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    num_groups=4,
    embed_dim=2,
    z_channels=2,
    mid_attention=False,
)
VQ = VQAutoencoder(
    channels=4, channel_mult=(1, 2), num_res_blocks=0, num_groups=2, embed_dim=2, num_codes=5
)
STAGE = FirstStage(MODEL)
SCALE = LatentScale(jnp.array([0.5, -1.0]), jnp.array([2.0, 0.25]))
TILE, SIZE = 32, 56  # windows begin at 0 and 24, so that there are 2 × 2
BORDERS = np.array([24, 32])  # where the second begins, and the first ends


@functools.cache
def frozen():
    """Random weights of a size that keeps activations at about 1."""
    shapes = jax.eval_shape(lambda: STAGE.init(jax.random.key(0), 8))
    draw = np.random.default_rng(0)

    def fill(path, x):
        values = draw.standard_normal(x.shape)
        if x.ndim > 1:
            values /= np.sqrt(np.prod(x.shape[:-1]))
        else:
            values = 0.1 * values + ("scale" in str(path[-1]))
        return values.astype(np.float32)

    return Frozen(jax.tree_util.tree_map_with_path(fill, shapes), SCALE)


@functools.cache
def decoded(tile):
    z = np.random.default_rng(1).standard_normal((4, SIZE // 2, SIZE // 2, 2))
    z = (z.astype(np.float32) - SCALE.shift[None, None, None]) * SCALE.scale[None, None, None]
    return np.asarray(jax.jit(functools.partial(STAGE.decode, tile=tile))(frozen(), z))


def across(images, borders):
    """Returns the mean |difference| of neighbours before and after these rows and columns."""
    down = np.abs(np.diff(images, axis=1))[:, borders - 1]
    right = np.abs(np.diff(images, axis=2))[:, :, borders - 1]
    return (down.mean() + right.mean()) / 2


# Between cells of the latent, as the borders are: neighbours in a cell differ less.
INTERIOR = np.setdiff1d(np.arange(2, SIZE, 2), BORDERS)


def test_decoding_leaves_no_seams():
    whole, tiled = decoded(None), decoded(TILE)
    assert tiled.shape == whole.shape == (4, SIZE, SIZE, 3)
    gradient = across(tiled, INTERIOR)
    # By chance this image has steeper gradients there than elsewhere, with or without windows.
    assert across(tiled, BORDERS) / gradient < across(whole, BORDERS) / across(whole, INTERIOR)
    # What windows add to the image is smooth: its steps at borders are a fraction of a gradient.
    assert across(tiled - whole, BORDERS) < 0.2 * gradient
    assert np.abs(tiled - whole).mean() < 0.15 * whole.std()  # normalisation sees one window


def test_the_measure_finds_the_seams_of_windows_that_touch():
    def decode(z):
        return STAGE.decode(frozen(), z)

    z = np.random.default_rng(1).standard_normal((4, 32, 32, 2)).astype(np.float32)
    touching = np.asarray(jax.jit(lambda z: over_windows(decode, z, (16, 16), (0, 0), 2))(z))
    whole = np.asarray(jax.jit(decode)(z))
    interior = np.setdiff1d(np.arange(2, 64, 2), [32])
    step = across(touching - whole, np.array([32]))
    assert step > 0.5 * across(whole, interior)


def test_encoding_in_tiles():
    images = np.clip(decoded(None), -1, 1)
    encode = jax.jit(STAGE.encode_mode, static_argnums=2)
    whole, tiled = (np.asarray(encode(frozen(), images, tile)) for tile in (None, TILE))
    moments = STAGE.moments(frozen().params, images)
    mean = np.asarray(moments)[..., :2]
    np.testing.assert_allclose(whole, (mean - [0.5, -1.0]) * [2.0, 0.25], rtol=1e-4, atol=1e-5)
    assert tiled.shape == whole.shape == (4, SIZE // 2, SIZE // 2, 2)
    error = np.abs(tiled - whole).mean((0, 1, 2))
    assert (error < 0.2 * whole.std((0, 1, 2))).all()


def test_an_image_of_one_tile_is_not_cut():
    z = np.random.default_rng(2).standard_normal((1, 8, 16, 2)).astype(np.float32)
    decode = jax.jit(STAGE.decode, static_argnums=2)
    np.testing.assert_array_equal(decode(frozen(), z, TILE), decode(frozen(), z, None))


@pytest.mark.parametrize("tile", [0, 4, 12, -8])
def test_tiles_that_latents_do_not_divide(tile):
    with pytest.raises(UserError) as error:
        STAGE.check_tile(tile)
    assert str(error.value) == f"tile={tile}: legal are multiples of 8 pixels, or none."
    for legal in (None, 8, 64):
        STAGE.check_tile(legal)


def test_codes_are_the_nearest_and_come_back_scaled():
    draw = np.random.default_rng(4)
    shapes = jax.eval_shape(lambda: FirstStage(VQ).init(jax.random.key(0), 4))
    params = jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), shapes)
    latents = draw.normal(size=(2, 3, 5, 2))
    scale, shift = np.array([2.0, 0.25]), np.array([0.5, -1.0])
    z = ((latents - shift) * scale).astype(np.float32)
    book = np.asarray(params["codebook"], np.float64)
    nearest = ((latents[..., None, :] - book) ** 2).sum(-1).argmin(-1)
    found = jax.jit(FirstStage(VQ).quantize)(Frozen(params, SCALE), z)
    np.testing.assert_allclose(found, (book[nearest] - shift) * scale, rtol=1e-4, atol=1e-5)
    again = FirstStage(VQ).quantize(Frozen(params, SCALE), found)
    np.testing.assert_allclose(again, found, rtol=1e-4, atol=1e-5)
