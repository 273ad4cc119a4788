"""Every sampler against its counterpart in k-diffusion or diffusers: same network, same noise.

The network is a formula that both sides know. What our sampler draws is handed to the other side.
k-diffusion and PLMS are compared in float64, where nothing but a different number can show;
diffusers with us in float32, for every parameterisation. Its own table of alpha_bar is compared in
test_schedule_parity.py; here it gets ours.

Measured, of the largest magnitude: at most 1.1e-11 in float64, but for one case where theirs loses
digits, and 1.7e-5 in float32, after a single step with an eps network.
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -e .[parity]")
diffusers = pytest.importorskip("diffusers", reason="needs diffusers: pip install -e .[parity]")

from compare import assert_close

from ldm_jax.core import rng
from ldm_jax.diffusion.parameterization import Prediction, to_prediction
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import Schedule, make_schedule
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.samplers import SAMPLERS
from ldm_jax.samplers.base import advance, image_keys, initial_state, padded

# Inside diffusers: PyTorch's tensors as NumPy arrays.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

SCHEDULES = {
    "plain": make_schedule(),
    "zero-snr": make_schedule(start=0.00085, end=0.012, zero_terminal_snr=True),
}
KINDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
STEPS = (1, 2, 5, 20)
SHAPE = (2, 3, 4, 1)
CAPACITY = 42
KEYS = image_keys(7, jnp.arange(SHAPE[0]))
Z_T = np.random.default_rng(0).normal(size=SHAPE)
# Of the largest magnitude.
EXACT, SINGLE = 1e-9, 3e-5


# The network, once in each language.


def _x0(numpy, z, t, roll):
    return numpy.tanh(z * (1.2 - t / 1000) + 0.3 * roll(z) + 0.2 * numpy.cos(t / 150))


def network(kind, table, z, t):
    """Returns the output for NumPy z and one t, in float64."""
    log_snr = np.interp(t, np.arange(len(table)), np.log(table) - np.log1p(-table))
    alpha_bar = 1 / (1 + np.exp(-log_snr))
    signal, noise = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)
    x0 = _x0(np, z, t, lambda z: np.roll(z, 1, axis=1))
    eps = (z - signal * x0) / noise
    return {"x0": x0, "eps": eps, "v": signal * eps - noise * x0}[kind]


def _predict(kind, schedule, z, t):
    alpha_bar = alpha_bar_at(schedule, t)
    signal, noise = (x[:, None, None, None] for x in (alpha_bar**0.5, (1 - alpha_bar) ** 0.5))
    x0 = _x0(jnp, z, t[:, None, None, None], lambda z: jnp.roll(z, 1, axis=1))
    eps = (z - signal * x0) / noise
    if z.dtype == jnp.float64:
        return Prediction(x0=x0, eps=eps)
    output = {"x0": x0, "eps": eps, "v": signal * eps - noise * x0}[kind]
    return to_prediction(kind, output, z, alpha_bar)


# Ours.


@functools.partial(jax.jit, static_argnums=0)
def _run(kind, table, z, rows, stop, keys):
    predict = functools.partial(_predict, kind, Schedule(table))
    return advance(predict, initial_state(z), rows, keys, 0, stop).z


@functools.partial(jax.jit, static_argnums=1)
def _draw(keys, dtype):
    def row(index):
        folded = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
        return rng.normal(folded, SHAPE[1:], dtype)

    return jax.lax.map(row, jnp.arange(CAPACITY))


def ours(rows, table, kind="x0", double=True):
    """Returns z_0, float64 or float32, in one compiled program for all samplers."""
    with jax.enable_x64(True) if double else contextlib.nullcontext():
        dtype = jnp.float64 if double else jnp.float32
        z, table = jnp.asarray(Z_T, dtype), jnp.asarray(table, dtype)
        return np.asarray(_run(kind, table, z, padded(rows, CAPACITY), len(rows), KEYS))


@functools.cache
def noises(double=True):
    """Returns what row i of any sampler draws, [CAPACITY, *SHAPE]."""
    with jax.enable_x64(True) if double else contextlib.nullcontext():
        return np.array(_draw(KEYS, jnp.float64 if double else jnp.float32), np.float64)


def table_of(schedule):
    return np.asarray(schedule.alpha_bar, np.float64)


# k-diffusion.


class StandIn(types.ModuleType):
    """Stands for what k-diffusion imports for other samplers and for training."""

    __path__ = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}", object)


@pytest.fixture(scope="module")
def k_sampling():
    """Returns the module k_diffusion.sampling, without the package's networks and metrics."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        pytest.skip("needs k-diffusion: pip install --no-deps k-diffusion==0.1.1.post1")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    absent = ("torchdiffeq", "torchsde", "torchvision", "torchvision.transforms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "k_diffusion", package)
        for name in absent:
            patch.setitem(sys.modules, name, StandIn(name))
        for name in ("k_diffusion.utils", "k_diffusion.sampling"):
            patch.delitem(sys.modules, name, raising=False)
        yield importlib.import_module("k_diffusion.sampling")
        for name in ("k_diffusion.utils", "k_diffusion.sampling"):
            sys.modules.pop(name)


def k_diffusion(sample, levels, noise_rows, **options):
    """Returns z_0 of one of k-diffusion's samplers over our levels; z = x at the end."""
    log_sigmas = np.log(1 / levels.table - 1) / 2

    def model(x, sigma):
        log_sigma = float(sigma[0].log())
        t = np.interp(log_sigma, log_sigmas, np.arange(len(log_sigmas)))
        z = x.numpy() / np.sqrt(1 + float(sigma[0]) ** 2)
        return torch.from_numpy(network("x0", levels.table, z, t))

    drawn = iter(noises()[noise_rows]) if noise_rows is not None else None
    if drawn is not None:
        options["noise_sampler"] = lambda sigma, sigma_next: torch.from_numpy(next(drawn))
    sigma = torch.from_numpy(levels.sigma)
    x = torch.from_numpy(Z_T) * (1 + sigma[0] ** 2) ** 0.5
    return sample(model, x, sigma, disable=True, **options).numpy()


ROWS, SECOND_ROWS = slice(None), slice(1, None, 2)
# Sampler, its options, those of k-diffusion, and the rows that draw its noise.
K_CASES = [
    ("euler", {}, {}, None),
    ("euler_ancestral", {}, {}, ROWS),
    ("euler_ancestral", {"eta": 0.4}, {"eta": 0.4}, ROWS),
    ("euler_ancestral", {"eta": 0.0}, {"eta": 0.0}, ROWS),
    ("heun", {}, {}, None),
    ("dpm_2", {}, {}, None),
    *[("lms", {"order": order}, {"order": order}, None) for order in (1, 2, 3, 4)],
    *[("dpmpp_2s_ancestral", {"eta": e}, {"eta": e}, SECOND_ROWS) for e in (0.0, 0.4, 1.0)],
    ("dpmpp_2m", {}, {}, None),
    *[
        ("dpmpp_2m_sde", {"eta": e, "solver": s}, {"eta": e, "solver_type": s}, ROWS)
        for e in (0.0, 0.5, 1.0)
        for s in ("midpoint", "heun")
    ],
    *[("dpmpp_3m_sde", {"eta": e}, {"eta": e}, ROWS) for e in (0.0, 0.5, 1.0)],
]
K_IDS = ["-".join([c[0], *(f"{k}={v}" for k, v in c[1].items())]) for c in K_CASES]


@pytest.mark.parametrize("case", K_CASES, ids=K_IDS)
@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "karras", "exponential"])
def test_k_diffusion(k_sampling, case, spacing):
    name, options, theirs, noise_rows = case
    theirs_sample = getattr(k_sampling, f"sample_{name}")
    # With a single step, theirs of the multistep SDE stop at a variable that was never set.
    several = [steps for steps in STEPS if steps > 1 or not name.endswith("m_sde")]
    for schedule in SCHEDULES.values():
        for steps in several:
            levels = make_levels(schedule, steps, spacing)
            got = ours(SAMPLERS[name](levels, **options), levels.table)
            expected = k_diffusion(theirs_sample, levels, noise_rows, **theirs)
            what = f"{name} {options}, {spacing}, {steps} steps"
            # The difference of two squares that is their sigma_down loses half of the digits.
            loses = name == "dpmpp_2s_ancestral" and options["eta"] == 1
            assert_close(got, expected, what, 1e-6 if loses else EXACT)


@pytest.mark.parametrize("spacing", ["karras", "exponential"])
@pytest.mark.parametrize("steps", STEPS)
def test_spacings_of_k_diffusion(k_sampling, spacing, steps):
    levels = make_levels(SCHEDULES["plain"], steps, spacing)
    sigma = np.sqrt(1 / levels.table - 1)
    theirs = getattr(k_sampling, f"get_sigmas_{spacing}")(steps, sigma[0], sigma[-1])
    # They compute in float32.
    np.testing.assert_allclose(levels.sigma, theirs, rtol=1e-5)


# diffusers.


def scheduler(name, schedule, kind, **config):
    """Returns a scheduler of diffusers over our table."""
    made = getattr(diffusers, name)(prediction_type=KINDS[kind], **config)
    made.alphas_cumprod = torch.from_numpy(table_of(schedule))
    return made


def diffusers_run(made, levels, kind, noise=None, scaled=False, keyword=False):
    """Returns z_0 of a scheduler that stands at its own levels; the network is asked at our t.

    That differs for Karras and exponential spacing alone, whose timesteps diffusers rounds.

    Args:
      made: after set_timesteps.
      levels: ours, for the timesteps.
      kind: of the network.
      noise: of each step.
      scaled: whether the scheduler's samples are z / sqrt(alpha_bar).
      keyword: whether `step` takes the noise; where not, `randn_tensor` is replaced by the caller.
    """
    assert len(made.timesteps) == len(levels)
    if hasattr(made, "sigmas"):
        np.testing.assert_allclose(made.sigmas, levels.sigma, rtol=5e-6)
        # Theirs are float32: at sigma 4096 no more than two decimal places of z would be left.
        made.sigmas = torch.from_numpy(levels.sigma)
    sample = torch.from_numpy(Z_T)
    if scaled:
        sample = sample * (1 + float(made.sigmas[0]) ** 2) ** 0.5
    for i, t in enumerate(made.timesteps):
        z = made.scale_model_input(sample, t)
        output = torch.from_numpy(network(kind, levels.table, z.double().numpy(), levels.t[i]))
        extra = {"variance_noise": torch.from_numpy(noise[i])} if keyword else {}
        sample = made.step(output, t, sample, **extra).prev_sample
    return sample.numpy()


def end_noisy(levels):
    """Returns levels whose last step goes to the least noise of training, not to clean data."""
    return dataclasses.replace(levels, alpha_bar=np.append(levels.alpha_bar[:-1], levels.table[0]))


def compare(got_rows, levels, kind, expected, what):
    got = ours(got_rows, levels.table, kind, double=False)
    return assert_close(got, expected, what, SINGLE)


SPACINGS = {
    "trailing": {"timestep_spacing": "trailing"},
    "leading": {"timestep_spacing": "leading"},
    "linspace": {"timestep_spacing": "linspace"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
}
# Only with "v" or "x0" is there an answer at zero signal.
MODELS = [("plain", "eps"), ("plain", "x0"), ("plain", "v"), ("zero-snr", "v")]


@pytest.mark.parametrize(("schedule", "kind"), MODELS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_euler(schedule, kind, spacing):
    # Theirs of 'linspace', unrounded, are whole for these; for one step it starts at t = 0.
    start = {"linspace": (2, 4, 10), "karras": STEPS[1:], "exponential": STEPS[1:]}
    for steps in start.get(spacing, STEPS):
        levels = make_levels(SCHEDULES[schedule], steps, spacing)
        made = scheduler("EulerDiscreteScheduler", SCHEDULES[schedule], kind, **SPACINGS[spacing])
        made.set_timesteps(steps)
        np.testing.assert_allclose(made.timesteps, levels.t, atol=0.05)
        expected = diffusers_run(made, levels, kind, scaled=True)
        compare(SAMPLERS["euler"](levels), levels, kind, expected, f"euler, {spacing}, {steps}")


# diffusers' multistep schedulers place 'leading' and 'linspace' as if there were a step more.
MULTISTEP_SPACINGS = ["trailing", "karras", "exponential"]
MULTISTEP = [
    ("dpmpp_2m", {}, "DPMSolverMultistepScheduler", {}),
    *[
        (
            "dpmpp_2m_sde",
            {"solver": solver},
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "solver_type": solver},
        )
        for solver in ("midpoint", "heun")
    ],
    *[
        (
            "unipc",
            {"order": order, "solver": solver},
            "UniPCMultistepScheduler",
            {"solver_order": order, "solver_type": solver},
        )
        for order in (1, 2, 3)
        for solver in ("bh1", "bh2")
    ],
]
# A last step to clean data is infinitely long, which is too long for bh1 of theirs: inf times 0. So
# it is compared where a run ends at the least noise of training.
WHERE = [
    *[(case, spacing, "zero") for case in MULTISTEP for spacing in MULTISTEP_SPACINGS],
    *[(case, "trailing", "sigma_min") for case in MULTISTEP if case[0] == "unipc"],
]
WHERE = [case for case in WHERE if (case[0][1].get("solver"), case[2]) != ("bh1", "zero")]


@pytest.mark.parametrize(("case", "spacing", "end"), WHERE)
@pytest.mark.parametrize(("schedule", "kind"), MODELS)
def test_multistep(case, spacing, end, schedule, kind):
    name, options, theirs, config = case
    for steps in STEPS:
        levels = make_levels(SCHEDULES[schedule], steps, spacing)
        if end == "sigma_min":
            levels = end_noisy(levels)
        config = {**config, **SPACINGS[spacing], "final_sigmas_type": end}
        made = scheduler(theirs, SCHEDULES[schedule], kind, **config)
        made.set_timesteps(steps)
        made.set_begin_index(0)
        keyword = name == "dpmpp_2m_sde"
        expected = diffusers_run(made, levels, kind, noises(double=False), keyword=keyword)
        rows = SAMPLERS[name](levels, **options)
        compare(rows, levels, kind, expected, f"d-{name} {options}, {spacing}, {steps}")


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("schedule", "kind"), MODELS)
def test_deis(order, schedule, kind):
    """Theirs ends at the least noise of training, at full order."""
    for steps in STEPS:
        levels = end_noisy(make_levels(SCHEDULES[schedule], steps, "trailing"))
        made = scheduler(
            "DEISMultistepScheduler",
            SCHEDULES[schedule],
            kind,
            solver_order=order,
            lower_order_final=False,
            **SPACINGS["trailing"],
        )
        made.set_timesteps(steps)
        expected = diffusers_run(made, levels, kind)
        rows = SAMPLERS["deis"](levels, order)
        compare(rows, levels, kind, expected, f"deis {order}, {steps}")


@pytest.mark.parametrize(("schedule", "kind"), MODELS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
def test_ddim(schedule, kind, eta, spacing):
    for steps in STEPS:
        levels = make_levels(SCHEDULES[schedule], steps, spacing)
        made = scheduler(
            "DDIMScheduler", SCHEDULES[schedule], kind, clip_sample=False, **SPACINGS[spacing]
        )
        made.set_timesteps(steps)
        np.testing.assert_array_equal(made.timesteps, levels.t)
        made.step = functools.partial(made.step, eta=eta)
        expected = diffusers_run(made, levels, kind, noises(double=False), keyword=True)
        rows = SAMPLERS["ddim"](levels, eta)
        compare(rows, levels, kind, expected, f"ddim {eta}, {spacing}, {steps}")


# 'beta' and 'learned' differ on purpose where the last step starts above t = 0: theirs then adds
# noise to the clean result.
DDPM = [
    *[("posterior", spacing) for spacing in ("trailing", "leading", "linspace")],
    ("beta", "leading"),
    ("beta", "linspace"),
]


@pytest.mark.parametrize(("schedule", "kind"), MODELS)
@pytest.mark.parametrize(("variance", "spacing"), DDPM)
def test_ddpm(schedule, kind, variance, spacing, monkeypatch):
    for steps in (2, 5, 20) if spacing == "linspace" else STEPS:
        levels = make_levels(SCHEDULES[schedule], steps, spacing)
        made = scheduler(
            "DDPMScheduler",
            SCHEDULES[schedule],
            kind,
            clip_sample=False,
            variance_type={"posterior": "fixed_small", "beta": "fixed_large"}[variance],
            **SPACINGS[spacing],
        )
        made.set_timesteps(steps)
        np.testing.assert_array_equal(made.timesteps, levels.t)
        _replace_noise(monkeypatch, "scheduling_ddpm")
        expected = diffusers_run(made, levels, kind)
        rows = SAMPLERS["ddpm"](levels, variance)
        compare(rows, levels, kind, expected, f"ddpm {variance}, {spacing}, {steps}")


def test_ddpm_with_a_learned_variance(monkeypatch):
    """Their networks put out 2 f - 1 beside eps, where f is our fraction."""
    levels = make_levels(SCHEDULES["plain"], 5, "leading")
    made = scheduler(
        "DDPMScheduler",
        SCHEDULES["plain"],
        "x0",
        clip_sample=False,
        variance_type="learned_range",
        timestep_spacing="leading",
    )
    made.set_timesteps(5)
    _replace_noise(monkeypatch, "scheduling_ddpm")
    sample = torch.from_numpy(Z_T)
    for i, t in enumerate(made.timesteps):
        z = sample.numpy()
        output = network("x0", levels.table, z, levels.t[i])
        # Channels are their second axis.
        output = torch.from_numpy(np.concatenate([output, np.tanh(z + 0.1)], 1))
        sample = made.step(output, t, sample).prev_sample

    def predict(z, t):
        x0, eps, _ = _predict("x0", SCHEDULES["plain"], z, t)
        return Prediction(x0, eps, variance_fraction=(jnp.tanh(z + 0.1) + 1) / 2)

    rows = SAMPLERS["ddpm"](levels, "learned")
    z_T = jnp.asarray(Z_T, jnp.float32)
    got = jax.jit(lambda z, keys: advance(predict, initial_state(z), rows, keys).z)(z_T, KEYS)
    assert_close(got, sample, "ddpm learned", SINGLE)


@pytest.mark.parametrize(("schedule", "kind"), MODELS)
@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_lcm(schedule, kind, steps, monkeypatch):
    levels = make_levels(SCHEDULES[schedule], steps, "lcm")
    made = scheduler("LCMScheduler", SCHEDULES[schedule], kind)
    made.set_timesteps(steps)
    np.testing.assert_array_equal(made.timesteps, levels.t)
    _replace_noise(monkeypatch, "scheduling_lcm")
    expected = diffusers_run(made, levels, kind)
    compare(SAMPLERS["lcm"](levels), levels, kind, expected, f"lcm, {steps}")


def _replace_noise(monkeypatch, module):
    drawn = iter(noises(double=False))
    monkeypatch.setattr(
        importlib.import_module(f"diffusers.schedulers.{module}"),
        "randn_tensor",
        lambda shape, **_: torch.from_numpy(next(drawn)),
    )


# PLMS: diffusers where it follows the reference, and the reference's own recurrence.


@pytest.mark.parametrize("steps", [2, 5, 20])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_plms_of_diffusers(steps, schedule):
    """With an eps network, from two steps on: theirs asks once for one step, the reference twice.

    A v network they would combine before it becomes eps, which is another method.
    """
    levels = make_levels(SCHEDULES[schedule], steps, "leading")
    made = scheduler(
        "PNDMScheduler", SCHEDULES[schedule], "eps", skip_prk_steps=True, set_alpha_to_one=True
    )
    made.set_timesteps(steps)
    sample = torch.from_numpy(Z_T)
    for t in made.timesteps:
        output = network("eps", levels.table, sample.numpy(), float(t))
        sample = made.step(torch.from_numpy(output), int(t), sample).prev_sample
    assert_close(ours(SAMPLERS["plms"](levels), levels.table), sample, f"plms, {steps}", EXACT)


def _plms_of_the_reference(levels):
    """The recurrence of the facts sheet, section 2.9, in float64."""
    a, old, z = levels.alpha_bar, [], Z_T

    def move(z, eps, i):
        x0 = (z - np.sqrt(1 - a[i]) * eps) / np.sqrt(a[i])
        return np.sqrt(a[i + 1]) * x0 + np.sqrt(1 - a[i + 1]) * eps

    for i, t in enumerate(levels.t):
        eps = network("eps", levels.table, z, t)
        if not old:
            t_next = levels.t[min(i + 1, len(levels) - 1)]
            mean = (eps + network("eps", levels.table, move(z, eps, i), t_next)) / 2
        elif len(old) == 1:
            mean = (3 * eps - old[-1]) / 2
        elif len(old) == 2:
            mean = (23 * eps - 16 * old[-1] + 5 * old[-2]) / 12
        else:
            mean = (55 * eps - 59 * old[-1] + 37 * old[-2] - 9 * old[-3]) / 24
        z, old = move(z, mean, i), [*old[-2:], eps]
    return z


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace", "karras", "reference"])
def test_plms_of_the_reference(spacing):
    for steps in STEPS[1:]:  # a single step is DDIM's here, as in diffusers
        levels = make_levels(SCHEDULES["plain"], steps, spacing)
        got = ours(SAMPLERS["plms"](levels), levels.table)
        assert_close(got, _plms_of_the_reference(levels), f"plms, {spacing}, {steps}", EXACT)


# Schedules and spacings.


def test_zero_terminal_snr():
    made = diffusers.EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
    )
    theirs, table = np.asarray(made.alphas_cumprod, np.float64), table_of(SCHEDULES["zero-snr"])
    assert table[-1] == theirs[-1] == 2.0**-24
    # In float32 the last steps of theirs lose digits, as their sum of logarithms grows.
    np.testing.assert_allclose(np.sqrt(table), np.sqrt(theirs), atol=2e-6)


def test_every_sampler_is_compared():
    compared = {case[0] for case in (*K_CASES, *MULTISTEP)}
    assert compared | {"ddpm", "ddim", "plms", "deis", "lcm"} == set(SAMPLERS)
