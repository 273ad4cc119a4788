import jax
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import SPACINGS, make_steps

SCHEDULE = make_schedule()
ALPHA_BAR = np.asarray(SCHEDULE.alpha_bar)
EXACT = ("trailing", "leading", "linspace")


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ("trailing", [999, 749, 499, 249]),
        ("leading", [750, 500, 250, 0]),
        ("linspace", [999, 666, 333, 0]),
        ("reference", [751, 501, 251, 1]),
        # (0, 9.43, 18.86, 28.28)^2 = 0, 88.9, 355.6, 800
        ("reference_quad", [801, 356, 89, 1]),
    ],
)
def test_four_steps(spacing, expected):
    steps = make_steps(SCHEDULE, 4, spacing)
    last = ALPHA_BAR[0] if spacing.startswith("reference") else 1.0
    np.testing.assert_array_equal(steps.t, np.array(expected, np.float32))
    np.testing.assert_array_equal(steps.alpha_bar, ALPHA_BAR[expected])
    np.testing.assert_array_equal(steps.alpha_bar_next, [*ALPHA_BAR[expected[1:]], last])
    np.testing.assert_array_equal(steps.index, [0, 1, 2, 3])
    assert [str(x.dtype) for x in (steps.t, steps.alpha_bar, steps.index)] == [
        "float32",
        "float32",
        "int32",
    ]


@pytest.mark.parametrize("spacing", EXACT)
def test_every_number_of_steps_gives_that_many_rows_down_to_clean_data(spacing):
    for total in (1, 2, 7, 50):
        for num_steps in range(1, total + 1):
            t, t_next = SPACINGS[spacing](total, num_steps)
            assert len(t) == num_steps
            assert np.all(np.diff(t) < 0)
            assert 0 <= t[-1] <= t[0] < total
            np.testing.assert_array_equal(t_next, [*t[1:], -1])
    for num_steps in (300, 333, 999, 1000):
        steps = make_steps(SCHEDULE, num_steps, spacing)
        assert steps.t.shape == (num_steps,)
        assert steps.alpha_bar_next[-1] == 1.0
        assert np.all(np.asarray(steps.alpha_bar) < np.asarray(steps.alpha_bar_next))


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_one_step_starts_at_the_noisiest_timestep(spacing):
    np.testing.assert_array_equal(make_steps(SCHEDULE, 1, spacing).t, [999.0])


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
    t = np.asarray(make_steps(SCHEDULE, num_steps, "reference").t)
    assert (len(t), t[0], t[-1]) == (rows, first, last)


def test_reference_quad_of_the_facts_sheet():
    t = np.asarray(make_steps(SCHEDULE, 50, "reference_quad").t)[::-1]
    np.testing.assert_array_equal(t[[0, 1, 2, 3, 4, 5, 49]], [1, 1, 2, 3, 6, 9, 801])


@pytest.mark.parametrize("num_steps", [300, 333, 999, 1000])
def test_reference_cannot_serve(num_steps):
    with pytest.raises(UserError, match="asks for timestep 1000, expected at most 999"):
        make_steps(SCHEDULE, num_steps, "reference")


@pytest.mark.parametrize(
    ("schedule", "num_steps", "spacing", "text"),
    [
        (SCHEDULE, 10, "trailling", "spacing: got 'trailling'; did you mean 'trailing'?"),
        (SCHEDULE, 0, "trailing", "num_steps: got 0. Legal: 1 to 1000."),
        (SCHEDULE, 1001, "reference", "num_steps: got 1001. Legal: 1 to 1000."),
        (SCHEDULE, 300, "reference", "Legal near it: 334, 335, 336, 337."),
        (make_schedule(num_timesteps=4), 3, "reference_quad", "Legal near it: 1."),
        (make_schedule(num_timesteps=1), 1, "reference", "Legal near it: none."),
    ],
)
def test_errors(schedule, num_steps, spacing, text):
    with pytest.raises(UserError) as error:
        make_steps(schedule, num_steps, spacing)
    assert text in str(error.value)


def test_under_jit():
    steps = jax.jit(lambda schedule: make_steps(schedule, 5))(SCHEDULE)
    np.testing.assert_array_equal(steps.t, [999, 799, 599, 399, 199])
