"""UniPC, a predictor and corrector of any order (Zhao et al. 2023, arXiv 2302.04867)."""

import numpy as np

from ldm_jax.core.checks import check_in
from ldm_jax.diffusion.spacing import Levels
from ldm_jax.samplers.base import Rows, make_rows

ORDERS = (1, 2, 3)
SOLVERS = ("bh1", "bh2")


def unipc(levels: Levels, order: int = 2, solver: str = "bh2") -> Rows:
    """Returns UniPC in its x0 form: each answer first corrects the step that led to it.

    With lambda = -log sigma, h = lambda_next - lambda, m_0 the x0 at the step's start and
    D_k = (m_k - m_0) / r_k of other x0, r_k = (lambda_k - lambda) / h (section 3 and appendix):

      z_next = sigma_next' / sigma' z + alpha_next (1 - exp(-h)) m_0
               - alpha_next B(h) sum_k rho_k D_k

    The predictor takes earlier x0, the corrector also the one at the step's end, which costs no
    further evaluation, and makes the order of a step one more. Here alpha = sqrt(alpha_bar) and
    sigma' = sqrt(1 - alpha_bar). The first steps take as many x0 as there are, the last steps as
    many as there are steps left, as in diffusers, and one to clean data takes one.

    Args:
      levels: noise levels to visit.
      order: 1 to 3.
      solver: B(h), -h ('bh1') or exp(-h) - 1 ('bh2').
    """
    check_in("sampler 'unipc' order", order, ORDERS)
    check_in("sampler 'unipc' solver", solver, SOLVERS)
    h, _ = levels.log_steps("unipc")
    count = len(levels)
    orders = np.minimum(np.arange(count) + 1, np.minimum(order, count - np.arange(count)))
    orders = np.where(levels.sigma[1:] > 0, orders, 1)
    predict, correct = np.zeros((count, 4)), np.zeros((count, 5))
    correct[0, 0] = 1  # there is nothing to correct yet: the first step starts at z_T
    log_snr = -np.log(levels.sigma[:-1])
    for i in range(count):
        # Of the steps that end at i + 1 (predicted) and at i (corrected).
        r = _distances(log_snr, i, h[i], orders[i])
        stay, now, others = _step(levels, i, h[i], r, solver, corrected=False)
        predict[i, : 2 + len(others)] = [stay, now, *others]
        if i:
            r = _distances(log_snr, i - 1, h[i - 1], orders[i - 1])
            stay, before, (*others, end) = _step(levels, i - 1, h[i - 1], [*r, 1.0], solver, True)
            correct[i, : 3 + len(others)] = [stay, end, before, *others]
    base, x0, h1, h2 = predict.T
    from_first, from_x0, from_h1, from_h2, from_h3 = correct.T
    first = np.arange(count) == 0
    return make_rows(
        levels.t,
        from_z=np.where(first, from_first, 0),
        from_base=np.where(first, 0, from_first),
        from_x0=from_x0,
        from_h1=from_h1,
        from_h2=from_h2,
        from_h3=from_h3,
        base=base,
        x0=x0,
        h1=h1,
        h2=h2,
        keep_x0=1,
    )


def _distances(log_snr: np.ndarray, i: int, h: float, order: int) -> list[float]:
    """Returns r_k of the `order` - 1 answers before row i, newest first; negative."""
    return [(log_snr[i - k] - log_snr[i]) / h for k in range(1, order)]


def _step(
    levels: Levels, i: int, h: float, r: list[float], solver: str, corrected: bool
) -> tuple[float, float, list[float]]:
    """Returns the weights of z, of m_0, and of the x0 at distances `r` in the step from level i."""
    noise, signal = levels.noise, levels.signal
    b_h = np.expm1(-h) if solver == "bh2" else -h
    rho = _rho(np.array(r), h, b_h, corrected)
    weights = -signal[i + 1] * b_h * rho / r if len(r) else np.zeros(0)
    now = -signal[i + 1] * np.expm1(-h) - np.sum(weights)
    return noise[i + 1] / noise[i], now, list(weights)


def _rho(r: np.ndarray, h: float, b_h: float, corrected: bool) -> np.ndarray:
    """Solves sum_k rho_k r_k^(n - 1) = n! phi_{n + 1}(h) / B(h) for n = 1, 2, ... (theorem 3.1).

    phi_1 = expm1(-h), phi_{n + 1} = phi_n / -h - 1 / n!. Where there is a single unknown the
    authors take 1 / 2, which is of the same order.
    """
    if len(r) == 0:
        return np.zeros(0)
    if len(r) == 1:
        return np.array([0.5])
    phi, factorial, right = np.expm1(-h), 1, []
    phi = phi / -h - 1
    for n in range(1, len(r) + 1):
        right.append(phi * factorial / b_h)
        factorial *= n + 1
        phi = phi / -h - 1 / factorial
    return np.linalg.solve(np.vander(r, increasing=True).T, np.array(right))
