"""Functions over overlapping windows: nothing lost at the seams, nothing kept that is done."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.core.windows import over_windows

RNG = np.random.default_rng(0)


def _enlarged(x):
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


@pytest.mark.parametrize(
    ("size", "window", "overlap"),
    [
        ((8, 8), (8, 8), (2, 2)),
        ((9, 13), (4, 6), (0, 0)),
        ((9, 13), (4, 6), (1, 2)),
        ((7, 16), (8, 4), (7, 3)),  # the window is higher than the input
        ((16, 5), (6, 5), (3, 4)),
        ((11, 11), (10, 10), (1, 1)),
        ((12, 10), (4, 2), (3, 1)),
    ],
)
def test_the_identity_gives_its_input_back(size, window, overlap):
    x = RNG.normal(size=(2, *size, 3)).astype(np.float32)
    tree = {"a": x, "b": x[..., 0]}
    found = over_windows(lambda t: {**t, "c": None}, tree, window, overlap)
    np.testing.assert_allclose(found["a"], x, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found["b"], x[..., 0], rtol=0, atol=1e-6)
    assert found["c"] is None
    bigger = over_windows(_enlarged, x, window, overlap, 2)
    np.testing.assert_allclose(bigger, np.repeat(np.repeat(x, 2, 1), 2, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "window", "overlap"),
    [((16, 24), (8, 8), (2, 4)), ((8, 20), (12, 12), (4, 0)), ((14, 18), (8, 6), (6, 4))],
)
def test_the_identity_on_a_coarser_raster(size, window, overlap):
    x = RNG.normal(size=(1, *size, 2)).astype(np.float32)
    found = over_windows(lambda x: x[:, ::2, ::2], x, window, overlap, Fraction(1, 2))
    np.testing.assert_allclose(found, x[:, ::2, ::2], rtol=0, atol=1e-6)


def test_every_window_is_seen_once_and_at_its_size():
    seen = []

    def function(x):
        jax.debug.callback(lambda corner: seen.append(tuple(corner.tolist())), x[0, 0, 0])
        assert x.shape == (1, 4, 6, 2)
        return x

    rows, columns = np.meshgrid(np.arange(9.0), np.arange(13.0), indexing="ij")
    jax.block_until_ready(
        over_windows(
            function, np.stack([rows, columns], -1)[None].astype(np.float32), (4, 6), 2 * (2,)
        )
    )
    jax.effects_barrier()
    # Steps of window - overlap; the last window is moved back to end with the input.
    assert sorted(seen) == [(r, c) for r in (0.0, 2.0, 4.0, 5.0) for c in (0.0, 4.0, 7.0)]


def _blur(x):
    """Mean of 3 × 3 pixels with zeros around, as a convolution has at its borders."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return sum(shifted[1:], shifted[0]) / 9


def test_a_local_function_is_right_away_from_the_seams():
    x = RNG.normal(size=(1, 20, 20, 1)).astype(np.float32) + 5
    whole = np.asarray(_blur(x))
    found = np.asarray(over_windows(_blur, x, (8, 8), (2, 2)))
    # Windows start at 0, 6, 12; each is wrong in its first and last row and column alone.
    wrong = np.zeros(20, bool)
    wrong[[6, 7, 12, 13]] = True
    inside = ~(wrong[:, None] | wrong[None, :])
    np.testing.assert_allclose(found[0, inside], whole[0, inside], rtol=1e-5)
    assert np.abs(found - whole)[0, ~inside].max() > 0.1


def test_weights_fall_off_towards_the_seam():
    # Two windows of constants: the mixture goes from one to the other in even steps.
    x = np.arange(10, dtype=np.float32).reshape(1, 1, 10, 1)
    found = over_windows(lambda x: jnp.zeros_like(x) + (x[:, :, :1] > 0), x, (1, 6), (0, 2))
    np.testing.assert_allclose(found[0, 0, :, 0], [0] * 4 + [1 / 3, 2 / 3] + [1] * 4, atol=1e-6)


def test_memory_does_not_grow_with_the_number_of_windows():
    kernels = np.ones((3, 3, 1, 64), np.float32), np.ones((3, 3, 64, 1), np.float32)

    def costly(x):
        """Needs 64 times the memory of its input."""
        for kernel in kernels:
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        return x

    def temporary(size, function):
        x = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
        return jax.jit(function).lower(x).compile().memory_analysis().temp_size_in_bytes

    def tiled(x):
        return over_windows(costly, x, (16, 16), (4, 4))

    image = 4 * 256 * 256
    few, many = temporary(32, tiled), temporary(256, tiled)
    assert many <= few + 3 * image  # the sums, and the weights
    assert temporary(256, costly) > 10 * many


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (((8, 8), (0, 8)), "overlap=8 of windows of 8: legal is 0 to 7."),
        (((8, 4), (-1, 0)), "overlap=-1 of windows of 8: legal is 0 to 7."),
        (
            ((8, 8), (3, 2), Fraction(1, 2)),
            "windows, overlaps and places (3, 2): legal are multiples of 2.",
        ),
        (
            ((9, 8), (2, 2), Fraction(1, 2)),
            "windows, overlaps and places (9, 8): legal are multiples of 2.",
        ),
    ],
)
def test_errors(arguments, text):
    with pytest.raises(UserError) as error:
        over_windows(lambda x: x, np.zeros((1, 16, 16, 1), np.float32), *arguments)
    assert str(error.value) == text
