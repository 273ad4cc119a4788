"""ldm_jax as a contender: a U-Net forward, and sampling from noise to images in one program."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from presets import Preset

from ldm_jax.core.config import build
from ldm_jax.core.types import Conditioning
from ldm_jax.diffusion.parameterization import to_prediction
from ldm_jax.diffusion.process import alpha_bar_at
from ldm_jax.diffusion.schedule import make_schedule
from ldm_jax.diffusion.spacing import make_levels
from ldm_jax.interop.diffusers_settings import first_stage_settings, unet_settings
from ldm_jax.models import FIRST_STAGES, NETWORKS
from ldm_jax.samplers import ddim
from ldm_jax.samplers.base import advance, initial_state
from ldm_jax.samplers.guidance import classifier_free

GUIDANCE = 7.5
# The fields that diffusers' classes have by default and our reader insists on.
_UNET = {
    "_class_name": "UNet2DConditionModel",
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
_VAE = {"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3}


def _weights(rng: np.random.Generator, like: Any) -> Any:
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
        self.unet = build("unet", NETWORKS, {**unet_settings({**_UNET, **preset.unet}), **types})
        self.vae = build("first stage", FIRST_STAGES, {**vae, **types})
        self.schedule = make_schedule(start=0.00085, end=0.012)
        self.rows = ddim(make_levels(self.schedule, preset.steps))
        rng = np.random.default_rng(0)
        self.params = jax.tree.map(lambda x: _weights(rng, x), self._shapes())

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
        """Returns a function that makes a batch of images [b, h, w, 3], and waits for them."""
        return self._compiled("sample", self._images, *self._inputs(batch))

    def _images(self, params: Any, z_T: Any, context: Any) -> Any:
        # The one place to change when the engine of `ldm_jax.train.sampling` takes over.
        def denoise(z: Any, t: Any, conditioning: Any) -> Any:
            output = self.unet.apply(params["unet"], z, t, conditioning)
            return to_prediction("eps", output, z, alpha_bar_at(self.schedule, t))

        null = Conditioning(context=jnp.zeros_like(context))
        predict = classifier_free(denoise, Conditioning(context=context), null, GUIDANCE)
        keys = jax.random.split(jax.random.key(0), z_T.shape[0])
        z = advance(predict, initial_state(z_T), self.rows, keys).z
        return self.vae.apply(params["vae"], z / self.scale_factor, method="decode")

    def _compiled(self, what: str, f: Callable, *args: Any) -> Callable[[], Any]:
        start = time.perf_counter()
        program = jax.jit(f).lower(self.params, *args).compile()
        self.compile_s[what] = time.perf_counter() - start
        return lambda: jax.block_until_ready(program(self.params, *args))

    def peak_bytes(self) -> int | None:
        """Returns the most memory that the device held, or None where it does not count."""
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
