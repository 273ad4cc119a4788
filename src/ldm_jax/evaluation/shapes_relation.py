"""Whether an image shows two coloured shapes as its caption relates them, read off the pixels.

For models trained on `ldm_jax.data.shapes` with captions='relation'; see `shapes_score`.
"""

import itertools
import re

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.data.shapes import COLUMNS, RELATIONS, ROWS, SceneObject
from ldm_jax.evaluation.shapes_score import parse_caption, read_objects

_CAPTION = re.compile(rf"(a .+?) ({'|'.join(RELATIONS)}) (a .+)")


def relation_scores(image: np.ndarray, caption: str) -> dict[str, bool]:
    """Returns what of a caption an image shows, uint8 [s, s, 3].

    `objects`: exactly two, of the right colours and shapes; sizes may differ. `relation`: these
    two, and the first lies, by whole cells of the 3x3 grid, where the caption says of the second.
    `places`: both lie in the cells that the caption names. `all`: everything.
    """
    first, relation, second = parse_relation(caption)
    seen = read_objects(image)
    pairs = itertools.permutations(seen) if len(seen) == 2 else ()
    found = {"objects": False, "relation": False, "places": False, "all": False}
    for a, b in pairs:
        if (_name(a), _name(b)) == (_name(first), _name(second)):
            related = _holds(a, relation, b)
            placed = (_place(a), _place(b)) == (_place(first), _place(second))
            right = {"objects": True, "relation": related, "places": placed}
            right["all"] = related and placed
            found = {name: found[name] or right[name] for name in found}
    return found


def parse_relation(caption: str) -> tuple[SceneObject, str, SceneObject]:
    """Returns the first object, the relation, and the second object of a caption.

    Raises:
      UserError: for text that is not two objects of `parse_caption` with a relation between them.
    """
    match = _CAPTION.fullmatch(caption.strip().lower())
    if match is None:
        raise UserError(
            f"caption: got {caption!r}, expected 'a SIZE COLOUR SHAPE at the ROW COLUMN RELATION a "
            f"SIZE …', RELATION one of {', '.join(RELATIONS)}."
        )
    (first,), (second,) = parse_caption(match[1]), parse_caption(match[3])
    return first, match[2], second


def _name(item: SceneObject) -> tuple[str, str]:
    return item.colour, item.shape


def _place(item: SceneObject) -> tuple[str, str]:
    return item.row, item.column


def _holds(first: SceneObject, relation: str, second: SceneObject) -> bool:
    down = ROWS.index(first.row) - ROWS.index(second.row)
    right = COLUMNS.index(first.column) - COLUMNS.index(second.column)
    return {"left of": right < 0, "right of": right > 0, "above": down < 0, "below": down > 0}[
        relation
    ]
