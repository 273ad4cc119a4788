import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.nn.embedding import timestep_embedding


def test_timestep_embedding_equals_the_reference():
    # Facts of the reference, section 6.2.
    expected = [
        [0.54030, 0.99500, 0.99995, 1.0000, 0.84147, 0.099833, 0.0099998, 0.0010000],
        [-0.88385, 0.96497, 0.28366, 0.87758, -0.46777, -0.26238, -0.95892, 0.47943],
    ]
    y = jax.jit(timestep_embedding, static_argnums=1)(jnp.array([1.0, 500.0]), 8)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected, atol=3e-5)


def test_timestep_embedding_of_odd_width_ends_with_zeros():
    y = timestep_embedding(jnp.array([3.0]), 5)
    assert y.shape == (1, 5)
    np.testing.assert_allclose(
        y[0], [np.cos(3), np.cos(0.03), np.sin(3), np.sin(0.03), 0], atol=1e-6
    )


def test_timestep_embedding_takes_fractions():
    y = timestep_embedding(jnp.array([0.5]), 2)
    np.testing.assert_allclose(y[0], [np.cos(0.5), np.sin(0.5)], atol=1e-6)
