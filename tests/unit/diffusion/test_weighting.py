import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.parameterization import PARAMETERIZATIONS
from ldm_jax.diffusion.schedule import Schedule, alpha_bars, make_schedule
from ldm_jax.diffusion.weighting import WEIGHTINGS, lvlb, min_snr

TABLE = alpha_bars()
EXACT = Schedule(alpha_bar=TABLE)  # the float64 table, so that golden digits can be compared
SNR = TABLE / (1 - TABLE)
GOLDEN_T = np.array([1, 2, 10, 500, 999])
GOLDEN = [0.5033705603, 0.2525293197, 0.0518633118, 0.0045394142, 0.0099453496]


def test_lvlb_eps_golden_numbers():
    weights = lvlb(EXACT, "eps")
    np.testing.assert_allclose(weights[GOLDEN_T], GOLDEN, rtol=1e-7)
    assert weights[0] == weights[1]
    # From the float32 table, whose 1 - alpha_bar has four digits at t = 0.
    np.testing.assert_allclose(lvlb(make_schedule(), "eps")[GOLDEN_T], GOLDEN, rtol=5e-5)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_lvlb_is_the_same_bound_in_every_parameterization(parameterization):
    """Weight times squared error must not depend on how the network speaks."""
    in_x0 = (SNR[:-1] - SNR[1:]) / 2
    per_x0_error = {"eps": SNR, "x0": np.ones(1000), "v": 1 / (1 - TABLE)}[parameterization]
    weights = np.asarray(lvlb(EXACT, parameterization))
    np.testing.assert_allclose((weights * per_x0_error)[1:], in_x0, rtol=1e-5)
    assert weights[0] == weights[1]


def test_lvlb_reference_forms():
    weights = np.asarray(lvlb(EXACT, "x0", reference=True))
    np.testing.assert_allclose(weights[1:], (0.5 * np.sqrt(TABLE) / (2 - TABLE))[1:], rtol=1e-6)
    assert weights[0] == weights[1]
    np.testing.assert_array_equal(lvlb(EXACT, "eps", reference=True), lvlb(EXACT, "eps"))


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr(gamma):
    cut = np.array([min(snr, gamma) for snr in SNR])
    np.testing.assert_allclose(min_snr(EXACT, "eps", gamma), cut / SNR, rtol=1e-6)
    np.testing.assert_allclose(min_snr(EXACT, "x0", gamma), cut, rtol=1e-6)
    np.testing.assert_allclose(min_snr(EXACT, "v", gamma), cut / (SNR + 1), rtol=1e-6)


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_every_table(name, parameterization):
    weights = WEIGHTINGS[name](make_schedule(), parameterization)
    assert weights.shape == (1000,)
    assert weights.dtype == jnp.float32
    assert np.all(np.isfinite(weights))
    assert np.all(np.asarray(weights) > 0)
    if name == "uniform":
        np.testing.assert_array_equal(weights, np.ones(1000))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: lvlb(EXACT, "v", reference=True), "reference=True: got 'v'. Legal: eps, x0."),
        (lambda: lvlb(Schedule(TABLE[:1]), "eps"), "weighting 'lvlb': got num_timesteps=1."),
        (lambda: min_snr(EXACT, "eps", 0.0), "weighting 'min_snr' gamma: got 0.0."),
        (lambda: WEIGHTINGS["uniform"](EXACT, "score"), "parameterization: got 'score'"),
        (lambda: lvlb(EXACT, "score"), "Legal: eps, x0, v."),
        (lambda: min_snr(EXACT, "score"), "Legal: eps, x0, v."),
    ],
)
def test_errors(call, text):
    with pytest.raises(UserError) as error:
        call()
    assert text in str(error.value)
