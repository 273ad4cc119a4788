"""A training loop of PyTorch diffusers, eager and compiled; it imports torch."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from presets import Preset

LEARNING_RATE, EMA_DECAY = 1e-4, 0.9999


class DiffusersTraining:
    """UNet2DConditionModel, channels last, with fused AdamW and an average by `torch._foreach`.

    Parameters, moments and averages are float32; the network runs under autocast for bfloat16, as
    diffusers' own training scripts do.

    Args:
      compiled: pass the network through `torch.compile`.
    """

    def __init__(self, preset: Preset, dtype: str, batch: int, device: str, compiled: bool) -> None:
        import diffusers
        import torch

        self.torch, self.device, self.compiled = torch, device, compiled
        self.name = f"diffusers, {'torch.compile' if compiled else 'eager'}"
        torch.manual_seed(0)
        network = diffusers.UNet2DConditionModel(**preset.unet).train()
        self.unet = network.to(device, memory_format=torch.channels_last)
        self.run_unet = torch.compile(self.unet) if compiled else self.unet
        self.weights = list(self.unet.parameters())
        self.average = [p.detach().clone() for p in self.weights]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=LEARNING_RATE, weight_decay=0.01, fused=True
        )
        height, width, channels = preset.latent_shape
        z = torch.randn(batch, channels, height, width, device=device)
        self.z = z.contiguous(memory_format=torch.channels_last)
        features = preset.unet["cross_attention_dim"]
        self.context = torch.randn(batch, preset.tokens, features, device=device)
        beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, device=device) ** 2
        alpha_bar = torch.cumprod(1 - beta, 0)
        self.signal, self.noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        half = dtype != "float32"
        self.autocast = (
            torch.autocast(device, getattr(torch, dtype)) if half else contextlib.nullcontext()
        )
        self.parameters = sum(p.numel() for p in self.weights)
        self.loss, self.compile_s = float("nan"), 0.0
        start = time.perf_counter()
        self.steps(1)()
        first = time.perf_counter() - start
        start = time.perf_counter()
        self.steps(1)()
        if compiled:  # the first step compiles, and also runs
            self.compile_s = max(0.0, first - (time.perf_counter() - start))

    def _update(self) -> Any:
        torch = self.torch
        t = torch.randint(0, 1000, (len(self.z),), device=self.device)
        eps = torch.randn_like(self.z)
        signal, noise = (x[t][:, None, None, None] for x in (self.signal, self.noise))
        with self.autocast:
            output = self.run_unet(signal * self.z + noise * eps, t, self.context).sample
        loss = torch.nn.functional.mse_loss(output.float(), eps)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(self.average, self.weights, 1 - EMA_DECAY)
        return loss.detach()

    def steps(self, count: int) -> Callable[[], Any]:
        """Returns a function that takes `count` updates, then waits for the last."""

        def run() -> None:
            for _ in range(count):
                loss = self._update()
            self.loss = float(loss)
            if self.device == "cuda":
                self.torch.cuda.synchronize()

        return run

    def peak_bytes(self) -> int | None:
        """Returns the most memory that PyTorch held on the GPU, or None on a CPU.

        Of all its contenders of this process together: weights of one lie beside the other's step.
        """
        if self.device != "cuda":
            return None
        return self.torch.cuda.max_memory_allocated()


def matmul_flops_per_s(size: int, dtype: str, device: str, repeats: int = 7) -> float:
    """Returns the best rate of products of random square matrices, counted as 2 size³."""
    import torch

    a, b = (torch.randn(size, size, device=device) / size**0.5 for _ in "ab")
    a, b = a.to(getattr(torch, dtype)), b.to(getattr(torch, dtype))
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        for _ in range(4):
            a = a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * size**3 / best
