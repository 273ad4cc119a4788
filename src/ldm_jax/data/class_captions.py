"""Captions for images of which only the class is known."""

from collections.abc import Sequence

import numpy as np

from ldm_jax.core.checks import UserError

_BLANK = "{}"


class ClassCaptions:
    """A template filled with a name of the class, both chosen by the number of the example.

    Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.1.4, name classes to a text
    encoder in this way.

    Args:
      names: of every class, one or more, with their article: (("a sneaker", "a trainer"), ...).
      templates: each with {} for the name.
    """

    def __init__(self, names: Sequence[Sequence[str]], templates: Sequence[str] = (_BLANK,)):
        self.names = tuple(tuple(each) for each in names)
        self.templates = tuple(templates)
        for label, each in enumerate(self.names):
            if not each or not all(name.strip() for name in each):
                raise UserError(
                    f"data.source.captions.names: class {label} has {each!r}. Legal: one or more "
                    "names that are not empty."
                )
        wrong = next((x for x in self.templates if x.count(_BLANK) != 1), None)
        if wrong is not None or not self.templates:
            raise UserError(
                f"data.source.captions.templates: got {wrong!r}. Legal: one or more texts, each "
                "with {} once, such as 'a photo of {}'."
            )

    def check_classes(self, class_names: Sequence[str] | None) -> None:
        """Raises UserError unless there are names for all classes of the data, and no more."""
        if class_names is None:
            raise UserError("data.source.captions: the data have no classes. Legal: not given.")
        if len(self.names) != len(class_names):
            raise UserError(
                f"data.source.captions.names: got names of {len(self.names)} classes. Legal: of "
                f"{len(class_names)}, in this order: {', '.join(class_names)}."
            )

    def __call__(self, label: int, index: int) -> str:
        """Returns the caption of example `index`, always the same one."""
        # A bit generator's raw stream is fixed for ever; NumPy's choices are not.
        name, template = np.random.PCG64(index).random_raw(2).tolist()
        names = self.names[label]
        chosen = self.templates[template % len(self.templates)]
        return chosen.replace(_BLANK, names[name % len(names)])
