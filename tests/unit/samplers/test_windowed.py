"""Denoising in overlapping windows."""

import jax.numpy as jnp
import numpy as np

from ldm_jax.core.types import Conditioning
from ldm_jax.diffusion.parameterization import from_eps
from ldm_jax.samplers.windows import windowed

RNG = np.random.default_rng(0)


def test_maps_of_the_conditioning_are_cut_as_the_latent_is():
    z = RNG.normal(size=(2, 10, 7, 3)).astype(np.float32)
    concat = RNG.normal(size=(2, 10, 7, 1)).astype(np.float32)
    context = RNG.normal(size=(2, 5, 4)).astype(np.float32)
    t, shapes = jnp.array([4.0, 9.0]), []

    def denoise(z, t, conditioning):
        shapes.append((z.shape, conditioning.concat.shape, conditioning.context.shape, t.shape))
        found = from_eps(z * conditioning.concat + t[:, None, None, None], z, jnp.float32(0.5))
        fraction = jnp.mean(conditioning.context) + 0 * z
        return found._replace(variance_fraction=fraction)

    conditioning = Conditioning(context=jnp.asarray(context), concat=jnp.asarray(concat))
    found = windowed(denoise, (4, 5), (2, 1))(jnp.asarray(z), t, conditioning)
    assert {*shapes} == {((2, 4, 5, 3), (2, 4, 5, 1), (2, 5, 4), (2,))}
    # Of pixels alone, so that windows change nothing but rounding.
    eps = z * concat + np.array([4.0, 9.0], np.float32).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(found.eps, eps, rtol=1e-5, atol=1e-5)
    x0 = (z - np.sqrt(0.5) * eps) / np.sqrt(0.5)
    np.testing.assert_allclose(found.x0, x0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.variance_fraction, np.full_like(z, context.mean()), rtol=1e-4)


def test_without_a_condition():
    z = RNG.normal(size=(1, 6, 6, 1)).astype(np.float32)

    def denoise(z, t, conditioning):
        assert conditioning is None
        return from_eps(z / 2, z, jnp.float32(0.5))

    found = windowed(denoise, (4, 4), (2, 2))(jnp.asarray(z), jnp.zeros((1,)), None)
    np.testing.assert_allclose(found.eps, z / 2, rtol=1e-5, atol=1e-6)
    assert found.variance_fraction is None
