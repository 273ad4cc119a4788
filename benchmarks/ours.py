"""ldm_jax as a contender: a U-Net forward, and sampling from noise to images."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from presets import Preset

from ldm_jax.conditioning import Identity
from ldm_jax.core.config import build
from ldm_jax.core.types import Conditioning
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.interop.diffusers_settings import first_stage_settings, unet_settings
from ldm_jax.models import FIRST_STAGES, NETWORKS
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.samplers import ddim
from ldm_jax.tasks.first_stage import FirstStage, Frozen, fixed_scale
from ldm_jax.tasks.guided import Controls
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.sampling import Programs

GUIDANCE = 7.5
# The fields that diffusers' classes have by default and our reader insists on.
UNET_DEFAULTS = {
    "_class_name": "UNet2DConditionModel",
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
_VAE = {"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3}


def random_weights(rng: np.random.Generator, like: Any) -> Any:
    """Returns kernels that keep the size of what they map, and ones for scales and biases."""
    if like.ndim < 2:
        return jnp.ones(like.shape, like.dtype)
    fan_in = np.prod(like.shape[:-1])
    return jnp.asarray(rng.standard_normal(like.shape, np.float32) / fan_in**0.5, like.dtype)


class Ours:
    """Networks with random weights, compiled for one batch size at a time."""

    name = "ldm_jax"

    def __init__(self, preset: Preset, dtype: str) -> None:
        self.preset, self.compile_s = preset, {}
        types = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.dtype(dtype)}
        vae, self.scale_factor = first_stage_settings({**_VAE, **preset.vae}, "vae")
        self.unet = build(
            "unet", NETWORKS, {**unet_settings({**UNET_DEFAULTS, **preset.unet}), **types}
        )
        self.vae = build("first stage", FIRST_STAGES, {**vae, **types})
        self.schedule = make_schedule(start=0.00085, end=0.012)
        self.rows = ddim(make_levels(self.schedule, preset.steps))
        rng = np.random.default_rng(0)
        self.params = jax.tree.map(lambda x: random_weights(rng, x), self._shapes())
        size, width = preset.latent_shape[0], preset.unet["cross_attention_dim"]
        task = LatentDiffusionTask(
            self.unet,
            Identity("context", (preset.tokens, width), "context"),
            FirstStage(self.vae),
            self.schedule,
            jnp.ones(self.schedule.num_timesteps),
            image_size=size * self.vae.downsampling_factor,
        )
        scale = fixed_scale(preset.latent_shape[2], self.scale_factor)
        self.frozen = Frozen(self.params["vae"]["params"], scale)
        one = make_mesh((1, 1, 1), jax.devices()[:1])
        self.programs = Programs(task, one, decode_batch=preset.batch)

    def _shapes(self) -> dict[str, Any]:
        def init(key: Any, z: Any, context: Any) -> dict[str, Any]:
            unet = self.unet.init(key, z, jnp.zeros(1), Conditioning(context=context))
            return {"unet": unet, "vae": self.vae.init(key, z, method="decode")}

        return jax.eval_shape(init, jax.random.key(0), *self._inputs(1))

    def _inputs(self, batch: int) -> tuple[Any, Any]:
        rng = np.random.default_rng(0)
        z = rng.normal(size=(batch, *self.preset.latent_shape))
        width = self.preset.unet["cross_attention_dim"]
        context = rng.normal(size=(batch, self.preset.tokens, width))
        return jnp.asarray(z, jnp.float32), jnp.asarray(context, jnp.float32)

    def forward(self, batch: int) -> Callable[[], Any]:
        """Returns a function that evaluates the U-Net once and waits for it."""
        z, context = self._inputs(batch)

        def apply(params: Any, z: Any, t: Any, context: Any) -> Any:
            return self.unet.apply(params["unet"], z, t, Conditioning(context=context))

        return self._compiled("forward", apply, z, jnp.full((batch,), 500.0), context)

    def sample(self, batch: int) -> Callable[[], Any]:
        """Returns a function that makes uint8 images [b, h, w, 3], and waits for them.

        By the programs that `ldm_jax.Pipeline` runs.
        """
        z_T, context = self._inputs(batch)
        put, size = self.programs.put_rows, batch
        conditioning, null = (Conditioning(context=put(c)) for c in (context, 0 * context))
        scale = put(np.full(size, GUIDANCE, np.float32))
        controls = Controls((conditioning,), null=null, scale=scale)
        numbers = put(np.arange(size, dtype=np.int32))
        seeds, z_T = put(np.zeros(size, np.uint32)), put(np.asarray(z_T))
        table, stop = self.programs.put_table(self.rows), np.int32(len(self.rows))
        params, frozen = {"unet": self.params["unet"]["params"]}, self.frozen

        def run() -> Any:
            state = self.programs.begin(z_T)
            state = self.programs.advance(
                params, frozen, None, controls, state, table, seeds, numbers, np.int32(0), stop
            )
            return jax.block_until_ready(self.programs.decode(True, frozen, state.z)[0])

        seconds = []
        for _ in range(2):  # the first call also compiles
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        self.compile_s["sample"] = max(0.0, seconds[0] - seconds[1])
        return run

    def _compiled(self, what: str, f: Callable, *args: Any) -> Callable[[], Any]:
        start = time.perf_counter()
        program = jax.jit(f).lower(self.params, *args).compile(compiler_options(make_mesh()))
        self.compile_s[what] = time.perf_counter() - start
        return lambda: jax.block_until_ready(program(self.params, *args))

    def peak_bytes(self) -> int | None:
        """Returns the most memory that the device held, or None where it does not count."""
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
