"""Runs that start from an image, are repeated in pieces, or lie between two others."""

import numpy as np
import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.samplers import SAMPLERS
from ldm_jax.samplers.editing import from_strength, noised, repaint, slerp

RNG = np.random.default_rng(0)
SCHEDULE = make_schedule(num_timesteps=1000)


@pytest.mark.parametrize(
    ("strength", "steps", "kept"),
    [(1.0, 10, 10), (0.75, 10, 7), (0.3, 10, 3), (0.29, 100, 29), (0.57, 100, 57), (0.01, 10, 1)],
)
def test_strength_keeps_the_last_steps(strength, steps, kept):
    levels = make_levels(SCHEDULE, steps)
    found = from_strength(levels, strength)
    assert len(found) == kept
    np.testing.assert_array_equal(found.t, levels.t[steps - kept :])
    np.testing.assert_array_equal(found.alpha_bar, levels.alpha_bar[steps - kept :])


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, float("nan")])
def test_strength_out_of_range(strength):
    with pytest.raises(UserError) as error:
        from_strength(make_levels(SCHEDULE, 10), strength)
    assert str(error.value) == f"strength={strength}: legal is above 0, up to 1."


def test_noised():
    x0, noise = RNG.normal(size=(2, 2, 3, 3, 1)).astype(np.float32)
    np.testing.assert_allclose(noised(0.36, x0, noise), 0.6 * x0 + 0.8 * noise, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"), [("ddpm", {}), ("ddim", {"eta": 0.5}), ("ddim", {}), ("euler", {})]
)
@pytest.mark.parametrize(("resample", "jump"), [(2, 1), (3, 2), (2, 10)])
def test_repaint_is_steps_and_noise_by_hand(name, options, resample, jump):
    levels = make_levels(SCHEDULE, 5)
    plain = SAMPLERS[name](levels, **options)
    found = repaint(levels, plain, resample, jump)
    order, jumps = [], []
    for piece in np.split(np.arange(5), range(jump, 5, jump)):
        for k in range(resample):
            order += list(piece)
            jumps += [None] * (len(piece) - 1)
            jumps.append((piece[0], piece[-1] + 1) if k < resample - 1 else None)
    np.testing.assert_array_equal(found.t, plain.t[order])
    np.testing.assert_array_equal(found.index, np.arange(len(order)))  # fresh noise in each row
    for i, (row, jumped) in enumerate(zip(order, jumps, strict=True)):
        # Forward from level s to t: z_t = sqrt(a) z_s + sqrt(1 - a) noise.
        a = 1.0 if jumped is None else levels.alpha_bar[jumped[0]] / levels.alpha_bar[jumped[1]]
        for column in ("base", "x0", "eps"):
            expected = np.sqrt(a) * getattr(plain, column)[row]
            np.testing.assert_allclose(getattr(found, column)[i], expected, rtol=1e-12)
        variance = a * plain.noise[row] ** 2 + (1 - a)
        np.testing.assert_allclose(found.noise[i] ** 2, variance, rtol=1e-10, atol=1e-15)
        # What is known stays on its path: with x0 and eps exact, z ends as the level says.
        begin = levels.alpha_bar[row]
        end = levels.alpha_bar[row + 1] if jumped is None else levels.alpha_bar[jumped[0]]
        signal = found.base[i] * np.sqrt(begin) + found.x0[i]
        noise = (found.base[i] * np.sqrt(1 - begin) + found.eps[i]) ** 2 + found.noise[i] ** 2
        np.testing.assert_allclose([signal**2, noise], [end, 1 - end], rtol=1e-9, atol=1e-12)


def test_repainting_once_changes_nothing():
    levels = make_levels(SCHEDULE, 5)
    rows = SAMPLERS["dpmpp_2m"](levels)
    assert repaint(levels, rows, 1, 3) is rows


def test_a_learned_variance_grows_by_the_same_noise():
    levels = make_levels(SCHEDULE, 3)
    rows = SAMPLERS["ddpm"](levels, variance="learned")
    found = repaint(levels, rows, 2)
    a = levels.alpha_bar[0] / levels.alpha_bar[1]
    np.testing.assert_allclose(found.noise_upper[0] ** 2, a * rows.noise_upper[0] ** 2 + 1 - a)
    np.testing.assert_allclose(found.noise[0] ** 2, a * rows.noise[0] ** 2 + 1 - a)
    np.testing.assert_array_equal(found.noise_upper[1], rows.noise_upper[0])


@pytest.mark.parametrize("name", ["dpmpp_2m", "plms", "heun", "unipc", "dpmpp_3m_sde"])
def test_samplers_with_memory_cannot_be_repeated(name):
    levels = make_levels(SCHEDULE, 6)
    with pytest.raises(UserError) as error:
        repaint(levels, SAMPLERS[name](levels), 2)
    assert str(error.value) == (
        "resample=2: the sampler remembers earlier steps. Legal: ddpm, ddim, euler, "
        "euler_ancestral."
    )


@pytest.mark.parametrize("name", ["resample", "jump"])
def test_numbers_below_1_are_refused(name):
    levels = make_levels(SCHEDULE, 3)
    with pytest.raises(UserError, match=rf"^{name}=0: legal is 1 or more\.$"):
        repaint(levels, SAMPLERS["ddim"](levels), **{"resample": 1, "jump": 1, name: 0})


def test_slerp_walks_a_great_circle():
    a, b = RNG.normal(size=(2, 3, 4, 4, 2))
    # Both on one sphere: so are all points between, at angles in proportion.
    a, b = (x / np.linalg.norm(x.reshape(3, -1), axis=1).reshape(3, 1, 1, 1) * 7 for x in (a, b))
    a, b = a.astype(np.float32), b.astype(np.float32)
    np.testing.assert_array_equal(slerp(a, b, 0.0), a)
    np.testing.assert_allclose(slerp(a, b, 1.0), b, rtol=1e-6)
    weight = np.array([0.25, 0.5, 0.9], np.float32)
    found = np.asarray(slerp(a, b, weight))
    for k in range(3):
        assert np.linalg.norm(found[k]) == pytest.approx(7, rel=1e-5)
        whole = np.arccos(np.sum(a[k] * b[k]) / 49)
        part = np.arccos(np.sum(a[k] * found[k]) / 49)
        assert part / whole == pytest.approx(weight[k], rel=1e-3)


def test_slerp_of_other_lengths_and_parallel_vectors():
    a = np.array([[3.0, 0.0], [1.0, 2.0], [1.0, 0.0], [0.0, 0.0]], np.float32)
    b = np.array([[0.0, 1.0], [2.0, 4.0], [-1.0, 0.0], [0.0, 2.0]], np.float32)
    found = np.asarray(slerp(a, b, 0.5))
    root = np.sqrt(0.5)
    np.testing.assert_allclose(found[:3], [[3 * root, root], [1.5, 3.0], [0, 0]], atol=1e-6)
    assert np.isfinite(found).all()
