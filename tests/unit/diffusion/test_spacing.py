import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import SPACINGS, Levels, make_levels

SCHEDULE = make_schedule()
ALPHA_BAR = np.asarray(SCHEDULE.alpha_bar, np.float64)
SIGMA = np.sqrt((1 - ALPHA_BAR) / ALPHA_BAR)
EXACT = ("trailing", "leading", "linspace", "quad")
TO_NOISE = ("reference", "reference_quad", "offset_leading")


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("trailing", [999, 749, 499, 249]),
        ("leading", [750, 500, 250, 0]),
        ("linspace", [999, 666, 333, 0]),
        # 999 (0, 1/9, 4/9, 1)
        ("quad", [999, 444, 111, 0]),
        # of 999, 979, ..., 19 those at 0, 12.5, 25 and 37.5, rounded down
        ("lcm", [999, 759, 499, 259]),
        ("reference", [751, 501, 251, 1]),
        ("offset_leading", [751, 501, 251, 1]),
        # (0, 9.43, 18.86, 28.28)^2 = 0, 88.9, 355.6, 800
        ("reference_quad", [801, 356, 89, 1]),
    ],
)
def test_four_steps(spacing, expected):
    levels = make_levels(SCHEDULE, 4, spacing)
    last = ALPHA_BAR[0] if spacing in TO_NOISE else 1.0
    np.testing.assert_array_equal(levels.t, expected)
    np.testing.assert_array_equal(levels.alpha_bar, [*ALPHA_BAR[expected], last])
    np.testing.assert_array_equal(levels.table, ALPHA_BAR)
    assert levels.t.dtype == levels.alpha_bar.dtype == levels.table.dtype == np.float64
    assert len(levels) == 4


@pytest.mark.parametrize("spacing", EXACT)
def test_every_number_of_steps_gives_that_many_rows_down_to_clean_data(spacing):
    for total in (1, 2, 7, 50):
        table = np.linspace(0.9, 0.1, total)
        for num_steps in range(1, total + 1):
            levels = SPACINGS[spacing](table, num_steps)
            assert len(levels) == num_steps
            assert np.all(np.diff(levels.t) < 0)
            assert 0 <= levels.t[-1] <= levels.t[0] < total
            expected = [*table[levels.t.astype(int)], 1.0]
            np.testing.assert_array_equal(levels.alpha_bar, expected)
    for num_steps in (300, 333, 999, 1000):
        levels = make_levels(SCHEDULE, num_steps, spacing)
        assert levels.t.shape == (num_steps,)
        assert levels.alpha_bar[-1] == 1.0
        assert np.all(np.diff(levels.alpha_bar) > 0)


@pytest.mark.parametrize(
    "spacing", ["trailing", "linspace", "quad", "karras", "exponential", "lcm"]
)
def test_one_step_starts_at_the_noisiest_timestep(spacing):
    np.testing.assert_array_equal(make_levels(SCHEDULE, 1, spacing).t, [999.0])


@pytest.mark.parametrize("num_steps", [2, 5, 50])
def test_karras(num_steps):
    """Karras et al. 2022, eq. 5, with rho 7."""
    levels = make_levels(SCHEDULE, num_steps, "karras")
    i = np.arange(num_steps)
    root = SIGMA[-1] ** (1 / 7) + i / (num_steps - 1) * (SIGMA[0] ** (1 / 7) - SIGMA[-1] ** (1 / 7))
    np.testing.assert_allclose(levels.sigma, [*root**7, 0], rtol=1e-12)
    np.testing.assert_allclose(levels.t[[0, -1]], [999, 0], atol=1e-9)


@pytest.mark.parametrize("num_steps", [2, 5, 50])
def test_exponential(num_steps):
    levels = make_levels(SCHEDULE, num_steps, "exponential")
    ratio = (SIGMA[0] / SIGMA[-1]) ** (1 / (num_steps - 1))
    expected = SIGMA[-1] * ratio ** np.arange(num_steps)
    np.testing.assert_allclose(levels.sigma, [*expected, 0], rtol=1e-12)
    np.testing.assert_allclose(levels.t[[0, -1]], [999, 0], atol=1e-9)


@pytest.mark.parametrize("spacing", ["karras", "exponential"])
def test_the_network_sees_the_noise_that_there_is(spacing):
    levels = make_levels(SCHEDULE, 20, spacing)
    assert np.any(levels.t % 1 > 0.01)
    seen = alpha_bar_at(SCHEDULE, levels.t.astype(np.float32))
    np.testing.assert_allclose(seen, levels.alpha_bar[:-1], rtol=1e-4)


@pytest.mark.parametrize("num_steps", range(1, 51))
def test_lcm_takes_timesteps_of_the_distillation(num_steps):
    t = make_levels(SCHEDULE, num_steps, "lcm").t
    assert len(t) == num_steps
    assert t[0] == 999
    assert np.all(np.diff(t) < 0)
    np.testing.assert_array_equal(t % 20, 19)


def test_offset_leading_gives_every_number_of_rows():
    np.testing.assert_array_equal(make_levels(SCHEDULE, 3, "offset_leading").t, [667, 334, 1])
    assert len(make_levels(SCHEDULE, 400, "reference")) == 500
    for num_steps in (7, 20, 300, 400, 999):
        expected = np.arange(num_steps)[::-1] * (1000 // num_steps) + 1
        levels = make_levels(SCHEDULE, num_steps, "offset_leading")
        np.testing.assert_array_equal(levels.t, expected)
        assert levels.alpha_bar[-1] == ALPHA_BAR[0]


@pytest.mark.parametrize(
    ("num_steps", "rows", "first", "last"),
    [
        (50, 50, 981, 1),
        (200, 200, 996, 1),
        (250, 250, 997, 1),
        (400, 500, 999, 1),
        (20, 20, 951, 1),
    ],
)
def test_reference_examples_of_the_facts_sheet(num_steps, rows, first, last):
    t = make_levels(SCHEDULE, num_steps, "reference").t
    assert (len(t), t[0], t[-1]) == (rows, first, last)


def test_reference_quad_of_the_facts_sheet():
    t = make_levels(SCHEDULE, 50, "reference_quad").t[::-1]
    np.testing.assert_array_equal(t[[0, 1, 2, 3, 4, 5, 49]], [1, 1, 2, 3, 6, 9, 801])


@pytest.mark.parametrize("num_steps", [300, 333, 999, 1000])
def test_reference_cannot_serve(num_steps):
    with pytest.raises(UserError, match="asks for timestep 1000, expected at most 999"):
        make_levels(SCHEDULE, num_steps, "reference")


@pytest.mark.parametrize(
    ("schedule", "num_steps", "spacing", "text"),
    [
        (SCHEDULE, 10, "trailling", "spacing: got 'trailling'; did you mean 'trailing'?"),
        (SCHEDULE, 0, "trailing", "num_steps: got 0. Legal: 1 to 1000."),
        (SCHEDULE, 1001, "reference", "num_steps: got 1001. Legal: 1 to 1000."),
        (SCHEDULE, 300, "reference", "Legal near it: 334, 335, 336, 337."),
        (make_schedule(num_timesteps=4), 3, "reference_quad", "Legal near it: 1."),
        (make_schedule(num_timesteps=1), 1, "reference", "Legal near it: none."),
        (SCHEDULE, 1000, "offset_leading", "asks for timestep 1000, expected at most 999."),
        (
            SCHEDULE,
            51,
            "lcm",
            "num_steps=51 with spacing='lcm' and 1000 timesteps: legal is 1 to 50",
        ),
        (make_schedule(num_timesteps=49), 4, "lcm", "legal is 1 to 50 steps and 50 timesteps or"),
    ],
)
def test_errors(schedule, num_steps, spacing, text):
    with pytest.raises(UserError) as error:
        make_levels(schedule, num_steps, spacing)
    assert text in str(error.value)


# Levels with sigmas 3, 2, 1 and clean data.
BY_HAND = Levels(np.array([2.0, 1.0, 0.0]), np.array([0.1, 0.2, 0.5, 1]), np.array([0.5, 0.2, 0.1]))


def test_signal_noise_and_sigma():
    np.testing.assert_allclose(BY_HAND.signal, np.sqrt([0.1, 0.2, 0.5, 1]), rtol=1e-15)
    np.testing.assert_allclose(BY_HAND.noise, np.sqrt([0.9, 0.8, 0.5, 0]), rtol=1e-15)
    np.testing.assert_allclose(BY_HAND.sigma, [3, 2, 1, 0], rtol=1e-15)


def test_t_at_is_linear_in_log_snr():
    """At sigma 2^(3/4), three quarters of the way from sigma 1 to sigma 2 in the logarithm."""
    found = BY_HAND.t_at(1 / (1 + np.array([3.0, 2.0, 2**0.75, 1.0]) ** 2))
    np.testing.assert_allclose(found, [2, 1, 0.75, 0], atol=1e-12)
    # Nothing was trained beyond the table.
    np.testing.assert_array_equal(BY_HAND.t_at(np.array([0.01, 0.9])), [2, 0])


def test_the_last_steps():
    last = BY_HAND.last(2)
    np.testing.assert_array_equal(last.t, [1, 0])
    np.testing.assert_array_equal(last.alpha_bar, [0.2, 0.5, 1])
    np.testing.assert_array_equal(last.table, BY_HAND.table)
    np.testing.assert_array_equal(BY_HAND.last(3).alpha_bar, BY_HAND.alpha_bar)


def test_log_steps():
    h, ratio = BY_HAND.log_steps("x")
    np.testing.assert_allclose(h[:2], np.log([3 / 2, 2]), rtol=1e-14)
    # The step to clean data is infinitely long.
    assert np.exp(-h[2]) == 0
    np.testing.assert_allclose(ratio, [0, np.log(2) / np.log(3 / 2), 0], rtol=1e-14)


def test_levels_that_repeat():
    levels = make_levels(SCHEDULE, 50, "reference_quad")
    assert len(np.unique(levels.alpha_bar)) < 51
    with pytest.raises(UserError) as error:
        levels.check_distinct("lms")
    assert str(error.value) == (
        "sampler 'lms' with 50 steps: two of them are at one noise level. "
        "Legal: fewer steps, another spacing such as 'trailing', or the sampler 'ddim'."
    )
    make_levels(SCHEDULE, 50, "quad").check_distinct("lms")
