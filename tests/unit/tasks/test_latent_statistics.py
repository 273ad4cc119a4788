"""Moments against NumPy and closed forms, intervals against repeated experiments."""

import json
import math
import re

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.tasks.first_stage import measured_scale
from ldm_jax.tasks.latent_statistics import LatentSums


def measure(*batches, seed=0):
    sums = LatentSums()
    for batch in batches:
        sums.add(batch)
    return sums.statistics(seed)


def test_statistics_are_numpy_s_even_far_from_zero():
    draw = np.random.default_rng(0)
    latents = draw.exponential(size=(300, 3, 2, 2)) * [1e-3, 5.0] + [1e4, -2.0]
    found = measure(latents[:7], latents[7:])
    flat = latents.reshape(-1, 2)
    central = flat - flat.mean(0)
    assert found.num_images == 300
    np.testing.assert_allclose(found.mean.value, flat.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std.value, flat.std(0), rtol=1e-6)
    kurtosis = (central**4).mean(0) / (central**2).mean(0) ** 2 - 3
    np.testing.assert_allclose(found.kurtosis.value, kurtosis, rtol=1e-5)
    np.testing.assert_allclose(found.std_all.value, flat.std(), rtol=1e-10)
    for name in ("mean", "std", "kurtosis", "std_all"):
        estimate = getattr(found, name)
        assert np.all(estimate.low < estimate.value)
        assert np.all(estimate.value < estimate.high)


def test_known_kurtosis():
    """Normal 0, uniform -6/5, Laplace 3."""
    draw = np.random.default_rng(1)
    shape = (400, 16, 16)
    parts = [draw.normal(size=shape), draw.uniform(-1, 1, shape), draw.laplace(size=shape)]
    found = measure(np.stack(parts, axis=-1)).kurtosis
    np.testing.assert_allclose(found.value, [0.0, -1.2, 3.0], atol=0.2)
    assert np.all(found.high - found.low < 0.5)


def test_the_interval_of_the_mean_covers_it_though_pixels_are_correlated():
    """Each image is one number, repeated: 64 pixels say no more than one."""
    draw = np.random.default_rng(2)
    inside, widths = 0, []
    for seed in range(200):
        images = draw.normal(size=(50, 1, 1, 1)) + np.zeros((1, 8, 8, 1))
        mean = measure(images, seed=seed).mean
        inside += bool(mean.low[0] < 0 < mean.high[0])
        widths.append(mean.high[0] - mean.low[0])
    assert 0.88 < inside / 200 < 0.99
    assert np.mean(widths) == pytest.approx(2 * 1.96 / math.sqrt(50), rel=0.1)


def test_statistics_are_the_same_for_the_same_seed_and_plain_in_json():
    latents = np.random.default_rng(3).normal(size=(20, 2, 2, 3))
    found, again = measure(latents, seed=4), measure(latents[:5], latents[5:], seed=4)
    for name, estimate in found.to_json().items():
        if isinstance(estimate, dict):
            for part in estimate:
                np.testing.assert_allclose(estimate[part], again.to_json()[name][part], atol=1e-9)
    assert found.to_json() == measure(latents, seed=4).to_json()
    assert found.to_json() != measure(latents, seed=5).to_json()
    plain = json.loads(json.dumps(found.to_json()))
    assert plain["num_images"] == 20
    assert plain["coverage"] == 0.95
    assert len(plain["kurtosis"]["low"]) == 3
    assert isinstance(plain["std_all"]["value"], float)
    text = str(found)
    assert text.startswith("20 images (± half a 95% interval): mean ")
    assert "\n" not in text
    assert len(re.findall("±", text)) == 11


def test_scales():
    latents = np.random.default_rng(5).normal(size=(60, 4, 4, 2)) * [3.0, 0.5] + [1.0, -2.0]
    found = measure(latents)
    scale = measured_scale(found, "auto")
    white = (latents - np.asarray(scale.shift)) * np.asarray(scale.scale)
    np.testing.assert_allclose(white.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(white.std((0, 1, 2)), 1, atol=1e-5)
    scale = measured_scale(found, "std")
    np.testing.assert_array_equal(scale.shift, [0, 0])
    np.testing.assert_allclose(scale.scale, [1 / latents.std()] * 2, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_a_collapsed_channel_is_refused(value):
    latents = np.random.default_rng(6).normal(size=(4, 2, 2, 2))
    latents[..., 1] = value
    with pytest.raises(UserError, match=r"variance per channel is \[.*\]; expected positive. The "):
        measure(latents)
