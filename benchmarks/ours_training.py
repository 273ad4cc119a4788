"""ldm_jax in training: the step of `ldm-jax train`, on latents and contexts computed beforehand."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ours import UNET_DEFAULTS, random_weights
from presets import Preset

from ldm_jax.conditioning import Identity
from ldm_jax.core.config import build
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.interop.diffusers_settings import unet_settings
from ldm_jax.models import NETWORKS, IdentityFirstStage
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import put_batch
from ldm_jax.tasks.first_stage import FirstStage, Frozen, fixed_scale
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.layout import placed_state, state_shardings
from ldm_jax.train.optim import constant, make_optimizer
from ldm_jax.train.step import compile_train_step, init_state, make_train_step

LEARNING_RATE, EMA_DECAY = 1e-4, 0.9999


class OursTraining:
    """The whole update: noise, loss, gradients, AdamW, moving average and the logged norms.

    Parameters, moments and averages are float32; the network computes in `dtype`.
    """

    name = "ldm_jax"

    def __init__(
        self, preset: Preset, dtype: str, batch: int, settings: Mapping[str, Any] | None = None
    ) -> None:
        fields = {**unet_settings({**UNET_DEFAULTS, **preset.unet}), "dtype": jnp.dtype(dtype)}
        network = build("unet", NETWORKS, {**fields, **(settings or {})})
        size, _, channels = preset.latent_shape
        width = preset.unet["cross_attention_dim"]
        schedule = make_schedule(start=0.00085, end=0.012)
        task = LatentDiffusionTask(
            network,
            Identity("context", (preset.tokens, width), "context"),
            FirstStage(IdentityFirstStage(channels)),
            schedule,
            jnp.ones(schedule.num_timesteps),
            image_size=size,
            condition_drop_rate=0.0,
        )
        optimizers = {"diffusion": make_optimizer(constant(LEARNING_RATE))}
        rng = np.random.default_rng(0)
        rows = {
            "moments": rng.standard_normal((batch, *preset.latent_shape), np.float32),
            "context": rng.standard_normal((batch, preset.tokens, width), np.float32),
        }
        self.mesh = make_mesh((1, 1, 1), jax.devices()[:1])
        step = make_train_step(task, optimizers, seed=0, max_ema_decay=EMA_DECAY)

        def init() -> Any:
            return init_state(task, optimizers, jax.random.key(0), rows)

        with jax.set_mesh(self.mesh):
            abstract = jax.eval_shape(init)
            # Random numbers of NumPy: a program that draws each array by itself compiles for long.
            state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
            params = jax.tree.map(lambda x: random_weights(rng, x), abstract.params)
            state = state.replace(params=params, ema_params=jax.tree.map(jnp.copy, params))
            self.state = jax.device_put(state, state_shardings(self.mesh, abstract))
            self.frozen = jax.device_put(Frozen({}, fixed_scale(channels, 1.0)))
            self.rows = put_batch(self.mesh, rows)
            start = time.perf_counter()
            lowered = compile_train_step(step, self.mesh, abstract, self.frozen).lower(
                placed_state(self.mesh, abstract), self.frozen, self.rows
            )
            self.program = lowered.compile()
            self.compile_s = time.perf_counter() - start
        self.parameters = sum(x.size for x in jax.tree.leaves(self.state.params))
        self.flops = float(self.program.cost_analysis()["flops"])
        # What the algorithm asks for, before the compiler's own rewriting and calls of libraries.
        self.flops_lowered = float(lowered.cost_analysis()["flops"])
        self.loss = float("nan")

    def steps(self, count: int) -> Callable[[], Any]:
        """Returns a function that takes `count` updates, then waits for the last."""

        def run() -> None:
            for _ in range(count):
                self.state, metrics = self.program(self.state, self.frozen, self.rows)
            jax.block_until_ready(self.state)
            self.loss = float(metrics["loss"])

        return run

    def program_bytes(self) -> int:
        """Returns what the compiler reserves: arguments, results that are not among them, scratch.

        It is exact for a GPU, and there comes on top of what the process holds besides.
        """
        found = self.program.memory_analysis()
        results = found.output_size_in_bytes - found.alias_size_in_bytes
        return int(found.argument_size_in_bytes + results + found.temp_size_in_bytes)

    def peak_bytes(self) -> int | None:
        """Returns the most memory that the device held, or None where it does not count."""
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def matmul_flops_per_s(size: int, dtype: str, repeats: int = 7) -> float:
    """Returns the best rate of products of random square matrices, counted as 2 size³."""
    draw = np.random.default_rng(0).standard_normal
    a, b = (jnp.asarray(draw((size, size), np.float32) / size**0.5, dtype) for _ in "ab")
    product = jax.jit(lambda a, b: a @ b)
    jax.block_until_ready(product(a, b))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(4):  # each takes the last one's result, so they queue up on the device
            a = product(a, b)
        jax.block_until_ready(a)
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * size**3 / best
