"""The warm-up of the average."""

import jax
import jax.numpy as jnp
import pytest

from ldm_jax.train.state import ema_decay


@pytest.mark.parametrize(("updates", "decay"), [(1, 2 / 11), (8, 0.5), (90, 0.91), (10**6, 0.9999)])
def test_decay(updates, decay):
    assert float(jax.jit(ema_decay)(jnp.int32(updates), 0.9999)) == pytest.approx(decay, rel=1e-6)


def test_a_small_maximum_holds_from_the_start():
    assert float(ema_decay(jnp.int32(1), 0.1)) == pytest.approx(0.1)
