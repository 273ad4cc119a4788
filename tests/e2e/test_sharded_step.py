"""The real train step on 8 devices: the same numbers, and nothing split for decoration."""

import functools
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ldm_jax.conditioning import TextTransformer
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.models import Autoencoder, UNet
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import batch_sharding, gather_weights, put_batch, shardings
from ldm_jax.tasks.autoencoder import AutoencoderTask
from ldm_jax.tasks.base import LossOutput
from ldm_jax.tasks.first_stage import FirstStage, Frozen, fixed_scale
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train import layout as layout_module
from ldm_jax.train import step as step_module
from ldm_jax.train.optim import make_optimizer
from ldm_jax.train.step import compile_train_step, init_state, make_train_step

ONE, SHAPES = (1, 1, 1), [(8, 1, 1), (2, 4, 1), (2, 2, 2)]
BATCH, STEPS, LEARNING_RATE = 32, 2, 1e-3
TENSOR_KERNEL = r"/(to_q|to_k|to_v|to_out|value|gate|hidden|out)/kernel$"
TENSOR_BIAS = r"/(to_q|to_k|to_v|value|gate|hidden)/bias$"
OPTIMIZER = make_optimizer(optax.constant_schedule(LEARNING_RATE), clip_norm=1.0)

AUTOENCODER = Autoencoder(
    channels=16, channel_mult=(1, 2), num_res_blocks=1, num_groups=8, mid_attention=False
)


TEXT = TextTransformer(vocab_size=32, length=8, dim=32, depth=1, num_heads=4, head_dim=8)
UNET = UNet(
    out_channels=4,
    channels=32,
    channel_mult=(1,),
    num_res_blocks=1,
    num_heads=4,
    transformer_depth=1,
    num_groups=8,
)


class TextTask:
    """A text transformer alone: every matrix product is attention or feed-forward."""

    groups = {"text": ("conditioner",)}

    def init(self, key, batch):
        return {"conditioner": TEXT.init(key, batch)["params"]}, {}

    def loss(self, group, params, mutable, frozen, batch, keys):
        context = TEXT.apply({"params": params["conditioner"]}, batch).context
        return LossOutput(jnp.mean(jnp.square(context)), {}, mutable)

    def revise(self, group, params, mutable, step):
        return params, mutable


TASKS = {
    "ldm": LatentDiffusionTask(
        UNET,
        TEXT,
        FirstStage(AUTOENCODER),
        make_schedule(num_timesteps=100),
        jnp.ones((100,)),
        image_size=16,
    ),
    "autoencoder": AutoencoderTask(
        AUTOENCODER.clone(channels=8, channel_mult=(1,), num_res_blocks=0, num_groups=4), 16
    ),
    "text": TextTask(),
}


def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (BATCH, 16, 16, 3), dtype=np.uint8),
        "tokens": rng.integers(0, 32, (BATCH, 8)).astype(np.int32),
    }


def filled(shapes):
    """Random weights everywhere: the layers that start at zero would hide all behind them."""
    rng = np.random.default_rng(7)
    return jax.tree.map(lambda x: (0.1 * rng.standard_normal(x.shape)).astype(np.float32), shapes)


def frozen_first_stage():
    shapes = jax.eval_shape(
        lambda: AUTOENCODER.init(
            jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 8, 8, 4))
        )
    )
    return Frozen(filled(shapes["params"]), fixed_scale(4, 0.5))


class Run(NamedTuple):
    losses: list[float]
    state: object  # after STEPS, on the host
    start: object  # parameters before
    flops: float  # of one device and one step
    dots: dict[str, float]  # FLOPs of one device's matrix products, by the name of the layer
    bytes: dict[str, tuple[int, int]]  # (on device 0, in all) of params, ema_params, opt_state


@functools.cache
def run(shape, accumulation=1, name="ldm"):
    task = TASKS[name]
    optimizers = {group: OPTIMIZER for group in task.groups}
    mesh = make_mesh(shape, jax.devices()[: math.prod(shape)])
    with jax.set_mesh(mesh):
        abstract = jax.eval_shape(lambda: init_state(task, optimizers, jax.random.key(0), batch()))
        start = filled(abstract.params)
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
        layout = step_module.shardings  # as it is there: one test exchanges it
        state = zeros.replace(params=start, ema_params=start)
        state = jax.device_put(state, layout(mesh, abstract))
        frozen = frozen_first_stage() if name == "ldm" else {}
        frozen = jax.device_put(frozen, layout(mesh, frozen))
        step = make_train_step(task, optimizers, seed=0, accumulation=accumulation)
        step = compile_train_step(step, mesh, abstract, frozen)
        rows = put_batch(mesh, batch())
        compiled = step.lower(state, frozen, rows).compile()
        losses = []
        for _ in range(STEPS):
            state, metrics = compiled(state, frozen, rows)
            losses.append(float(metrics["loss"]))
        parts = {name: getattr(state, name) for name in ("params", "ema_params", "opt_state")}
        return Run(
            losses,
            jax.device_get(state),
            start,
            compiled.cost_analysis()["flops"],
            dot_flops(compiled.as_text()),
            {name: (_bytes_on_first_device(part), _bytes(part)) for name, part in parts.items()},
        )


def _bytes(tree):
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def _bytes_on_first_device(tree):
    """Counts the buffers that device 0 really holds."""
    first = jax.devices()[0]
    shards = [s for x in jax.tree.leaves(tree) for s in x.addressable_shards if s.device == first]
    return sum(shard.data.nbytes for shard in shards)


def dot_flops(hlo):
    """Returns 2 × output size × contracted size of every `dot`, summed by operation name.

    The text is one device's program after partitioning, so the shapes are those of its parts.
    """
    flops, shape_of = {}, {}
    for line in hlo.splitlines():
        found = re.match(r"\s*(?:ROOT )?%(\S+) = \w+\[([\d,]*)\]", line)
        if not found:
            continue
        name, sizes = found.groups()
        shape_of[name] = [int(size) for size in sizes.split(",") if size]
        dot = re.search(r" dot\(%([^,]+), .*lhs_contracting_dims=\{([\d,]*)\}", line)
        if dot:
            lhs, axes = dot.groups()
            contracted = math.prod(shape_of[lhs][int(axis)] for axis in axes.split(","))
            where = re.search(r'op_name="([^"]*)"', line)
            layer = where[1] if where else "nameless"
            count = 2 * math.prod(shape_of[name]) * contracted
            flops[layer] = flops.get(layer, 0) + count
    return flops


def transformer_flops(dots):
    """Sums attention's and feed-forward's products, but for the null condition's single row.

    XLA rewrites a few products of that row and forgets their names.
    """
    layers = {k: v for k, v in dots.items() if re.search(r"/((self_|cross_)?attn|ff)/", k)}
    total = sum(v for k, v in layers.items() if ".null" not in k)
    assert dots.get("nameless", 0) < 0.02 * total
    return total


def test_cost_analysis_counts_one_device():
    mesh = make_mesh((8, 1, 1))
    product = jax.jit(jnp.dot, in_shardings=(batch_sharding(mesh), None))
    cost = product.lower(jnp.ones((64, 32)), jnp.ones((32, 16))).compile().cost_analysis()
    assert cost["flops"] == 2 * 64 * 32 * 16 / 8


@pytest.mark.parametrize("shape", SHAPES)
def test_losses_and_updates_equal_one_device(shape):
    got, expected = run(shape), run(ONE)
    np.testing.assert_allclose(got.losses, expected.losses, rtol=2e-6)
    assert got.state.step == STEPS
    # Adam moves each parameter by about the learning rate; the tolerance is 2 % of that.
    for part in ("params", "ema_params"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=0.02 * LEARNING_RATE),
            getattr(got.state, part),
            getattr(expected.state, part),
        )
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), expected.state.params, expected.start)
    assert min(jax.tree.leaves(moved)) > 0.5 * LEARNING_RATE  # every array takes part


@pytest.mark.parametrize("shape", SHAPES)
def test_flops_per_device_fall_with_data_and_fsdp(shape):
    data, fsdp, _ = shape
    # 5 %: a replicated optimizer costs some 30 FLOPs a parameter.
    assert run(shape).flops <= 1.05 * run(ONE).flops / (data * fsdp)


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_and_feed_forward_flops_fall_with_tensor_too(shape):
    whole, part = transformer_flops(run(ONE).dots), transformer_flops(run(shape).dots)
    assert part <= 1.05 * whole / math.prod(shape)
    # The measure sees all of them: forward, and twice as much backward, by hand.
    assert whole == pytest.approx(_expected_transformer_flops(), rel=0.03)


def _expected_transformer_flops():
    def attention(queries, keys, width):
        projections = 2 * queries * width * width + 2 * keys * width * width
        return 2 * (projections + 2 * queries * keys * width)

    pixels, words, width = 64, 8, 32
    unet = attention(pixels, pixels, width) + attention(pixels, words, width)
    unet += 2 * 3 * pixels * width * 4 * width  # GEGLU: value, gate, out
    text = attention(words, words, width) + 2 * 2 * words * width * 4 * width
    return 3 * BATCH * (unet + text)


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_per_device_fall_with_fsdp(shape):
    _, fsdp, _ = shape
    for part, (here, everywhere) in run(shape).bytes.items():
        assert here <= 1.05 * everywhere / fsdp, part
        assert here >= 0.9 * _promised(shape) * everywhere, part


def test_tensor_parallel_bytes_are_what_the_rules_promise():
    for part, (here, everywhere) in run((2, 2, 2)).bytes.items():
        assert here == pytest.approx(_promised((2, 2, 2)) * everywhere, rel=0.01), part


def _promised(shape):
    """Returns the share of a device if every array splits by fsdp, and some by tensor too."""
    _, fsdp, tensor = shape
    total = share = 0.0
    for path, leaf in jax.tree_util.tree_leaves_with_path(run(ONE).start):
        name = "".join(f"/{key.key}" for key in path)
        split = bool(re.search(f"{TENSOR_KERNEL}|{TENSOR_BIAS}", name))
        parts = tensor if split else 1
        if not (split and leaf.ndim == 1 and tensor > 1):  # a bias has one axis for one split
            parts *= fsdp
        total, share = total + leaf.size, share + leaf.size / parts
    return share / total


_MORE_ACCUMULATED = ((2, ONE), (4, ONE), (4, (4, 2, 1)))


@pytest.mark.parametrize(
    ("accumulation", "shape"),
    [(2, (4, 2, 1)), *(pytest.param(*x, marks=pytest.mark.slow) for x in _MORE_ACCUMULATED)],
)
def test_accumulation_changes_nothing(shape, accumulation):
    got, expected = run(shape, accumulation, "autoencoder"), run(shape, name="autoencoder")
    np.testing.assert_allclose(got.losses, expected.losses, rtol=2e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=0.02 * LEARNING_RATE),
        got.state.params,
        expected.state.params,
    )


def test_the_measure_tells_tensor_parallelism_from_decoration(monkeypatch):
    whole = transformer_flops(run(ONE, name="text").dots)
    assert transformer_flops(run((2, 2, 2), name="text").dots) <= 1.05 * whole / 8
    for name, function in {"gather_weights": gather_weights, "shardings": shardings}.items():
        monkeypatch.setattr(step_module, name, functools.partial(function, rules=()))
    monkeypatch.setattr(layout_module, "shardings", step_module.shardings)
    decoration = run.__wrapped__((2, 2, 2), name="text")
    assert transformer_flops(decoration.dots) > 1.5 * whole / 8
