"""Whether an image shows two coloured shapes as its caption relates them, read off the pixels.

For models trained on `ldm_jax.data.shapes` with captions='relation'; see `shapes_score`.
"""

import itertools
import re

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import COLOURS, COLUMNS, RELATIONS, ROWS, SHAPES, SIZES, SceneObject
from ldm_jax.evaluation.shapes_score import read_objects

_PHRASE = f"a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_CAPTION = re.compile(f"{_PHRASE} ({'|'.join(RELATIONS)}) {_PHRASE}")


def relation_scores(image: np.ndarray, caption: str) -> dict[str, bool]:
    """Returns what of a caption an image shows, uint8 [s, s, 3].

    `objects`: exactly two, of the right colours and shapes; sizes may differ. `relation`: these
    two, and the first lies, by whole cells of the 3x3 grid, where the caption says.
    """
    first, relation, second = parse_relation(caption)
    seen = read_objects(image)
    pairs = itertools.permutations(seen) if len(seen) == 2 else ()
    named = [(a, b) for a, b in pairs if (_name(a), _name(b)) == (first, second)]
    return {
        "objects": bool(named),
        "relation": any(_holds(a, relation, b) for a, b in named),
    }


def parse_relation(caption: str) -> tuple[tuple[str, str], str, tuple[str, str]]:
    """Returns (colour, shape) of the first object, the relation, (colour, shape) of the second.

    Raises:
      UserError: for text that is not 'a SIZE COLOUR SHAPE RELATION a SIZE COLOUR SHAPE'.
    """
    match = _CAPTION.fullmatch(caption.strip().lower())
    if match is None:
        raise UserError(
            f"caption: got {caption!r}, expected 'a SIZE COLOUR SHAPE RELATION a SIZE COLOUR "
            f"SHAPE', RELATION one of {', '.join(RELATIONS)}."
        )
    _, colour, shape, relation, _, other_colour, other_shape = match.groups()
    return (colour, shape), relation, (other_colour, other_shape)


def _name(item: SceneObject) -> tuple[str, str]:
    return item.colour, item.shape


def _holds(first: SceneObject, relation: str, second: SceneObject) -> bool:
    down = ROWS.index(first.row) - ROWS.index(second.row)
    right = COLUMNS.index(first.column) - COLUMNS.index(second.column)
    return {"left of": right < 0, "right of": right > 0, "above": down < 0, "below": down > 0}[
        relation
    ]
