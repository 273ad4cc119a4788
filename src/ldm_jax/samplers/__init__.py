"""Samplers: from noise and a `predict` function to data. One file and one line here each.

Each is a function of the noise levels, and of options, that returns the table of its numbers.
"""

import inspect
from typing import Any

from ldm_jax.core.plugins import Registry
from ldm_jax.samplers.ddim import ddim
from ldm_jax.samplers.ddpm import ddpm
from ldm_jax.samplers.deis import deis
from ldm_jax.samplers.dpm_2 import dpm_2
from ldm_jax.samplers.dpmpp_2m import dpmpp_2m
from ldm_jax.samplers.dpmpp_2m_sde import dpmpp_2m_sde
from ldm_jax.samplers.dpmpp_2s_ancestral import dpmpp_2s_ancestral
from ldm_jax.samplers.dpmpp_3m_sde import dpmpp_3m_sde
from ldm_jax.samplers.euler import euler
from ldm_jax.samplers.euler_ancestral import euler_ancestral
from ldm_jax.samplers.heun import heun
from ldm_jax.samplers.lcm import lcm
from ldm_jax.samplers.lms import lms
from ldm_jax.samplers.plms import plms
from ldm_jax.samplers.unipc import unipc


def _is_sampler(found: Any) -> bool:
    return inspect.isfunction(found) and list(inspect.signature(found).parameters)[:1] == ["levels"]


SAMPLERS = Registry(_is_sampler, "a function whose first parameter is levels")
SAMPLERS |= {
    "ddpm": ddpm,
    "ddim": ddim,
    "plms": plms,
    "lms": lms,
    "euler": euler,
    "euler_ancestral": euler_ancestral,
    "heun": heun,
    "dpm_2": dpm_2,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
    "unipc": unipc,
    "deis": deis,
    "lcm": lcm,
}
