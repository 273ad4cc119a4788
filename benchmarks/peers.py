"""PyTorch diffusers as contenders, eager and compiled; the only file here that imports torch."""

import time
from collections.abc import Callable
from typing import Any

from presets import Preset

GUIDANCE = 7.5


class Diffusers:
    """diffusers' networks with random weights, channels last.

    Args:
      compiled: pass both networks through `torch.compile`.
    """

    def __init__(self, preset: Preset, dtype: str, device: str, compiled: bool) -> None:
        import diffusers
        import torch

        self.torch, self.preset, self.compiled = torch, preset, compiled
        self.name = f"diffusers, {'torch.compile' if compiled else 'eager'}"
        self.options = {"dtype": getattr(torch, dtype), "device": device}
        self.compile_s: dict[str, float] = {}
        layout = {"memory_format": torch.channels_last, **self.options}
        self.unet = diffusers.UNet2DConditionModel(**preset.unet).eval().to(**layout)
        self.vae = diffusers.AutoencoderKL(**preset.vae).eval().to(**layout)
        self.run_unet, self.decode = self.unet, self.vae.decode
        if compiled:
            self.run_unet, self.decode = torch.compile(self.unet), torch.compile(self.vae.decode)
        self.scheduler = diffusers.DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            timestep_spacing="trailing",
        )

    def _inputs(self, batch: int) -> tuple[Any, Any]:
        height, width, channels = self.preset.latent_shape
        z = self.torch.randn(batch, channels, height, width, **self.options)
        shape = (batch, self.preset.tokens, self.preset.unet["cross_attention_dim"])
        context = self.torch.randn(*shape, **self.options)
        return z.contiguous(memory_format=self.torch.channels_last), context

    def forward(self, batch: int) -> Callable[[], Any]:
        """Returns a function that evaluates the U-Net once and waits for it."""
        z, context = self._inputs(batch)
        t = self.torch.full((batch,), 500.0, device=self.options["device"])
        return self._ready("forward", lambda: self.run_unet(z, t, context).sample)

    def sample(self, batch: int) -> Callable[[], Any]:
        """Returns a function that makes a batch of images [b, 3, h, w], and waits for them."""
        z_T, context = self._inputs(batch)
        both = self.torch.cat([self.torch.zeros_like(context), context])

        def images() -> Any:
            self.scheduler.set_timesteps(self.preset.steps, device=self.options["device"])
            z = z_T
            for t in self.scheduler.timesteps:
                absent, present = self.run_unet(self.torch.cat([z, z]), t, both).sample.chunk(2)
                eps = absent + GUIDANCE * (present - absent)
                z = self.scheduler.step(eps, t, z).prev_sample
            return self.decode(z / self.vae.config.scaling_factor).sample

        return self._ready("sample", images)

    def _ready(self, what: str, f: Callable[[], Any]) -> Callable[[], Any]:
        cuda = self.options["device"] == "cuda"

        def run() -> Any:
            with self.torch.inference_mode():
                result = f()
            if cuda:
                self.torch.cuda.synchronize()
            return result

        # The first call compiles, and also runs; the second only runs.
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        self.compile_s[what] = max(0.0, seconds[0] - seconds[1]) if self.compiled else 0.0
        return run

    def peak_bytes(self) -> int | None:
        """Returns the most memory that the GPU held, or None on a CPU."""
        if self.options["device"] != "cuda":
            return None
        return self.torch.cuda.max_memory_allocated()
