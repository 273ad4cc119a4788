"""Whether an image of coloured shapes shows them where it was asked to, read off the pixels.

For models trained on `ldm_jax.data.shapes` with boxes or label maps; see `shapes_score`.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from ldm_jax.data.shapes import COLOURS, SHAPES
from ldm_jax.evaluation.shapes_score import UNKNOWN, locate_objects


def box_overlap(image: np.ndarray, boxes: np.ndarray) -> float:
    """Returns the mean intersection over union of drawn and asked boxes, in [0, 1].

    Drawn objects are matched to boxes of their own class, colour and shape, so that the sum is
    largest; boxes and objects without a partner count as 0.

    Args:
      image: uint8 [s, s, 3].
      boxes: [n, 5]: x0, y0, x1, y1 in [0, 1] and the class; unused rows are -1.
    """
    asked = boxes[boxes[:, 4] >= 0]
    drawn = [(_class_of(item.colour, item.shape), _box(own)) for item, own in locate_objects(image)]
    most = max(len(asked), len(drawn))
    if most == 0:
        return 1.0
    overlap = np.array(
        [[(k == box[4]) * _iou(where, box[:4]) for k, where in drawn] for box in asked]
    ).reshape(len(asked), len(drawn))
    rows, columns = linear_sum_assignment(-overlap)
    return float(overlap[rows, columns].sum() / most)


def label_map(image: np.ndarray) -> np.ndarray:
    """Returns what every pixel shows, uint8 [s, s]: 0 the ground, 1 + index into `SHAPES`.

    Objects that resemble no shape are 255. Images are of less than 128 pixels.
    """
    labels = np.zeros(image.shape[:2], np.uint8)
    for item, own in locate_objects(image):
        labels[own] = 255 if item.shape == UNKNOWN else 1 + SHAPES.index(item.shape)
    return labels


def map_overlap(drawn: np.ndarray, asked: np.ndarray) -> float:
    """Returns the mean intersection over union of classes other than the ground, over all images.

    Args:
      drawn: uint8 [n, s, s], of `label_map`.
      asked: uint8 [n, s, s].
    """
    scores = []
    for label in range(1, 1 + len(SHAPES)):
        ours, theirs = drawn == label, asked == label
        either = np.sum(ours | theirs)
        if either:
            scores.append(np.sum(ours & theirs) / either)
    return float(np.mean(scores)) if scores else 1.0


def _class_of(colour: str, shape: str) -> int:
    if shape == UNKNOWN:
        return -2
    return SHAPES.index(shape) * len(COLOURS) + list(COLOURS).index(colour)


def _box(own: np.ndarray) -> np.ndarray:
    """Returns x0, y0, x1, y1 in [0, 1] of a region [s, s]."""
    rows, columns = np.where(own.any(axis=1))[0], np.where(own.any(axis=0))[0]
    corners = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    return np.array(corners) / own.shape[0]


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    edges = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = np.prod(np.maximum(edges, 0))
    return float(both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both))
