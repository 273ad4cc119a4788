"""What the weights of the published models do not say.

CompVis keeps a model's hyperparameters beside its checkpoint. Widths, depths and most of the rest
follow from the shapes of the tensors; head counts, noise schedule, image size and latent scale do
not. They are looked up here by what the shapes do say. `configs/published/` holds the same models
whole; a test compares the two.
"""

from typing import Any, NamedTuple

from ldm_jax.core.checks import UserError


class Published(NamedTuple):
    """A published U-Net, and what its shapes leave open.

    Attributes:
      name: for messages.
      shape: (channels, channel_mult, context width or 0, input channels).
      heads: keyword arguments of `UNet`.
      image_size: pixels.
      beta: first and last of the linear schedule.
      scale_factor: of the latents.
      sample: settings for sampling that differ from the defaults.
    """

    name: str
    shape: tuple[int, tuple[int, ...], int, int]
    heads: dict[str, int]
    image_size: int
    beta: tuple[float, float]
    scale_factor: float | None = 1.0
    sample: dict[str, Any] = {}


_SD = {"steps": 50, "spacing": "reference", "guidance_scale": 7.5}

PUBLISHED = (
    Published(
        "CelebA-HQ, FFHQ and LSUN-Bedrooms",
        (224, (1, 2, 3, 4), 0, 3),
        {"num_head_channels": 32},
        256,
        (0.0015, 0.0195),
    ),
    Published(
        "LSUN-Churches",
        (192, (1, 2, 2, 4, 4), 0, 4),
        {"num_heads": 8},
        256,
        (0.0015, 0.0155),
        None,
    ),
    Published(
        "ImageNet, f = 8",
        (256, (1, 2, 4), 512, 4),
        {"num_head_channels": 32},
        256,
        (0.0015, 0.0195),
    ),
    Published(
        "ImageNet, f = 4",
        (192, (1, 2, 3, 5), 512, 3),
        {"num_heads": 1},
        256,
        (0.0015, 0.0195),
    ),
    Published(
        "text2img256",
        (192, (1, 2, 3, 5), 640, 3),
        {"num_head_channels": 32},
        256,
        (0.0015, 0.0195),
    ),
    Published(
        "txt2img-1p4B",
        (320, (1, 2, 4, 4), 1280, 4),
        {"num_heads": 8},
        256,
        (0.00085, 0.012),
        0.18215,
        {**_SD, "guidance_scale": 5.0},
    ),
    Published(
        "layout2img-openimages256",
        (128, (1, 2, 3, 4), 512, 3),
        {"num_head_channels": 32},
        256,
        (0.0015, 0.0205),
    ),
    Published(
        "inpainting_big",
        (256, (1, 2, 3, 4), 0, 7),
        {"num_heads": 8},
        256,
        (0.0015, 0.0205),
    ),
    Published(
        "super-resolution",
        (160, (1, 2, 2, 4), 0, 6),
        {"num_head_channels": 32},
        256,
        (0.0015, 0.0155),
    ),
    Published(
        "semantic synthesis",
        (128, (1, 4, 8), 0, 6),
        {"num_heads": 8},
        256,
        (0.0015, 0.0205),
    ),
    Published(
        "RDM 768",
        (448, (1, 2, 3, 4), 768, 16),
        {"num_head_channels": 32},
        768,
        (0.0015, 0.015),
        0.22765929,
    ),
    Published(
        "Stable Diffusion 1",
        (320, (1, 2, 4, 4), 768, 4),
        {"num_heads": 8},
        512,
        (0.00085, 0.012),
        0.18215,
        _SD,
    ),
    Published(
        "Stable Diffusion 2",
        (320, (1, 2, 4, 4), 1024, 4),
        {"num_head_channels": 64},
        512,
        (0.00085, 0.012),
        0.18215,
        _SD,
    ),
)


def find_published(shape: tuple[int, tuple[int, ...], int, int], where: str) -> Published:
    """Returns the published model of that shape.

    Raises:
      UserError: there is none, so a configuration has to say what the weights do not.
    """
    for published in PUBLISHED:
        if published.shape == shape:
            return published
    channels, mult, context, inputs = shape
    raise UserError(
        f"{where}: a U-Net with channels={channels}, channel_mult={mult}, context width {context} "
        f"and {inputs} input channels is none of the published ones, and its weights do not tell "
        "heads and noise schedule. Legal: --config FILE of the model, or one of "
        f"{', '.join(p.name for p in PUBLISHED)}."
    )
