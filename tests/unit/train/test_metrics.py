"""Windows of metrics, and the stop on what is not a number."""

import re

import jax.numpy as jnp
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.train.metrics import MetricWindow, NonFiniteError


def test_means_of_a_window_which_is_then_empty():
    window = MetricWindow()
    window.add(1, {"loss": jnp.float32(1.0), "lr": jnp.float32(0.5)})
    window.add(2, {"loss": jnp.float32(4.0), "lr": jnp.float32(0.5)})
    assert window.flush() == {"loss": 2.5, "lr": 0.5}
    assert window.flush() == {}


@pytest.mark.parametrize("name", ["loss", "grad_norm", "discriminator/loss", "g/grad_norm"])
@pytest.mark.parametrize(
    ("value", "word"), [(jnp.nan, "nan"), (jnp.inf, "inf"), (-jnp.inf, "-inf")]
)
def test_names_the_first_bad_step(name, value, word):
    window = MetricWindow()
    for step in range(3, 7):
        window.add(step, {name: jnp.float32(1.0 if step < 5 else value)})
    text = (
        f"step 5: {name} is {word}; expected a finite number. Try a lower train.learning_rate, "
        "a train.clip_norm such as 1.0, or longer train.warmup_steps."
    )
    with pytest.raises(NonFiniteError, match=f"^{re.escape(text)}$"):
        window.flush()
    assert window.flush() == {}


def test_other_metrics_may_be_infinite():
    window = MetricWindow()
    window.add(1, {"psnr": jnp.float32(jnp.inf)})
    assert window.flush() == {"psnr": float("inf")}


def test_it_is_an_error_of_the_user():
    assert issubclass(NonFiniteError, UserError)
