import jax
import numpy as np
import pytest

from ldm_jax.nn.convolution import convolve, convolve_patches


def plain(x, kernel, stride, padding):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        (padding, padding),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def maps_and_kernel(height, width, size=3, channels=5, features=7):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, height, width, channels)).astype(np.float32)
    return x, rng.normal(size=(size, size, channels, features)).astype(np.float32)


def assert_equal_with_gradients(f, g, *args):
    def of_sines(f):
        return jax.jit(jax.value_and_grad(lambda *args: jax.numpy.sin(f(*args)).sum(), (0, 1)))

    np.testing.assert_allclose(jax.jit(f)(*args), g(*args), atol=2e-5)
    for a, b in zip(
        jax.tree.leaves(of_sines(f)(*args)), jax.tree.leaves(of_sines(g)(*args)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 2), (2, 5), (4, 4), (7, 3)])
@pytest.mark.parametrize("padding", [(1, 1), (0, 2), (2, 0)])
def test_patches_are_the_convolution_and_so_are_their_gradients(shape, padding):
    assert_equal_with_gradients(
        lambda x, k: convolve_patches(x, k, padding),
        lambda x, k: plain(x, k, 1, padding),
        *maps_and_kernel(*shape),
    )


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (2, 1), (3, 3), (2, 5), (7, 9)])
@pytest.mark.parametrize(
    ("stride", "padding"), [(1, (1, 1)), (1, (1, 2)), (2, (1, 1)), (2, (0, 2))]
)
def test_any_size_stride_and_padding_gives_the_convolution(shape, stride, padding):
    assert_equal_with_gradients(
        lambda x, k: convolve(x, k, stride, padding),
        lambda x, k: plain(x, k, stride, padding),
        *maps_and_kernel(*shape),
    )


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_other_kernels_too(size):
    padding = ((size - 1) // 2, size // 2)
    assert_equal_with_gradients(
        lambda x, k: convolve(x, k, 1, padding),
        lambda x, k: plain(x, k, 1, padding),
        *maps_and_kernel(2, 3, size),
    )


@pytest.mark.parametrize(("platform", "convolves"), [("cpu", False), ("tpu", True), ("cuda", True)])
def test_accelerators_keep_the_convolution_of_small_maps(platform, convolves):
    traced = jax.jit(lambda x, k: convolve(x, k, 1, (1, 1))).trace(*maps_and_kernel(2, 2))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == convolves


@pytest.mark.parametrize(
    ("edge", "channels", "convolves"), [(2, 5, False), (4, 1024, False), (4, 512, True)]
)
def test_a_cpu_takes_patches_of_tiny_maps_and_of_small_maps_of_many_channels(
    edge, channels, convolves
):
    inputs = maps_and_kernel(edge, edge, channels=channels, features=2)
    program = jax.jit(lambda x, k: convolve(x, k, 1, (1, 1)))
    text = program.trace(*inputs).lower(lowering_platforms=("cpu",)).as_text()
    assert ("stablehlo.convolution" in text) == convolves
    np.testing.assert_allclose(program(*inputs), plain(*inputs, 1, (1, 1)), atol=1e-3)
