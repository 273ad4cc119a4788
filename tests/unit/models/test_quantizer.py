import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.models import quantizer
from ldm_jax.models.quantizer import (
    code_shares,
    codebook_loss,
    nearest_codes,
    perplexity,
    quantize,
    straight_through,
)


def test_nearest_codes_are_flat_and_equal_an_exhaustive_search():
    rng = np.random.default_rng(0)
    z, codebook = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(17, 5))
    distances = ((z.reshape(-1, 1, 5) - codebook[None]) ** 2).sum(-1)
    found = jax.jit(nearest_codes)(jnp.asarray(z), jnp.asarray(codebook))
    assert found.shape == (24,)
    np.testing.assert_array_equal(found, distances.argmin(-1))
    expected = codebook[distances.argmin(-1)].reshape(z.shape)
    np.testing.assert_allclose(quantize(jnp.asarray(z), jnp.asarray(codebook)), expected, rtol=1e-6)


def test_many_codes_are_searched_in_pieces_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(1)
    z, codebook = rng.normal(size=(2, 6, 4, 3)), rng.normal(size=(50, 3))
    whole = nearest_codes(jnp.asarray(z), jnp.asarray(codebook))
    for limit in (1, 2 * 4 * 50 * 2, 2 * 4 * 50 * 5):
        monkeypatch.setattr(quantizer, "_MAX_DISTANCES", limit)
        pieces = jax.jit(lambda z, e: nearest_codes(z, e))(jnp.asarray(z), jnp.asarray(codebook))
        np.testing.assert_array_equal(pieces, whole)


def test_sixteen_thousand_codes_fit_in_two_gibibytes():
    z = jax.ShapeDtypeStruct((8, 64, 64, 8), jnp.float32)
    codebook = jax.ShapeDtypeStruct((16_384, 8), jnp.float32)
    compiled = jax.jit(nearest_codes).lower(z, codebook).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**30


def test_shares_and_perplexity():
    shares = code_shares(jnp.array([0, 0, 3, 3]), 5)
    np.testing.assert_allclose(shares, [0.5, 0, 0, 0.5, 0])
    np.testing.assert_allclose(perplexity(shares), 2.0, rtol=1e-5)
    np.testing.assert_allclose(perplexity(jnp.full((7,), 1 / 7)), 7.0, rtol=1e-5)


def test_loss_of_the_facts_sheet():
    # One vector at distance² 0.32 over two dimensions: a mean of 0.16, times 1.25.
    z, z_q = jnp.zeros((1, 1, 1, 2)), jnp.full((1, 1, 1, 2), 0.4)
    for reference in (False, True):
        np.testing.assert_allclose(codebook_loss(z, z_q, reference=reference), 0.2, rtol=1e-6)


def test_beta_weighs_the_commitment_or_in_the_reference_the_codes():
    z, z_q = jnp.zeros((1, 1, 1, 2)), jnp.full((1, 1, 1, 2), 0.4)
    for reference, to_z, to_codes in ((False, 0.25, 1.0), (True, 1.0, 0.25)):
        gradients = jax.grad(codebook_loss, (0, 1))(z, z_q, reference=reference)
        # d mean(e²) / de = 2 e / n = 0.4 per entry, times the weight of the term.
        np.testing.assert_allclose(gradients[0], -0.4 * to_z * np.ones((1, 1, 1, 2)), rtol=1e-6)
        np.testing.assert_allclose(gradients[1], 0.4 * to_codes * np.ones((1, 1, 1, 2)), rtol=1e-6)


def test_straight_through_has_the_value_of_the_code_and_the_gradient_of_the_vector():
    z, z_q = jnp.array([[0.3, -0.2]]), jnp.array([[1.0, 2.0]])
    np.testing.assert_allclose(straight_through(z, z_q), z_q, rtol=1e-6)
    gradient = jax.grad(lambda z: jnp.sum(3.0 * straight_through(z, z_q)))(z)
    np.testing.assert_array_equal(gradient, [[3.0, 3.0]])
