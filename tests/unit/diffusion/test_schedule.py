import jax
import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.schedule import (
    SCHEDULES,
    alpha_bars,
    betas,
    make_schedule,
    rescale_zero_terminal_snr,
)

# Facts sheet 6.1: start, end, beta[1], beta[500], alpha_bar[0, 1, 250, 500, 750, 999],
# sqrt(alpha_bar[999]).
GOLDEN = [
    (
        (0.0015, 0.0195, 0.0015078347, 0.007963175),
        (0.99850000, 0.99699443, 0.50842433, 0.11492200, 0.00833414, 1.4230398e-4, 0.0119291),
    ),
    (
        (0.0015, 0.0155, 0.0015066577, 0.0066679215),
        (0.99850000, 0.99699560, 0.53547600, 0.15007005, 0.01739447, 6.6866517e-4, 0.0258586),
    ),
    (
        (0.0015, 0.0205, 0.0015081096, 0.0082821464),
        (0.99850000, 0.99699415, 0.50213161, 0.10767675, 0.00695167, 9.6910867e-5, 0.00984433),
    ),
    (
        (0.00085, 0.012, 0.00085469866, 0.0048149541),
        (0.99915000, 0.99829603, 0.67379263, 0.27633268, 0.05616985, 4.6600985e-3, 0.0682649),
    ),
    (
        (0.0015, 0.015, 0.0015065004, 0.0065034668),
        (0.99850000, 0.99699576, 0.53910065, 0.15529056, 0.01909622, 8.1251847e-4, 0.0285047),
    ),
    (
        (1e-4, 0.02, 1.0264836e-4, 0.0057420711),
        (0.99990000, 0.99979736, 0.82001024, 0.33127458, 0.03814966, 7.3341246e-4, 0.0270816),
    ),
]
INDICES = [0, 1, 250, 500, 750, 999]


@pytest.mark.parametrize(("head", "tail"), GOLDEN, ids=[f"{h[0]}-{h[1]}" for h, _ in GOLDEN])
def test_reference_tables(head, tail):
    start, end, beta_1, beta_500 = head
    *expected, root = tail
    beta = betas("linear", 1000, start, end)
    table = alpha_bars("linear", 1000, start, end)
    assert beta.dtype == table.dtype == np.float64
    np.testing.assert_allclose(beta[[1, 500]], [beta_1, beta_500], rtol=1e-7)
    # The sheet prints eight decimals, or eight digits where it uses an exponent.
    np.testing.assert_allclose(table[INDICES], expected, atol=6e-9, rtol=5e-8)
    np.testing.assert_allclose(np.sqrt(table[999]), root, rtol=6e-6)
    schedule = make_schedule("linear", 1000, start, end)
    np.testing.assert_array_equal(schedule.alpha_bar, table.astype(np.float32))


def test_other_schedules_follow_their_formulas():
    np.testing.assert_allclose(betas("sqrt_linear", 5, 0.1, 0.5), [0.1, 0.2, 0.3, 0.4, 0.5])
    np.testing.assert_allclose(betas("sqrt", 3, 0.01, 0.09) ** 2, [0.01, 0.05, 0.09])
    angle = np.pi / 2 * (np.arange(1001) / 1000 + 8e-3) / 1.008
    expected = np.cos(angle[1:]) ** 2 / np.cos(angle[0]) ** 2
    # The last beta is clipped at 0.999, so the last entry of the closed form is not reached.
    np.testing.assert_allclose(alpha_bars("cosine")[:-1], expected[:-1], rtol=1e-9)
    assert betas("cosine").max() == 0.999
    assert alpha_bars("cosine")[-1] == pytest.approx(expected[-2] * 0.001)


@pytest.mark.parametrize("name", SCHEDULES)
def test_tables_decrease_inside_zero_one(name):
    schedule = make_schedule(name, 50, 1e-4, 0.02)
    alpha_bar = np.asarray(schedule.alpha_bar)
    assert alpha_bar.shape == (50,)
    assert alpha_bar.dtype == np.float32
    assert schedule.num_timesteps == 50
    assert np.all(np.diff(alpha_bar) < 0)
    assert 0 < alpha_bar[-1] < alpha_bar[0] < 1


def test_snr_under_jit():
    schedule = make_schedule(num_timesteps=10, start=0.1, end=0.5)
    alpha_bar = alpha_bars(num_timesteps=10, start=0.1, end=0.5)
    snr = jax.jit(lambda s: s.snr())(schedule)
    np.testing.assert_allclose(snr, alpha_bar / (1 - alpha_bar), rtol=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"name": "linaer"}, "schedule: got 'linaer'; did you mean 'linear'?"),
        ({"num_timesteps": 0}, "num_timesteps: got 0. Legal: 1 or more."),
        ({"start": 0.0}, "schedule start: got 0.0. Legal: between 0 and 1, exclusive."),
        ({"end": 1.5}, "schedule end: got 1.5. Legal: between 0 and 1, exclusive."),
        ({"start": 1e-12, "end": 2e-12}, "Legal: larger betas where it stalls at 1"),
        ({"name": "sqrt"}, "alpha_bar runs from 0.961 to 0 in float32"),
    ],
)
def test_errors(kwargs, text):
    with pytest.raises(UserError) as error:
        make_schedule(**kwargs)
    assert text in str(error.value)


def test_zero_terminal_snr_by_hand():
    """Roots 0.9, 0.5, 0.1 become 0.9, 0.45 and 0, but for what stays of the last."""
    found = rescale_zero_terminal_snr(np.array([0.9, 0.5, 0.1]) ** 2)
    np.testing.assert_allclose(found, [0.81, 0.45**2, 2.0**-24], rtol=1e-12)


@pytest.mark.parametrize(("end", "rest"), [(0.012, 2.0**-24), (0.0195, None)])
def test_zero_terminal_snr_is_an_affine_map_of_the_signal(end, rest):
    plain = np.sqrt(alpha_bars(start=0.00085, end=end))
    schedule = make_schedule(start=0.00085, end=end, zero_terminal_snr=True)
    signal = np.sqrt(np.asarray(schedule.alpha_bar, np.float64))
    scale = plain[0] / (plain[0] - plain[-1])
    np.testing.assert_allclose(signal[:-1], scale * (plain[:-1] - plain[-1]), rtol=1e-6)
    # By the end of the paper's schedule the last but one is as small as that rest.
    rest = rest or (scale * (plain[-2] - plain[-1])) ** 2 / 4
    np.testing.assert_allclose(schedule.alpha_bar[-1], rest, rtol=1e-6)
    assert rest <= 2.0**-24
    assert np.all(np.diff(schedule.alpha_bar) < 0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_can_end_without_signal(name):
    start, end = (1e-6, 1e-4) if name == "sqrt" else (0.0015, 0.0195)
    schedule = make_schedule(name, 1000, start, end, zero_terminal_snr=True)
    assert 0 < schedule.alpha_bar[-1] <= 2.0**-24


def test_zero_terminal_snr_of_one_timestep():
    with pytest.raises(UserError, match="zero_terminal_snr with num_timesteps=1: legal is 2"):
        make_schedule(num_timesteps=1, zero_terminal_snr=True)
