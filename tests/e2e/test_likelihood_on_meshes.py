"""The variational bound of tiny models, of pixels and of latents, on meshes."""

import dataclasses
import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from compiling import SHIPPED_FLAGS, as_users_compile, compiles_as_shipped

from ldm_jax.core.checks import UserError
from ldm_jax.data import Shapes
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.tasks.first_stage import Frozen, LatentScale
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.likelihood import make_likelihood, make_loader

SOURCE = Shapes(image_size=16, max_objects=1, num_examples=64)
STEPS = 6


def mesh_of(devices):
    return make_mesh(devices=jax.devices()[:devices])


def shortened(task, **fields):
    """Returns a task of few timesteps, whose bound is quick to measure."""
    schedule = make_schedule("cosine", num_timesteps=STEPS)
    return dataclasses.replace(task, schedule=schedule, weights=jnp.ones(STEPS), **fields)


def agree(found, other):
    for field in ("bits", "terms", "x0_mse", "eps_mse", "encoding_bits"):
        np.testing.assert_array_equal(getattr(found, field), getattr(other, field), err_msg=field)


@pytest.fixture(scope="module")
def latent():
    """A text model of random weights: its task, parameters and frozen parts, and a loader."""
    config = tiny.get_config("text")
    task = assemble.build_task(config)
    stage = jax.eval_shape(lambda: task.first_stage.init(jax.random.key(0), 16))
    params, _ = jax.eval_shape(lambda: task.init(jax.random.key(0), None))
    scale = LatentScale(jnp.array([0.1, -0.2]), jnp.array([1.5, 2.0]))
    frozen = Frozen(tiny.random_weights(stage), scale)
    load = make_loader(config, task, SOURCE, assemble_data.build_tokenizer(config))
    return shortened(task), tiny.random_weights(params), frozen, load


@pytest.fixture(scope="module")
def measured(latent):
    """A decoded bound of five images on two devices, and what made it."""
    task, params, frozen, load = latent
    measure = make_likelihood(task, mesh_of(2), decode_at=(4, 1), per_device_batch=2)
    told = []
    found = measure(
        params, frozen, load, range(20, 25), 3, progress=lambda *counts: told.append(counts)
    )
    assert told == [(4, 5), (5, 5)]
    return measure, found


def test_latents(latent, measured):
    task, _, frozen, load = latent
    _, found = measured
    assert (found.of, found.variance) == ("latents", "posterior")
    assert found.bits.shape == (5,)
    assert {x.shape for x in (found.terms, found.x0_mse, found.eps_mse)} == {(STEPS,)}
    assert np.mean(found.bits) == pytest.approx(found.prior + found.terms.sum(), rel=1e-6)
    assert (found.terms[1:] > 0).all()
    # In eps and in x0, the error is the same one.
    alpha_bar = np.asarray(task.schedule.alpha_bar, np.float64)
    np.testing.assert_allclose(found.eps_mse, found.x0_mse * alpha_bar / (1 - alpha_bar), rtol=1e-2)
    np.testing.assert_allclose(found.curve.distortion, np.sqrt(found.x0_mse))
    np.testing.assert_allclose(found.curve.rate[-1], found.prior)
    np.testing.assert_allclose(found.curve.rate[0], found.prior + found.terms[1:].sum())
    assert found.curve.unit == "latents"
    assert found.latent_share == 2 / (4 * 3)
    images = load(np.arange(20, 25))["image"] / 127.5 - 1
    stage = task.first_stage
    moments = np.asarray(jax.jit(stage.moments)(frozen.params, jnp.float32(images)))
    log_variance = moments[..., 2:].astype(np.float64)
    log_scale = np.log(np.asarray(frozen.latent_scale.scale, np.float64))
    nats = 0.5 * (np.log(2 * np.pi * np.e) + log_variance) + log_scale
    entropy = nats.mean((1, 2, 3)) / np.log(2)
    np.testing.assert_allclose(found.bits - found.encoding_bits, entropy, rtol=1e-3)


def test_a_receiver_of_latents_sees_images(measured):
    _, found = measured
    np.testing.assert_array_equal(found.decoded.timesteps, [4, 1])
    np.testing.assert_array_equal(found.decoded.rate, found.curve.rate[[4, 1]])
    assert found.decoded.unit == "levels"
    assert 0 < found.decoded_floor < 255
    assert (found.decoded.distortion > 0).all()
    assert (found.decoded.distortion < 255).all()


def test_an_image_is_the_same_in_any_company(latent, measured):
    _, params, frozen, load = latent
    measure, whole = measured
    alone = measure(params, frozen, load, [24, 21], 3)
    np.testing.assert_array_equal(alone.bits, whole.bits[[4, 1]])
    np.testing.assert_array_equal(alone.encoding_bits, whole.encoding_bits[[4, 1]])


def test_an_image_is_the_same_on_any_mesh(request, latent, measured):
    """In a process of its own, since QUICK_FLAGS fuse the programs of meshes unlike."""
    if not compiles_as_shipped():
        command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider"]
        subprocess.run(
            [*command, f"{__file__}::{request.node.name}"],
            env={**as_users_compile(), "XLA_FLAGS": SHIPPED_FLAGS},
            check=True,
        )
        return
    task, params, frozen, load = latent
    _, whole = measured
    other = make_likelihood(task, mesh_of(4), per_device_batch=2)
    agree(other(params, frozen, load, range(20, 25), 3), whole)


@pytest.fixture(scope="module")
def pixel():
    """A model of 16×16 pixels that learns its variance, with random weights."""
    config = tiny.get_config("class")
    config.task.model.out_channels = 6
    config.task.learn_variance = True
    config.task.first_stage = {"model": {"name": "identity"}, "scale_factor": 1.0}
    task = shortened(assemble.build_task(config))
    params, _ = jax.jit(functools.partial(task.init, batch=None))(jax.random.key(0))
    return task, params, make_loader(config, task, SOURCE, None)


def test_pixels(pixel):
    task, params, load = pixel
    # Shifted and scaled, as with scale_factor="auto": terms of z, levels of x.
    scale = LatentScale(jnp.array([0.1, -0.2, 0.3]), jnp.array([1.5, 2.0, 0.7]))
    measure = make_likelihood(task, mesh_of(2), per_device_batch=2)
    found = measure(params, Frozen({}, scale), load, range(3))
    assert (found.of, found.variance, found.curve.unit) == ("pixels", "learned", "levels")
    assert found.encoding_bits is None
    assert found.decoded is None
    assert found.latent_share == 1.0
    np.testing.assert_allclose(found.curve.distortion, 127.5 * np.sqrt(found.x0_mse))
    assert (found.x0_mse <= 4).all()  # both lie in [-1, 1]
    assert (found.terms > 0).all()  # probabilities, also at t = 0


def test_levels_of_shifted_pixels_are_those_of_the_image(pixel):
    """The term at t = 0 by hand: the first network output is 0, so x0 = z / sqrt(alpha_bar)."""
    task, params, load = pixel
    task = dataclasses.replace(task, learn_variance=False, model=Silent())
    shift, scale = np.array([0.1, -0.2, 0.3]), np.array([1.5, 2.0, 0.7])
    frozen = Frozen({}, LatentScale(jnp.float32(shift), jnp.float32(scale)))
    measure = make_likelihood(task, mesh_of(1), clip_pixels=False, per_device_batch=1)
    found = measure(params, frozen, load, [7], 9)
    x0 = load(np.array([7]))["image"][0] / 127.5 - 1
    key = jax.random.key(9)
    for number in (0, 12, 7):
        key = jax.random.fold_in(key, number)
    eps = np.asarray(jax.random.normal(key, (16, 16, 3)), np.float64)
    a = np.asarray(task.schedule.alpha_bar, np.float64)
    z = np.sqrt(a[0]) * (x0 - shift) * scale + np.sqrt(1 - a[0]) * eps
    mean = z / np.sqrt(a[0]) / scale + shift
    variance = (1 - a[1] / a[0]) * (1 - a[0]) / (1 - a[1]) / scale**2
    below, above = (
        jax.scipy.stats.norm.cdf(jnp.float32((x0 + s / 255 - mean) / np.sqrt(variance)))
        for s in (-1, 1)
    )
    mass = np.where(x0 > 0.999, 1, above) - np.where(x0 < -0.999, 0, below)
    assert found.terms[0] == pytest.approx(-np.log2(mass.astype(np.float64)).mean(), rel=1e-3)
    assert found.x0_mse[0] == pytest.approx(((x0 - mean) ** 2).mean(), rel=1e-4)


class Silent:
    """A network that predicts no noise."""

    def apply(self, variables, z, t, conditioning):
        return jnp.zeros_like(z)


def test_errors_of_pixels(pixel):
    task, params, load = pixel
    frozen = Frozen({}, LatentScale(jnp.zeros(3), jnp.ones(3)))
    with pytest.raises(UserError) as error:
        make_likelihood(task, mesh_of(1), decode_at=(1,))
    assert str(error.value) == (
        "likelihood decode_at: this model diffuses pixels, and its curve is of pixels at all "
        "timesteps. Legal: none."
    )
    with pytest.raises(UserError, match=r"likelihood per_device_batch: got 0\. Legal: 1 or more"):
        make_likelihood(task, mesh_of(1), per_device_batch=0)
    broken = make_likelihood(
        dataclasses.replace(task, learn_variance=False, model=Silent()),
        mesh_of(1),
        clip_pixels=False,
        per_device_batch=1,
    )
    with pytest.raises(UserError, match=r"likelihood images: got 0\. Legal: 1 or more\."):
        broken(params, frozen, load, [])
    nowhere = Frozen({}, LatentScale(jnp.zeros(3), jnp.full(3, jnp.nan)))
    with pytest.raises(UserError) as error:
        broken(params, nowhere, load, [7])
    assert str(error.value) == (
        "likelihood: the bound of example 7 is not a number. Legal: parameters that have not "
        "diverged."
    )


def test_moments_have_no_image(latent):
    task, params, frozen, load = latent
    moments = {"moments": np.zeros((1, *task.moments_shape), np.float32)}
    measure = make_likelihood(task, mesh_of(1), decode_at=(1,), per_device_batch=1)
    with pytest.raises(UserError) as error:
        measure(params, frozen, lambda k: {**moments, "tokens": load(k)["tokens"]}, [0])
    assert str(error.value) == (
        "likelihood decode_at: the data are moments of latents, without the images to hold "
        "decoded ones against. Legal: none, or data without config.data.latent_cache."
    )
