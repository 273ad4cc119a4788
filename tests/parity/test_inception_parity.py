"""Inception and the FID against torch-fidelity, which reproduces TensorFlow's published graph."""

import importlib
import importlib.util
import sys
import types

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")

from compare import assert_close, nchw

from ldm_jax.evaluation.fid import FeatureStatistics, fid
from ldm_jax.interop.inception_weights import load_inception
from ldm_jax.models.inception import FEATURES, Inception, resize

SIZES = [(64, 64), (256, 256), (299, 299), (48, 320)]
# Measured: 4e-7.
TOLERANCE = 5e-6


class StandIn(types.ModuleType):
    """Stands for torchvision, which torch-fidelity imports for metrics that are not used here.

    PyPI's does not work with a CPU build of torch.
    """

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}", object)


@pytest.fixture(scope="module")
def fidelity():
    """Returns the module torch_fidelity."""
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("needs torch-fidelity: pip install --no-deps torch-fidelity==0.4.0")
    with pytest.MonkeyPatch.context() as patch:
        for part in ("", ".datasets", ".transforms", ".transforms.functional"):
            patch.setitem(sys.modules, f"torchvision{part}", StandIn(f"torchvision{part}"))
        yield importlib.import_module("torch_fidelity")


@pytest.fixture(scope="module")
def path(fidelity, tmp_path_factory):
    """Returns a .pth with random weights and statistics, by the names of the published file."""
    inception = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")

    class Fresh(inception.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict):
            """Keeps what the constructor has drawn."""

    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save({}, path)
    state = Fresh("fresh", ["2048"], feature_extractor_weights_path=path).state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim > 1:
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise * (2 / tensor[0].numel()) ** 0.5)
        elif tensor.ndim:
            noise = 0.2 * torch.randn(tensor.shape, generator=generator)
            tensor.copy_(noise + (1 if name.endswith("weight") else 0))
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def params(path):
    return load_inception(path)


def images(seed, size, count=2):
    """Returns smooth images with noise, each of its own contrast, as noise alone looks the same."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3)).astype(np.float32)
    smooth = np.asarray(jax.image.resize(coarse, (count, *size, 3), "linear"))
    noise = rng.normal(0, 1, smooth.shape) * rng.uniform(0, 60, (count, 1, 1, 1))
    return np.clip(smooth + noise, 0, 255).astype(np.uint8)


@jax.jit
def ours(params, images):
    return Inception().apply({"params": params}, images)


def test_reads_the_format_of_the_published_file(path, params):
    old = path.with_name("old.pth")
    state = torch.load(path, weights_only=True)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    jax.tree.map(np.testing.assert_array_equal, load_inception(old), params)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_resize_is_equal(fidelity, size):
    module = importlib.import_module("torch_fidelity.interpolate_compat_tensorflow")
    x = images(0, size).astype(np.float32)
    expected = module.interpolate_bilinear_2d_like_tensorflow1x(
        nchw(x), size=(299, 299), align_corners=False
    )
    got = jax.jit(resize, static_argnums=1)(x, 299)
    assert_close(got, expected.numpy().transpose(0, 2, 3, 1), "resize", 1e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_features_and_logits_are_equal(fidelity, path, params, size):
    module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    theirs = module.FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=path
    )
    x = images(1, size)
    features, logits = theirs(nchw(x))
    got = ours(params, x)
    assert_close(got.features, features, "features", TOLERANCE)
    assert_close(got.logits, logits, "logits", TOLERANCE)
    # What distinguishes images is small beside what they have in common.
    spread = np.asarray(got.features[0] - got.features[1])
    assert_close(spread, features[0] - features[1], "difference of features", 2e-4)


@pytest.mark.slow
def test_fid_is_equal(fidelity, path, params):
    sets = [images(2, (64, 64), 16), images(3, (64, 64), 16)]
    theirs = fidelity.calculate_metrics(
        input1=Images(sets[0]),
        input2=Images(sets[1]),
        fid=True,
        cuda=False,
        cache=False,
        batch_size=8,
        save_cpu_ram=True,
        verbose=False,
        feature_extractor_weights_path=path,
    )
    gathered = []
    for x in sets:
        statistics = FeatureStatistics(FEATURES)
        for batch in np.split(x, 8):
            statistics.update(ours(params, batch).features)
        gathered.append(statistics)
    got = fid(*gathered)
    # Both covariances are singular, where theirs is exact to 1e-5 only.
    assert got == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)


class Images(torch.utils.data.Dataset):
    """Gives torch-fidelity images, uint8 [3, H, W], from [n, H, W, 3]."""

    def __init__(self, images):
        self.images = nchw(images)

    def __getitem__(self, index):
        return self.images[index]

    def __len__(self):
        return len(self.images)
