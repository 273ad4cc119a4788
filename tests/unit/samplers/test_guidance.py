import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Conditioning
from ldm_jax.diffusion.parameterization import from_eps
from ldm_jax.samplers.guidance import classifier_free

RNG = np.random.default_rng(0)
Z = jnp.asarray(RNG.normal(size=(3, 2, 2, 1)), jnp.float32)
T = jnp.array([5.0, 6.0, 7.0])
ALPHA_BAR = 0.4
CONTEXT = RNG.normal(size=(3, 4, 2)).astype(np.float32)
NULL = RNG.normal(size=(1, 4, 2)).astype(np.float32)
CONCAT = RNG.normal(size=(3, 2, 2, 1)).astype(np.float32)


def _eps(z, t, context):
    return np.asarray(z) * context.mean((1, 2)).reshape(3, 1, 1, 1) + np.asarray(t).reshape(
        3, 1, 1, 1
    )


def _denoise(z, t, conditioning):
    level = jnp.mean(conditioning.context, axis=(1, 2))[:, None, None, None]
    return from_eps(z * level + t[:, None, None, None], z, jnp.float32(ALPHA_BAR))


@pytest.mark.parametrize("scale", [0.0, 3.0, np.array([1.0, 2.0, 7.5], np.float32)])
@pytest.mark.parametrize("null_batch", [1, 3])
def test_arithmetic(scale, null_batch):
    null = np.broadcast_to(NULL, (null_batch, 4, 2))
    predict = classifier_free(
        _denoise, Conditioning(jnp.asarray(CONTEXT)), Conditioning(jnp.asarray(null)), scale
    )
    found = jax.jit(predict)(Z, T)
    absent, present = _eps(Z, T, np.broadcast_to(NULL, (3, 4, 2))), _eps(Z, T, CONTEXT)
    weight = np.reshape(scale, (-1, 1, 1, 1))
    eps = absent + weight * (present - absent)
    np.testing.assert_allclose(found.eps, eps, rtol=1e-4, atol=1e-4)
    # The x0 that belongs to the guided eps, by its definition.
    x0 = (np.asarray(Z) - np.sqrt(1 - ALPHA_BAR) * eps) / np.sqrt(ALPHA_BAR)
    np.testing.assert_allclose(found.x0, x0, rtol=1e-4, atol=1e-4)


def test_one_call_on_null_then_conditioning():
    calls = []

    def denoise(z, t, conditioning):
        calls.append((z, t, conditioning))
        return from_eps(z, z, jnp.float32(ALPHA_BAR))

    conditioning = Conditioning(jnp.asarray(CONTEXT), concat=jnp.asarray(CONCAT))
    null = Conditioning(jnp.asarray(NULL), concat=jnp.zeros((1, 2, 2, 1)))
    classifier_free(denoise, conditioning, null, 2.0)(Z, T)
    ((z, t, both),) = calls
    np.testing.assert_array_equal(z, np.concatenate([Z, Z]))
    np.testing.assert_array_equal(t, np.concatenate([T, T]))
    np.testing.assert_array_equal(both.context, np.concatenate([*[NULL] * 3, CONTEXT]))
    np.testing.assert_array_equal(both.concat, np.concatenate([np.zeros_like(CONCAT), CONCAT]))
    assert both.embedding is None


@pytest.mark.parametrize(
    ("null", "scale"),
    [(Conditioning(jnp.asarray(NULL)), 1.0), (Conditioning(NULL), 1), (None, 3.0)],
)
def test_plain(null, scale):
    batches = []

    def denoise(z, t, conditioning):
        batches.append(z.shape[0])
        return _denoise(z, t, conditioning)

    found = classifier_free(denoise, Conditioning(jnp.asarray(CONTEXT)), null, scale)(Z, T)
    np.testing.assert_allclose(found.eps, _eps(Z, T, CONTEXT), rtol=1e-5, atol=1e-5)
    assert batches == [3]


@pytest.mark.parametrize(
    ("conditioning", "null", "text"),
    [
        (
            Conditioning(CONTEXT),
            Conditioning(NULL, concat=CONCAT),
            "null conditioning, concat: got shape (3, 2, 2, 1), expected None",
        ),
        (
            Conditioning(CONTEXT),
            Conditioning(NULL[:, :3]),
            "null conditioning, context: got shape (1, 3, 2), expected (3, 4, 2)",
        ),
        (
            Conditioning(CONTEXT),
            Conditioning(CONTEXT[:2]),
            "got shape (2, 4, 2), expected (3, 4, 2) as in the conditioning. Legal: the same",
        ),
        (
            None,
            Conditioning(NULL),
            "null conditioning, context: got shape (1, 4, 2), expected None",
        ),
    ],
)
def test_errors(conditioning, null, text):
    with pytest.raises(UserError) as error:
        classifier_free(_denoise, conditioning, null, 2.0)
    assert text in str(error.value)
