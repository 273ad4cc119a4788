"""KID, Inception Score, precision and recall against torch-fidelity; CLIP against transformers."""

import importlib
import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
import transformers
from compare import assert_close, nchw, randomize
from test_inception_parity import StandIn

from ldm_jax.evaluation.inception_score import InceptionScore
from ldm_jax.evaluation.kid import kid
from ldm_jax.evaluation.precision_recall import precision_recall
from ldm_jax.interop.clip_model import embed_captions, embed_images, load_clip


@pytest.fixture(scope="module")
def metric():
    """Returns the modules of torch-fidelity's metrics, by name."""
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("needs torch-fidelity: pip install --no-deps torch-fidelity==0.4.0")
    with pytest.MonkeyPatch.context() as patch:
        for part in ("", ".datasets", ".transforms", ".transforms.functional"):
            patch.setitem(sys.modules, f"torchvision{part}", StandIn(f"torchvision{part}"))
        yield lambda name: importlib.import_module(f"torch_fidelity.metric_{name}")


def draw(seed, n, d=32, scale=1.0):
    return scale * np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def test_kid_is_equal(metric):
    first, second = draw(0, 200), 0.3 + draw(1, 150)
    settings = {"kid_subsets": 20, "kid_subset_size": 100, "rng_seed": 5, "verbose": False}
    tensors = (torch.from_numpy(x.astype(np.float64)) for x in (first, second))
    theirs = metric("kid").kid_features_to_metric(*tensors, **settings)
    got = kid(first, second, subsets=20, size=100, seed=5)
    assert got.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert got.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-9)


def test_inception_score_is_equal(metric):
    logits = draw(0, 203, scale=3.0)
    theirs = metric("isc").isc_features_to_metric(torch.from_numpy(logits))
    score = InceptionScore(*logits.shape)
    score.update(np.arange(203), logits)
    got = score.score()
    assert got.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert got.std == pytest.approx(theirs["inception_score_std"], rel=1e-9)


def test_precision_and_recall_are_equal(metric):
    real, samples = draw(0, 200, 8), draw(1, 160, 8, scale=0.8)
    theirs = metric("prc").prc_features_to_metric(
        torch.from_numpy(samples), torch.from_numpy(real), prc_neighborhood=3, verbose=False
    )
    got = precision_recall(real, samples)
    assert 0.3 < got.recall < got.precision < 1
    assert got.precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert got.recall == pytest.approx(theirs["recall"], abs=1e-6)


TEXT = {
    "vocab_size": 30,
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 9,
    "bos_token_id": 28,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 8,
}


@pytest.mark.parametrize("end", [2, 29], ids=["largest id", "end token"])
def test_clip_embeddings_are_equal(end, tmp_path):
    text = {**TEXT, "eos_token_id": end}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12)
    theirs = transformers.CLIPModel(config)
    randomize(theirs)
    theirs.save_pretrained(tmp_path)
    model = load_clip(tmp_path)
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, 28, (3, 9), dtype=np.int32)
    for row, length in enumerate((4, 9, 7)):
        tokens[row, length - 1 :] = 29
    images = rng.integers(0, 256, (3, 24, 24, 3), dtype=np.uint8)
    pixels = model.image.apply({}, images, method="prepare")
    with torch.no_grad():
        out = theirs(input_ids=torch.from_numpy(tokens).long(), pixel_values=nchw(pixels))

    @jax.jit
    def embed(params, images, tokens):
        embedded = embed_images(model, params, images), embed_captions(model, params, tokens)
        return [x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in embedded]

    got = embed(model.params, images, tokens)
    assert_close(got[0], out.image_embeds, "images")
    assert_close(got[1], out.text_embeds, "captions")
