"""From prompts, classes and arrays to the inputs of a model's conditioner."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.data.tokenizers import Tokenizer
from ldm_jax.pipeline.canvas import as_images, as_masks
from ldm_jax.pipeline.request import Inputs
from ldm_jax.tasks.latent_diffusion import MASKED_IMAGE, LatentDiffusionTask

_WORDS = {"tokens": "prompts", "class": "classes"}
_FLOATS = "f", "floats"
# By the kind of type that a model reads: the kinds that are taken for it, and words for them.
_KINDS = {"i": ("biu", "whole numbers"), "u": ("u", "uint8"), "f": _FLOATS}


class ConditionReader:
    """Turns prompts, classes or arrays into inputs of a model's conditioner.

    Attributes:
      cut: the texts so far that were longer than the model reads.
    """

    def __init__(self, task: LatentDiffusionTask, tokenizer: Tokenizer | None):
        """Takes the model's task, and its tokenizer if it reads text."""
        self.cut: set[str] = set()
        self._task = task
        self._conditioner: Any = task.conditioner
        self._tokenizer = tokenizer
        self.reads = tuple(task.conditioner.inputs)
        self._entries = task.condition_entries
        self._types = task.conditioner.input_shapes(task.image_size)
        self._limits = task.input_limits()

    def read(
        self,
        prompts: str | Sequence[str] | None,
        classes: int | Sequence[int] | None,
        conditions: Mapping[str, np.ndarray] | None,
        num_images: int | None,
        size: tuple[int, int],
    ) -> tuple[Inputs, int]:
        """Returns the inputs and the number of images, from what the model reads of the three.

        Args:
          prompts: one text, or one per image.
          classes: one class number, or one per image.
          conditions: arrays by name, a row per image, or one for all.
          num_images: that are asked for.
          size: (H, W) of the images, which maps must fit.

        Raises:
          UserError: what the model does not read, or not like that.
        """
        given = {"tokens": _listed(prompts), "class": _listed(classes)}
        for name, values in given.items():
            if values is not None and name not in self.reads:
                legal = ", ".join(_WORDS.get(r, r) for r in self.reads) or "nothing"
                raise UserError(
                    f"{_WORDS[name]}: given, but this model's conditioner reads {legal}."
                )
        if conditions is not None and (not self.reads or self.reads[0] in given):
            legal = ", ".join(_WORDS.get(r, r) for r in self.reads) or "nothing"
            raise UserError(f"conditions: given, but this model's conditioner reads {legal}.")
        if not self.reads:
            return {}, 1 if num_images is None else num_images
        if self.reads[0] not in given:
            return self._arrays(conditions, num_images, size)
        word, values = _WORDS[self.reads[0]], given[self.reads[0]]
        if not values:
            raise UserError(f"{word}: this model needs at least one.")
        if num_images is not None and len(values) == 1:
            values = values * num_images
        if num_images not in (None, len(values)):
            raise UserError(
                f"num_images={num_images}: got {len(values)} {word}, one image each. "
                "Legal: num_images with one of them."
            )
        return self.rows(values), len(values)

    def rows(self, values: Sequence[Any]) -> Inputs:
        """Returns the inputs of texts or class numbers, a row for each."""
        if self.reads[:1] == ("tokens",):
            for text in values:
                if not isinstance(text, str):
                    raise UserError(f"prompt {text!r}: this model reads text.")
            tokens = {text: self._tokens(text) for text in dict.fromkeys(values)}
            return {"tokens": np.stack([tokens[text] for text in values])}
        if self.reads[:1] != ("class",):
            legal = ", ".join(self.reads) or "nothing"
            raise UserError(f"prompt: given, but this model's conditioner reads {legal}.")
        limit = self._conditioner.num_classes
        for label in values:
            if isinstance(label, str) or label != int(label) or not 0 <= label < limit:
                raise UserError(f"class {label}: legal is 0 to {limit - 1}.")
        return {"class": np.asarray(values, np.int32)}

    def _tokens(self, text: str) -> np.ndarray:
        assert self._tokenizer is not None
        before = self._tokenizer.truncated
        tokens = self._tokenizer(text)
        if self._tokenizer.truncated > before:
            self.cut.add(text)
        return tokens

    def per_image(self, what: str, values: Any, count: int) -> Inputs:
        """Returns the inputs of one text or class for all images, or of one for each."""
        listed = _listed(values) or []
        if len(listed) not in (1, count):
            raise UserError(f"{what}: got {len(listed)} for {count} images. Legal: 1 or {count}.")
        return self.rows(listed * (count // len(listed)))

    def _arrays(
        self,
        conditions: Mapping[str, Any] | None,
        num_images: int | None,
        size: tuple[int, int],
    ) -> tuple[Inputs, int]:
        """Returns the arrays with a row for every image, checked as the model reads them."""
        given = conditions or {}
        if set(given) not in (set(self.reads), set(self._entries)):
            raise UserError(
                f"conditions: this model's conditioner reads {', '.join(self.reads)}; got "
                f"{', '.join(given) or 'nothing'}. Legal: {self._legal()}, a row per image each."
            )
        found = {name: self._array(name, value, size) for name, value in given.items()}
        rows = {len(value) for value in found.values()} - {1}
        count = num_images or max(rows, default=1)
        for wrong in rows - {count}:
            raise UserError(
                f"conditions: got {wrong} rows for {count} images. Legal: 1 or {count}."
            )
        return {name: np.repeat(x, count // len(x), axis=0) for name, x in found.items()}, count

    def _legal(self) -> str:
        if self._entries == self.reads:
            return ", ".join(self.reads)
        return f"{' and '.join(self._entries)}, or {', '.join(self.reads)} itself"

    def _array(self, name: str, value: Any, size: tuple[int, int]) -> np.ndarray:
        """Returns one of the arrays, [n, …], in the type that the model reads."""
        what = f"conditions[{name!r}]"
        if name not in self.reads:  # what a masked image is made of
            if name == "mask":
                return as_masks(what, value, size)
            channels = self._task.first_stage.model.image_channels
            return as_images(what, value, size, channels)
        expected, kinds = self._shape(name, size), _KINDS.get(self._types[name].dtype.kind, _FLOATS)
        try:
            found = np.asarray(value)
        except ValueError as error:  # rows of several lengths
            raise UserError(f"{what}: got rows of several lengths. Legal: an array.") from error
        right = len(found.shape) == len(expected) + 1 and all(
            want is None or got == want for got, want in zip(found.shape[1:], expected, strict=True)
        )
        if not right or not found.size or found.dtype.kind not in kinds[0]:
            sides = ", ".join("any" if side is None else str(side) for side in expected)
            raise UserError(
                f"{what}: got {found.dtype} of shape {found.shape}. Legal: {kinds[1]} "
                f"[n, {sides}], a row per image."
            )
        limit = self._limits.get(name)
        if limit is not None and not (found.min() >= 0 and found.max() < limit):
            raise UserError(f"{what}: got {found.min()} to {found.max()}. Legal: 0 to {limit - 1}.")
        if not np.all(np.isfinite(found)):
            raise UserError(f"{what}: holds a value that is not a finite number.")
        return found.astype(self._types[name].dtype)

    def _shape(self, name: str, size: tuple[int, int]) -> tuple[int | None, ...]:
        """Returns the shape of one row for images of `size`; maps follow it, None is any side."""
        edge = self._task.image_size
        trained = self._types[name].shape
        if name == "image":  # an image that is looked at, not drawn: towers resize it
            return (None, None, *trained[2:])
        doubled = self._conditioner.input_shapes(2 * edge)[name].shape
        if len(trained) == 3 or doubled != trained:
            sides = (side * pixels // edge for side, pixels in zip(trained[:2], size, strict=True))
            return (*sides, *trained[2:])
        return tuple(trained)


def as_image_and_mask(task: LatentDiffusionTask, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments with `image` and `mask` of `conditions` in their places.

    To a model that inpaints they mean the same there: what is known is pasted back.

    Raises:
      UserError: they are in both places.
    """
    given = arguments.get("conditions")
    names = set(task.condition_entries)
    if MASKED_IMAGE not in task.conditioner.inputs or not isinstance(given, Mapping):
        return dict(arguments)
    if set(given) != names:
        return dict(arguments)
    for name in given:
        if arguments.get(name) is not None:
            raise UserError(f"conditions: has {name}, which is given too. Legal: one of both.")
    return {**arguments, **given, "conditions": None}


def _listed(values: Any) -> list | None:
    if values is None:
        return None
    return [values] if np.ndim(values) == 0 else list(values)
