"""From prompts, classes and arrays to the inputs of a model's conditioner."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.data.tokenizers import Tokenizer
from ldm_jax.pipeline.request import Inputs
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask

_WORDS = {"tokens": "prompts", "class": "classes"}


class ConditionReader:
    """Turns prompts, classes or arrays into inputs of a model's conditioner.

    Attributes:
      cut: the texts so far that were longer than the model reads.
    """

    def __init__(self, task: LatentDiffusionTask, tokenizer: Tokenizer | None):
        """Takes the model's task, and its tokenizer if it reads text."""
        self.cut: set[str] = set()
        self._conditioner: Any = task.conditioner
        self._tokenizer = tokenizer
        self.reads = tuple(task.conditioner.inputs)
        self._entries = task.condition_entries

    def read(
        self,
        prompts: str | Sequence[str] | None,
        classes: int | Sequence[int] | None,
        conditions: Mapping[str, np.ndarray] | None,
        num_images: int | None,
    ) -> tuple[Inputs, int]:
        """Returns the inputs and the number of images, from what the model reads of the three."""
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
            return self._arrays(conditions)
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

    def _arrays(self, conditions: Mapping[str, np.ndarray] | None) -> tuple[Inputs, int]:
        found = {} if conditions is None else {k: np.asarray(v) for k, v in conditions.items()}
        counts = {len(value) for value in found.values()}
        legal = (set(self.reads), set(self._entries))
        if set(found) not in legal or len(counts) != 1:
            raise UserError(
                f"conditions: this model's conditioner reads {', '.join(self.reads)}; got "
                f"{', '.join(found) or 'nothing'}. Legal: these names, with one row per image each."
            )
        return found, counts.pop()


def _listed(values: Any) -> list | None:
    if values is None:
        return None
    return [values] if np.ndim(values) == 0 else list(values)
