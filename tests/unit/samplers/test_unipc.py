import numpy as np
import pytest
from scipy.integrate import quad
from whole_sigmas import assert_rows, levels_of, signal

from ldm_jax.core.checks import UserError
from ldm_jax.samplers.unipc import unipc

SIGMAS = (12.0, 8.0, 5.0, 4.0, 2.5, 2.0, 1.0, 0.0)
LOG_SNR = -np.log(SIGMAS[:-1])


def _noise(sigma):
    return sigma * signal(sigma)


@pytest.mark.parametrize(("solver", "b_h"), [("bh1", -np.log([1.5, 2])), ("bh2", [-1 / 3, -1 / 2])])
def test_first_order(solver, b_h):
    """Predicted as by Euler, corrected with half of x0's change times -B(h)."""
    s_2, s_1 = signal([2, 1])
    stay = [1, _noise(2) / _noise(3), _noise(1) / _noise(2)]
    change = [0, -s_2 * b_h[0] / 2, -s_1 * b_h[1] / 2]
    now = np.array([0, s_2 / 3, s_1 / 2])
    assert_rows(
        unipc(levels_of(3, 2, 1, 0), order=1, solver=solver),
        from_z=[1, 0, 0],
        from_base=[0, *stay[1:]],
        from_x0=change,
        from_h1=now - change,
        base=[*stay[1:], 0],
        x0=[s_2 / 3, s_1 / 2, 1],
        keep_x0=1,
    )


def _exact(i, power):
    """Returns what x0 = lambda^power adds to z in step i, by quadrature.

    The solution of the flow is z_next = sigma' z / sigma' + alpha' integral of exp(lambda -
    lambda') x0 (Lu et al. 2022, eq. 8).
    """
    end = LOG_SNR[i + 1]
    added, _ = quad(lambda u: np.exp(u - end) * u**power, LOG_SNR[i], end, epsabs=1e-14)
    return signal(SIGMAS[i + 1]) * added


@pytest.mark.parametrize("solver", ["bh1", "bh2"])
@pytest.mark.parametrize("power", [0, 1, 2, 3])
def test_third_order_is_exact_for_polynomials_in_log_snr(power, solver):
    """The predictor takes three x0, up to a parabola; the corrector one more, up to a cubic."""
    rows = unipc(levels_of(*SIGMAS), order=3, solver=solver)
    i = 3
    now, h1, h2, h3 = LOG_SNR[[i, i - 1, i - 2, i - 3]] ** power
    predicted = rows.x0[i] * now + rows.h1[i] * h1 + rows.h2[i] * h2
    if power <= 2:
        assert predicted == pytest.approx(_exact(i, power), rel=1e-9)
    else:
        assert abs(predicted / _exact(i, power) - 1) > 1e-3
    corrected = (
        rows.from_x0[i] * now + rows.from_h1[i] * h1 + rows.from_h2[i] * h2 + rows.from_h3[i] * h3
    )
    assert corrected == pytest.approx(_exact(i - 1, power), rel=1e-9)


def test_the_ends_are_of_lower_order():
    rows = unipc(levels_of(*SIGMAS), order=3)
    # Predictors take 1, 2, 3, 3, 3, 2, 1 values; correctors one more than the step before took.
    np.testing.assert_array_equal(rows.h1 != 0, [0, 1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(rows.h2 != 0, [0, 0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(rows.from_x0 != 0, [0, 1, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(rows.from_h2 != 0, [0, 0, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(rows.from_h3 != 0, [0, 0, 0, 1, 1, 1, 0])
    assert (rows.base[-1], rows.x0[-1]) == (0, 1)


def test_errors():
    with pytest.raises(UserError, match=r"sampler 'unipc' order: got 4\. Legal: 1, 2, 3\.$"):
        unipc(levels_of(1, 0), order=4)
    with pytest.raises(UserError, match="sampler 'unipc' solver: got 'bh3'; did you mean 'bh"):
        unipc(levels_of(1, 0), solver="bh3")
    with pytest.raises(UserError, match="'unipc' with 2 steps: two of them"):
        unipc(levels_of(1, 1, 0))
