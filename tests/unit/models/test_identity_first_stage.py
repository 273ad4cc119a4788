import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.models import IdentityFirstStage

X = np.random.default_rng(0).uniform(-1, 1, size=(2, 3, 5, 3)).astype(np.float32)


def test_properties():
    model = IdentityFirstStage()
    assert model.downsampling_factor == 1
    assert model.latent_channels == 3
    assert model.latent_shape(5, 7) == (5, 7, 3)
    assert IdentityFirstStage(image_channels=1).latent_shape(5, 7) == (5, 7, 1)


def test_images_are_their_own_latents():
    model = IdentityFirstStage()
    assert model.init(jax.random.key(0), X, X) == {}
    code = jax.jit(functools.partial(model.apply, method="encode"))({}, X)
    for latent in (code.latent, code.mode(), code.sample(jnp.ones_like(X))):
        np.testing.assert_array_equal(latent, X)
    images = jax.jit(functools.partial(model.apply, method="decode"))({}, X)
    np.testing.assert_array_equal(images, X)
    images, code = jax.jit(model.apply)({}, X, X)
    np.testing.assert_array_equal(images, X)
    np.testing.assert_array_equal(code.mode(), X)


def test_errors():
    with pytest.raises(UserError, match=r"image_channels: got 0\. Legal: 1 or more\."):
        IdentityFirstStage(image_channels=0)
    model = IdentityFirstStage(image_channels=1)
    with pytest.raises(UserError, match=r"images: got shape \(2, 3, 5, 3\), expected .* 1\)"):
        model.apply({}, X, method="encode")
    with pytest.raises(UserError, match=r"latents: got shape \(2, 3, 5, 3\), expected .* 1\)"):
        model.apply({}, X, method="decode")
