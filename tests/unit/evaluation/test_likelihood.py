"""The variational bound against data whose every term is known in closed form.

For x0 ~ N(M, S²) in every element, with a = alpha_bar_t, the best prediction of x0 is M + sqrt(a)
S² / (a S² + 1 - a) (z - sqrt(a) M), and its squared error has the mean S² (1 - a) / (a S² + 1 - a).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.loss import variational_bound
from ldm_jax.diffusion.parameterization import Prediction, to_prediction, to_v
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.evaluation.likelihood import (
    bound_profile,
    discretized_log_probability,
    log_density,
    noised,
    posterior_entropy,
)
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import batch_sharding

M, S = np.array([0.7, -0.2, 0.1]), np.array([0.5, 1.0, 0.8])  # by channel
SCHEDULE = make_schedule("sqrt_linear", num_timesteps=16, start=0.02, end=0.4)
draw_noise, train_bound = jax.jit(noised), jax.jit(variational_bound)
# Three standard errors of a mean of squares of n normals are 3 sqrt(2 / n): under 1 % here.
IMAGES, SIZE = 80, 32


def table(schedule):
    """Returns alpha_bar and alpha_bar of the timestep before, in float64."""
    alpha_bar = np.asarray(schedule.alpha_bar, np.float64)
    return alpha_bar, np.append(1.0, alpha_bar[:-1])


def gaussian(seed, images=IMAGES, size=SIZE, s=S):
    x0 = M + s * np.random.default_rng(seed).standard_normal((images, size, size, 3))
    return jnp.asarray(x0, jnp.float32)


def oracle(schedule, kind="eps", fraction=None, s=S):
    """Returns the best predictor, told in one of the parameterisations."""

    def predict(z, t):
        rows = alpha_bar_at(schedule, t)
        a = rows[:, None, None, None]
        m, s2 = (jnp.asarray(x, jnp.float32)[None, None, None, :] for x in (M, s**2))
        x0 = m + jnp.sqrt(a) * s2 / (a * s2 + 1 - a) * (z - jnp.sqrt(a) * m)
        eps = jnp.sqrt(1 - a) / (a * s2 + 1 - a) * (z - jnp.sqrt(a) * m)
        output = {"x0": x0, "eps": eps, "v": to_v(x0, eps, rows)}[kind]
        found = to_prediction(kind, output, z, rows)
        if fraction is None:
            return found
        return found._replace(variance_fraction=fraction(t)[:, None, None, None] + 0 * z)

    return predict


def run(predict, schedule, x0, seed=0, indices=None, **settings):
    indices = jnp.arange(len(x0)) if indices is None else indices
    return compiled(predict, schedule, **settings)(x0, indices, seed)


def compiled(predict, schedule, **settings):
    return jax.jit(lambda x0, k, seed: bound_profile(predict, schedule, x0, seed, k, **settings))


def half(t):
    return 0.5 + 0 * t


def expected_profile(schedule, variance):
    """Returns prior, terms [T] and their part that is random, [T], in bits; and both errors."""
    a, previous = table(schedule)
    beta = 1 - a / previous
    smallest = beta * (1 - previous) / (1 - a)
    smallest[0] = smallest[1]
    largest = np.append(smallest[0] if variance == "beta" else beta[0], beta[1:])
    fraction = {"posterior": 0.0, "beta": 1.0, "learned": 0.5}[variance]
    reverse = smallest ** (1 - fraction) * largest**fraction
    c_x0 = np.sqrt(previous) * beta / (1 - a)
    column = a[:, None]
    x0_mse = S**2 * (1 - column) / (column * S**2 + 1 - column)
    random = c_x0**2 * x0_mse.mean(1) / (2 * reverse)
    fixed = (np.log(reverse / smallest) + smallest / reverse - 1) / 2
    fixed[0] = np.log(2 * np.pi * reverse[0]) / 2
    prior = (a[-1] * (M**2 + S**2).mean() - a[-1] - np.log(1 - a[-1])) / 2
    eps_mse = x0_mse.mean(1) * a / (1 - a)
    bits = 1 / np.log(2)
    return prior * bits, (fixed + random) * bits, random * bits, x0_mse.mean(1), eps_mse


@pytest.mark.parametrize(
    ("variance", "kind"), [("posterior", "eps"), ("beta", "x0"), ("learned", "v")]
)
def test_every_term_of_gaussian_data(variance, kind):
    predict = oracle(SCHEDULE, kind, half if variance == "learned" else None)
    found = run(predict, SCHEDULE, gaussian(0), variance=variance)
    prior, terms, random, x0_mse, eps_mse = expected_profile(SCHEDULE, variance)
    # Channels of small variance weigh little, so that fewer elements count.
    a = table(SCHEDULE)[0][:, None]
    weight = S**2 * (1 - a) / (a * S**2 + 1 - a)
    spread = np.sqrt((weight**2).mean(1)) / weight.mean(1)
    error = spread * np.sqrt(2 / (IMAGES * SIZE**2 * 3))  # relative, one standard error
    assert 3 * error.max() < 0.01
    means = [np.asarray(x, np.float64).mean(0) for x in (found.terms, found.x0_mse, found.eps_mse)]
    for got, want, scale in zip(
        means, (terms, x0_mse, eps_mse), (random, x0_mse, eps_mse), strict=True
    ):
        # The largest of 16 stays within 3.5 standard errors but once in a hundred times.
        assert (np.abs(got - want) < 3.5 * error * scale + 1e-6).all()
    assert np.mean(found.prior) == pytest.approx(prior, rel=0.01)
    total = prior + terms.sum()
    standard = np.std(found.bits(), ddof=1) / np.sqrt(IMAGES)
    assert np.mean(found.bits()) == pytest.approx(total, abs=3 * standard)
    assert 3 * standard < 0.01 * total


def negative_log_likelihood(x0, s):
    """Returns the exact bits per dimension of each example."""
    nats = np.square((x0 - M) / s) / 2 + np.log(2 * np.pi * s**2) / 2
    return nats.mean((1, 2, 3)) / np.log(2)


def test_it_bounds_the_likelihood_and_the_gap_shrinks():
    """With beta_t, the best variance where the noise is small beside the data, nothing remains."""

    def largest(t):
        return jnp.ones_like(t)

    s = np.array([0.4, 1.0, 0.15])  # the narrower the data, the more timesteps they need
    x0, gaps = gaussian(1, 16, s=s), []
    exact = negative_log_likelihood(np.asarray(x0, np.float64), s)
    for num_timesteps in (8, 32, 128):
        schedule = make_schedule("cosine", num_timesteps=num_timesteps)
        predict = oracle(schedule, fraction=largest, s=s)
        profile = run(predict, schedule, x0, variance="learned")
        gaps.append(np.mean(profile.bits() - exact))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2] > 0  # 0.32, 0.098 and 0.026 by the formulas above
    assert gaps[2] < 0.05


def test_two_levels_take_one_bit():
    """Pixels of 0 or 255: the best x0 is a tanh, the entropy 1 bit, and the bound comes down to it.

    The terms are an upper Riemann sum of the integral of half the least squared error over the SNR,
    which is the entropy (Guo et al. 2005, arXiv cs/0412108, the I-MMSE identity).
    """
    x0 = np.random.default_rng(0).choice([-1.0, 1.0], (16, 16, 16, 1)).astype(np.float32)
    points, weights = np.polynomial.hermite_e.hermegauss(201)
    bits = []
    for num_timesteps in (8, 32, 128):
        schedule = make_schedule("cosine", num_timesteps=num_timesteps)

        def predict(z, t, schedule=schedule):
            a = alpha_bar_at(schedule, t)[:, None, None, None]
            x0 = jnp.tanh(jnp.sqrt(a) / (1 - a) * z)
            eps = (z - jnp.sqrt(a) * x0) / jnp.sqrt(1 - a)
            # The decoder is sure of its level: a normal distribution about 255 has half below it.
            first = (t == 0)[:, None, None, None]
            return Prediction(x0, eps, jnp.where(first, -60.0, 0.0) + 0 * z)

        settings = {"variance": "learned", "decoder": discretized_log_probability}
        profile = run(predict, schedule, jnp.asarray(x0), **settings)
        np.testing.assert_allclose(profile.terms[:, 0], 0, atol=1e-5)
        bits.append(np.mean(profile.bits()))
        snr = table(schedule)[0] / (1 - table(schedule)[0])
        seen = np.tanh(snr[:, None] + np.sqrt(snr)[:, None] * points[None, :])
        least = 1 - (seen * weights[None, :]).sum(1) / weights.sum()
        total = ((snr[:-1] - snr[1:]) * least[1:]).sum() / 2 / np.log(2)
        assert bits[-1] == pytest.approx(total, abs=3 * np.std(profile.bits()) / np.sqrt(16) + 1e-4)
    assert bits[0] > bits[1] > bits[2] > 1
    assert bits[2] < 1.05


def normal_kl(mean1, log_variance1, mean2, log_variance2):
    """The textbook's KL divergence of two normal distributions, in nats."""
    ratio = np.exp(log_variance1 - log_variance2)
    squared = (mean1 - mean2) ** 2 * np.exp(-log_variance2)
    return 0.5 * (log_variance2 - log_variance1 + ratio - 1 + squared)


def level_log_probability(x, mean, log_variance):
    """The integral of a normal density over a level's bin, one element at a time."""
    found = np.empty(np.shape(x))
    for at in np.ndindex(found.shape):
        scale = math.sqrt(2) * math.exp(0.5 * log_variance[at])
        lower, upper = ((x[at] + s / 255 - mean[at]) / scale for s in (-1, 1))
        if x[at] < -0.999:
            mass = 0.5 * math.erfc(-upper)
        elif x[at] > 0.999:
            mass = 0.5 * math.erfc(lower)
        elif lower > 0:
            mass = 0.5 * (math.erfc(lower) - math.erfc(upper))
        else:
            mass = 0.5 * (math.erfc(-upper) - math.erfc(-lower))
        found[at] = math.log(mass)
    return found


@pytest.mark.parametrize("pixels", [False, True])
def test_every_term_by_the_textbook(pixels):
    """A predictor that is wrong, with a variance of its own in every element."""
    schedule = make_schedule(num_timesteps=12)
    draw = np.random.default_rng(2)
    levels = draw.integers(0, 256, (3, 4, 4, 1))
    levels[0, 0, :2, 0] = 0, 255
    x0 = np.float32(levels / 127.5 - 1)
    offset = draw.uniform(-0.2, 0.2, (3, 4, 4, 1)).astype(np.float32)
    fraction = draw.uniform(-0.2, 1.2, (3, 4, 4, 1)).astype(np.float32)

    def predict(z, t):
        return Prediction(x0 + offset, z, jnp.asarray(fraction))

    decoder = discretized_log_probability if pixels else log_density
    profile = run(predict, schedule, jnp.asarray(x0), variance="learned", decoder=decoder)
    a, previous = table(schedule)
    beta = 1 - a / previous
    smallest = beta * (1 - previous) / (1 - a)
    smallest[0] = smallest[1]
    for t in range(12):
        z = np.asarray(draw_noise(schedule, jnp.asarray(x0), jnp.int32(t), 0, jnp.arange(3))[0])
        c_x0 = np.sqrt(previous[t]) * beta[t] / (1 - a[t])
        c_z = np.sqrt(1 - beta[t]) * (1 - previous[t]) / (1 - a[t])
        true, mean = (c_x0 * x.astype(np.float64) + c_z * z for x in (x0, x0 + offset))
        log_variance = fraction * np.log(beta[t]) + (1 - fraction) * np.log(smallest[t])
        if t:
            nats = normal_kl(true, np.log(smallest[t]), mean, log_variance)
        elif pixels:
            nats = -level_log_probability(x0, mean, log_variance)
        else:
            squared = (x0 - mean) ** 2 / np.exp(log_variance)
            nats = (squared + log_variance + np.log(2 * np.pi)) / 2
        want = nats.mean((1, 2, 3)) / np.log(2)
        np.testing.assert_allclose(profile.terms[:, t], want, rtol=2e-5)
        if not pixels:  # the bound that training descends, whose differences are rounded
            arrays = (jnp.asarray(x, jnp.float32) for x in (x0 + offset, fraction, x0, z))
            trained = train_bound(schedule, *arrays, jnp.full(3, t))
            np.testing.assert_allclose(profile.terms[:, t], trained, rtol=5e-3)
    want = (a[-1] * x0.astype(np.float64) ** 2 - a[-1] - np.log1p(-a[-1])).mean((1, 2, 3)) / 2
    np.testing.assert_allclose(profile.prior, want / np.log(2), rtol=2e-5)


def test_the_levels_probabilities_sum_to_one():
    """For means within and without, and deviations far below and above a bin."""
    shape = (4, 4, 256)
    mean, deviation = np.array([-1.5, -0.3, 0.9961, 4.0]), np.array([1e-3, 0.03, 1.0, 30.0])
    arguments = (np.arange(256) / 127.5 - 1, mean[:, None, None], 2 * np.log(deviation)[:, None])
    found = jax.jit(discretized_log_probability)(
        *(jnp.asarray(np.broadcast_to(x, shape), jnp.float32) for x in arguments)
    )
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(np.asarray(found, np.float64)).sum(-1), 1, atol=1e-4)


def test_the_bins_at_both_ends_are_open():
    """All of what lies beyond -1 and 1 falls to the levels there, and none to their neighbours."""
    ends = np.array([-1.0, 1.0, 1 / 127.5 - 1, 1 - 1 / 127.5])
    mean, log_variance = np.array([-3.0, 3.0, -3.0, 3.0]), np.full(4, 2 * np.log(0.3))
    given = (jnp.asarray(x, jnp.float32) for x in (ends, mean, log_variance))
    found = jax.jit(discretized_log_probability)(*given)
    np.testing.assert_allclose(found[:2], 0, atol=1e-6)
    np.testing.assert_allclose(
        found, level_log_probability(ends, mean, log_variance), rtol=1e-3, atol=1e-6
    )
    assert (found[2:] < -20).all()


def test_an_example_is_the_same_in_every_batch():
    x0, numbers = gaussian(3, 8, 8), jnp.arange(8) + 100
    profile = compiled(oracle(SCHEDULE), SCHEDULE)
    whole = jax.tree.map(np.asarray, profile(x0, numbers, 5))
    order = np.array([6, 1, 3])
    part = profile(x0[order], numbers[order], 5)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b), whole, part)
    other = profile(x0, numbers, 6)
    assert (np.asarray(other.terms) != whole.terms).all()
    rows = batch_sharding(make_mesh((4, 2, 1)))
    split = profile(jax.device_put(x0, rows), jax.device_put(numbers, rows), 5)
    assert split.terms.sharding.spec == rows.spec
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), whole, split)


def test_the_noise_depends_on_seed_example_and_timestep():
    x0 = jnp.zeros((2, 3, 3, 1))
    _, eps = draw_noise(SCHEDULE, x0, jnp.int32(4), 7, jnp.array([11, 5]))
    key = jax.random.key(7)
    for number in (4, 12, 5):
        key = jax.random.fold_in(key, number)
    np.testing.assert_array_equal(eps[1], jax.random.normal(key, (3, 3, 1)))


def test_a_posterior_s_entropy_leaves_the_mutual_information():
    """z ~ N(0, s²) of which N(., v) is known: the rate is log(s² / v) / 2, whatever the scale."""
    s2, v, scale = np.array([2.0, 3.0]), np.array([0.1, 0.5]), np.array([0.18, 5.0])
    log_variance = jnp.broadcast_to(jnp.log(jnp.asarray(v, jnp.float32)), (3, 4, 4, 2))
    entropy = posterior_entropy(log_variance, jnp.asarray(scale, jnp.float32))
    bits = np.log2(2 * np.pi * np.e * s2 * scale**2).mean() / 2  # exact, of scaled latents
    assert entropy.shape == (3,)
    np.testing.assert_allclose(bits - entropy, (np.log2(s2 / v) / 2).mean(), rtol=1e-5)


def test_errors():
    x0 = gaussian(0, 1, 2)
    with pytest.raises(UserError) as error:
        run(oracle(SCHEDULE), SCHEDULE, x0, variance="small")
    assert str(error.value) == (
        "likelihood variance: got 'small'. Legal: posterior, beta, learned."
    )
    with pytest.raises(UserError) as error:
        run(oracle(SCHEDULE), SCHEDULE, x0, variance="learned")
    assert str(error.value) == (
        "likelihood variance='learned': this model does not predict its variance. "
        "Legal: posterior, beta."
    )
    with pytest.raises(UserError) as error:
        run(oracle(SCHEDULE), make_schedule(num_timesteps=1), x0)
    assert str(error.value) == "likelihood: got num_timesteps=1. Legal: 2 or more."
