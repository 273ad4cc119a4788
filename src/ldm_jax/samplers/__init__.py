"""Samplers: from noise and a `predict` function to data. One file and one line here each."""

from ldm_jax.samplers.ddim import ddim
from ldm_jax.samplers.ddpm import ddpm

SAMPLERS = {"ddpm": ddpm, "ddim": ddim}
