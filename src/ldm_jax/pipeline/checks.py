"""Whether the arguments of a call are of the right kind and belong together."""

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError, did_you_mean
from ldm_jax.pipeline.regions import Region

_MOST = 2**31 - 1


def is_whole(value: Any, least: int = 1, most: int = _MOST) -> bool:
    """Returns whether `value` is a whole number, and none that only prints as one."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and least <= int(value) <= most


def is_number(value: Any) -> bool:
    """Returns whether `value` is a finite real number."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return real and bool(np.isfinite(value))


def _are(kind: Callable[[Any], bool], count: int | None = None) -> Callable[[Any], bool]:
    """Returns a check of lists of so many, by default at least one."""

    def check(value: Any) -> bool:
        listed = isinstance(value, list | tuple | np.ndarray) and np.ndim(value) == 1
        right = listed and (len(value) == count if count else len(value) > 0)
        return right and all(kind(x) for x in value)

    return check


def _each(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Returns a check of one value for all images, or of one for each."""
    several = _are(kind)
    return lambda value: kind(value) or several(value)


def _is_array(value: Any) -> bool:
    return isinstance(value, list | tuple | np.ndarray) or hasattr(value, "__array__")


def _is_sampler(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Mapping) and "name" in value)


def _are_regions(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(x, Region) for x in value)


def _is_seed(value: Any) -> bool:
    return is_whole(value, 0, 2**32 - 1)


_PAIR = "two finite numbers"
_NUMBER = "a finite number, or one per image"
_SEED = "a whole number from 0 to 2^32 - 1, or one per image"
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "num_images": (is_whole, "a whole number, 1 or more"),
    "first_index": (lambda x: is_whole(x, 0), "a whole number, 0 or more, below 2^31"),
    "steps": (is_whole, "a whole number, 1 or more"),
    "resample": (is_whole, "a whole number, 1 or more"),
    "jump": (is_whole, "a whole number, 1 or more"),
    "overlap": (lambda x: is_whole(x, 0), "a whole number of pixels, 0 or more"),
    "tile": (is_whole, "a whole number of pixels"),
    "image_shape": (_are(is_whole, 2), "(height, width) in pixels"),
    "window": (_are(is_whole, 2), "(height, width) in pixels"),
    "seed": (_each(_is_seed), _SEED),
    "variation_seed": (_each(_is_seed), _SEED),
    "variation_weight": (_each(is_number), _NUMBER),
    "toward_weight": (_each(is_number), _NUMBER),
    "guidance_scale": (_each(is_number), _NUMBER),
    "guidance_rescale": (_each(is_number), _NUMBER),
    "guidance_interval": (_are(is_number, 2), _PAIR),
    "threshold": (_are(is_number, 2), _PAIR),
    "strength": (is_number, "a finite number"),
    "sampler": (_is_sampler, "a name, or a mapping with a name and options"),
    "spacing": (lambda x: isinstance(x, str), "a name"),
    "output": (lambda x: isinstance(x, str), "uint8 or float32"),
    "quantize": (lambda x: isinstance(x, bool), "True or False"),
    "regions": (_are_regions, "a list of Region(prompt, mask)"),
    "conditions": (lambda x: isinstance(x, Mapping), "a mapping from names to arrays"),
    "image": (_is_array, "an array of uint8; an image file must be read first"),
    "mask": (_is_array, "an array; an image file must be read first"),
    "latents": (_is_array, "an array"),
    "guide": (callable, "a function, see ldm_jax.tasks.guided.Guide"),
}
# What says nothing without another argument.
_NEEDS = {
    "mask": "image",
    "strength": "image",
    "overlap": "window",
    "jump": "resample",
    "resample": "mask",
    "variation_weight": "variation_seed",
    "toward_weight": "toward",
    "guide_inputs": "guide",
    "guide_params": "guide",
}
# Which of them count images: a list of several is one for each.
PER_IMAGE = (
    *("seed", "variation_seed", "variation_weight", "toward", "toward_weight", "negative"),
    *("guidance_scale", "guidance_rescale", "latents"),
)


def check_names(names: Sequence[str], legal: Sequence[str]) -> None:
    """Raises UserError for an argument that is none of `legal`."""
    for name in names:
        if name not in legal:
            raise UserError(
                f"argument {name!r}: unknown{did_you_mean(name, legal)} Legal: {', '.join(legal)}."
            )


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Raises UserError for an argument of the wrong kind, or one that would do nothing."""
    for name, value in arguments.items():
        if value is None:
            continue
        if name in _KINDS and not _KINDS[name][0](value):
            raise UserError(f"{name}={_shown(value)}: legal is {_KINDS[name][1]}.")
        needed = _NEEDS.get(name)
        if needed is not None and arguments.get(needed) is None:
            article = "an" if needed[0] in "aeiou" else "a"
            raise UserError(f"{name}: has no effect without {article} {needed}.")


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raises UserError unless `value` is a whole number, `least` or more."""
    if not is_whole(value, least):
        raise UserError(f"{name}={_shown(value)}: legal is a whole number, {least} or more.")


def _shown(value: Any) -> str:
    if hasattr(value, "shape"):
        return f"array of shape {value.shape}"
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."
