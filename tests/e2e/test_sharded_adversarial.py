"""Generator and discriminator in one step on 8 devices: the same numbers as on one."""

import functools
import math

import jax
import numpy as np
import optax
import pytest

from ldm_jax.models import PatchDiscriminator, VQAutoencoder
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import bytes_per_device, put_batch, shardings
from ldm_jax.tasks.adversarial import AdversarialAutoencoderTask
from ldm_jax.train.step import compile_train_step, init_state, make_train_step

SHAPES = [(2, 4, 1)]
TASK = AdversarialAutoencoderTask(
    model=VQAutoencoder(
        channels=8,
        channel_mult=(1, 2),
        num_res_blocks=0,
        z_channels=2,
        embed_dim=2,
        num_groups=4,
        num_codes=32,
        mid_attention=False,
    ),
    image_size=16,
    discriminator=PatchDiscriminator(8, 2),
    perceptual_weight=0.0,  # VGG16 would take minutes without optimisation
    reduction="mean",
    disc_start=0,
    disc_loss="vanilla",  # hinge has corners, which rounding may put on either side
    code_init="data",
)


def batch():
    rng = np.random.default_rng(0)
    return {"image": rng.integers(0, 256, (16, 16, 16, 3), dtype=np.uint8)}


@functools.cache
def run(shape):
    """Returns (parameters before, state after, metrics, bytes of one device's parameters)."""
    optimizers = {group: optax.sgd(0.1) for group in TASK.groups}
    mesh = make_mesh(shape, jax.devices()[: math.prod(shape)])
    with jax.set_mesh(mesh):
        state = init_state(TASK, optimizers, jax.random.key(0), batch())
        start = jax.device_get(state.params)
        abstract = jax.eval_shape(lambda: state)
        state = jax.device_put(state, shardings(mesh, abstract))
        step = make_train_step(TASK, optimizers, seed=0)
        step = compile_train_step(step, mesh, abstract, {})
        rows = put_batch(mesh, batch())
        compiled = step.lower(state, {}, rows).compile()
        state, metrics = compiled(state, {}, rows)
        held = bytes_per_device(state.params)
        return start, jax.device_get(state), jax.device_get(metrics), held


@pytest.mark.parametrize("shape", SHAPES)
def test_both_players_equal_one_device(shape):
    start, got, metrics, _ = run(shape)
    _, expected, wanted, _ = run((1, 1, 1))
    assert metrics.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, atol=1e-5, err_msg=name)
    assert wanted["generator/d_weight"] > 0

    def check(path, before, a, b):
        moved = np.abs(b - before).max()
        assert moved > 0, jax.tree_util.keystr(path)
        np.testing.assert_allclose(
            a - before, b - before, atol=5e-3 * moved, err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(check, start, got.params, expected.params)


@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_are_those_of_the_whole_batch(shape):
    got, expected = run(shape)[1].mutable, run((1, 1, 1))[1].mutable
    assert {"norm_1", "norm_2"} <= set(expected["discriminator"]["batch_stats"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, expected)


def test_parameters_are_split_along_fsdp():
    assert run((2, 4, 1))[3] < 0.4 * run((1, 1, 1))[3]
