import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.models.posterior import DiagonalGaussian


def test_kl_equals_the_reference():
    # Facts 6.2: 0.5 * 16 * (e - 1).
    posterior = DiagonalGaussian(mean=jnp.ones((2, 2, 2, 4)), logvar=jnp.ones((2, 2, 2, 4)))
    kl = jax.jit(DiagonalGaussian.kl)(posterior)
    np.testing.assert_allclose(kl, [13.74625, 13.74625], rtol=1e-6)


def test_kl_of_the_standard_normal_is_zero():
    posterior = DiagonalGaussian(mean=jnp.zeros((1, 2, 2, 3)), logvar=jnp.zeros((1, 2, 2, 3)))
    assert posterior.kl().tolist() == [0.0]


def test_moments_are_mean_then_clamped_log_variance():
    moments = jnp.array([1.0, 2.0, -100.0, 50.0], jnp.bfloat16).reshape(1, 1, 1, 4)
    posterior = DiagonalGaussian.from_moments(moments)
    assert posterior.mean.dtype == posterior.logvar.dtype == jnp.float32
    assert posterior.mean.ravel().tolist() == [1.0, 2.0]
    assert posterior.logvar.ravel().tolist() == [-30.0, 20.0]


def test_sample_scales_the_noise_by_the_standard_deviation():
    shape = (1, 1, 1, 2)
    logvar = jnp.array([0.0, 2 * np.log(3.0)], jnp.float32).reshape(shape)
    posterior = DiagonalGaussian(mean=jnp.full(shape, 5.0), logvar=logvar)
    sample = posterior.sample(jnp.full(shape, -1.0))
    np.testing.assert_allclose(sample.ravel(), [4.0, 2.0], rtol=1e-6)
    assert posterior.mode().ravel().tolist() == [5.0, 5.0]
