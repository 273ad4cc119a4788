"""Pictures of what a model does: its two processes, its latents, its attention, its memory."""

from ldm_jax.inspection.attention import attention_view
from ldm_jax.inspection.denoising import denoising_view
from ldm_jax.inspection.latents import latents_view
from ldm_jax.inspection.neighbours import neighbours_view
from ldm_jax.inspection.noising import noising_view

# Subject -> View, by the names that `ldm-jax inspect --what` takes.
VIEWS = {
    "noising": noising_view,
    "denoising": denoising_view,
    "latents": latents_view,
    "attention": attention_view,
    "neighbours": neighbours_view,
}
