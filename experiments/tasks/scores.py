"""How every task is drawn and judged; the judges read pixels and know no model."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from examples import Examples
from PIL import Image

from ldm_jax.data.shapes import COLOURS, COLUMNS, ROWS, SHAPES, class_of
from ldm_jax.evaluation.shapes_layout import box_overlap, label_map, map_overlap
from ldm_jax.evaluation.shapes_relation import relation_scores
from ldm_jax.evaluation.shapes_score import read_objects
from ldm_jax.interop.lpips_weights import load_lpips
from ldm_jax.models.lpips import LPIPS

_BOOTSTRAP = 200
_CONSTANTS = 16  # real images, the best of which is the trivial control


@dataclasses.dataclass(frozen=True)
class Score:
    """A task's judge.

    Attributes:
      measure: what the number is.
      draw: (pipeline, examples, seed, progress) -> images.
      judge: (images, examples) -> score, standard_error, controls.
      bar: what is to be reached, in words, and whether what `judge` returned does.
    """

    measure: str
    draw: Callable[..., np.ndarray]
    judge: Callable[[np.ndarray, Examples], dict[str, Any]]
    bar: tuple[str, Callable[[dict[str, Any]], bool]]


def _at_least(bar: float) -> tuple[str, Callable[[dict[str, Any]], bool]]:
    return f"≥ {bar}", lambda found: found["score"] >= bar


def _summary(
    own: np.ndarray, real: np.ndarray, shuffled: np.ndarray, trivial: np.ndarray
) -> dict[str, Any]:
    """Returns means, and whether ours beats the better of the last two by three standard errors.

    All are [n], a number per condition. The error is that of the difference, row by row.
    """
    own, shuffled, trivial = (np.asarray(x, float) for x in (own, shuffled, trivial))
    gains = [own - control for control in (shuffled, trivial)]
    least = min(gains, key=np.mean)
    return {
        "score": float(np.mean(own)),
        "standard_error": float(np.std(own) / np.sqrt(len(own))),
        "real": float(np.mean(real)),
        "shuffled": float(np.mean(shuffled)),
        "trivial": float(np.mean(trivial)),
        "beats_controls": bool(np.mean(least) > 3 * np.std(least) / np.sqrt(len(least))),
    }


def _rolled(x: Any) -> Any:
    """Returns the conditions of the next image: what a model that ignores them would score."""
    return [*x[1:], x[0]] if isinstance(x, list) else np.roll(x, -1, axis=0)


def _has_class(image: np.ndarray, label: int) -> bool:
    seen = read_objects(image)
    colour, shape = list(COLOURS)[label % len(COLOURS)], SHAPES[label // len(COLOURS)]
    return len(seen) == 1 and (seen[0].colour, seen[0].shape) == (colour, shape)


def _has_relation(image: np.ndarray, caption: str) -> bool:
    return relation_scores(image, caption)["all"]


def _per_image(
    measure: Callable[[np.ndarray, Any], float], asked: Callable[[Examples], Any]
) -> Callable[[np.ndarray, Examples], dict[str, Any]]:
    """Returns a judge of images one by one; trivial is one real image for every condition."""

    def judge(images: np.ndarray, examples: Examples) -> dict[str, Any]:
        def scores(images: Any, wanted: Any) -> np.ndarray:
            pairs = zip(images, wanted, strict=True)
            return np.array([float(measure(image, what)) for image, what in pairs])

        wanted = asked(examples)
        same = [scores([image] * len(images), wanted) for image in examples.image[:_CONSTANTS]]
        return _summary(
            scores(images, wanted),
            scores(examples.image, wanted),
            scores(images, _rolled(wanted)),
            max(same, key=np.mean),
        )

    return judge


def _judge_maps(images: np.ndarray, examples: Examples) -> dict[str, Any]:
    """Returns the overlap of label maps; it is one number for all images, so by bootstrap.

    Trivial is one real map for every condition, the best of some.
    """
    asked, rng = examples.segmentation, np.random.default_rng(0)
    maps = {
        "score": np.stack([label_map(x) for x in images]),
        "real": np.stack([label_map(x) for x in examples.image]),
    }
    same = [np.broadcast_to(each, asked.shape) for each in asked[:_CONSTANTS]]
    maps["trivial"] = max(same, key=lambda drawn: map_overlap(drawn, asked))
    found = {name: map_overlap(drawn, asked) for name, drawn in maps.items()}
    found["shuffled"] = map_overlap(maps["score"], _rolled(asked))
    rows = [rng.integers(0, len(asked), len(asked)) for _ in range(_BOOTSTRAP)]
    own = np.array([map_overlap(maps["score"][k], asked[k]) for k in rows])
    shuffled = np.array([map_overlap(maps["score"][k], _rolled(asked)[k]) for k in rows])
    trivial = np.array([map_overlap(maps["trivial"][k], asked[k]) for k in rows])
    gain = own - (trivial if found["trivial"] > found["shuffled"] else shuffled)
    return {
        **found,
        "standard_error": float(np.std(own)),
        "beats_controls": bool(np.mean(gain) > 3 * np.std(gain)),
    }


def _judge_scenes(images: np.ndarray, examples: Examples) -> dict[str, Any]:
    """Returns the share of images of just one known object, for a model without a condition.

    Trivial are means of two real images; there is nothing to shuffle.
    """
    blends = ((examples.image.astype(int) + _rolled(examples.image)) // 2).astype(np.uint8)
    own, real, trivial = (_attributes(x)[0] >= 0 for x in (images, examples.image, blends))
    return _summary(own, real, trivial, trivial)


def _psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    error = np.mean((a.astype(float) - b) ** 2, axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-9))


def _judge_resolution(images: np.ndarray, examples: Examples) -> dict[str, Any]:
    """Returns PSNR in dB; trivial is bicubic enlargement, real is what the first stage leaves."""
    small = np.round((examples.derived["low_res"] + 1) * 127.5).astype(np.uint8)
    size = examples.image.shape[1:3]
    bicubic = np.stack(
        [np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BICUBIC)) for x in small]
    )
    truth = examples.image
    return _summary(
        _psnr(images, truth),
        _psnr(examples.reconstruction, truth),
        _psnr(images, _rolled(truth)),
        _psnr(bicubic, truth),
    )


def nearest_fill(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns the image with every masked pixel taken from the nearest one that is known."""
    from scipy import ndimage

    _, (rows, columns) = ndimage.distance_transform_edt(mask, return_indices=True)
    return image[rows, columns]


def _judge_inpainting(images: np.ndarray, examples: Examples) -> dict[str, Any]:
    """Returns minus LPIPS to the whole image; outside the masks nothing may differ.

    Real is what the first stage makes of the whole image, pasted into the hole.
    """
    masks = examples.derived["mask"]
    known = masks == 0
    filled = np.stack([nearest_fill(x, m) for x, m in zip(examples.image, masks, strict=True)])
    # What another image's fill would look like, in this one's hole.
    other = np.where(known[..., None], examples.image, _rolled(images))
    found = _summary(
        -_lpips(images, examples.image),
        -_lpips(
            np.where(known[..., None], examples.image, examples.reconstruction), examples.image
        ),
        -_lpips(other, examples.image),
        -_lpips(filled, examples.image),
    )
    same = np.all(images[known] == examples.image[known])
    better = 1 - found["score"] / found["trivial"]
    return {**found, "unmasked_identical": bool(same), "better_than_nearest": float(better)}


def _lpips(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    params = load_lpips(None)

    @jax.jit
    def distance(a, b):
        a, b = (x.astype(jnp.float32) / 127.5 - 1 for x in (a, b))
        return LPIPS().apply({"params": params}, a, b)

    pieces = range(0, len(a), 32)
    return np.concatenate([np.asarray(distance(a[k : k + 32], b[k : k + 32])) for k in pieces])


def _attributes(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns class numbers [n], -1 where not just one known object is seen, and its cell [n]."""
    labels, cells = np.full(len(images), -1), np.full(len(images), -1)
    for k, image in enumerate(images):
        seen = read_objects(image)
        if len(seen) == 1 and seen[0].shape in SHAPES:
            labels[k] = class_of(seen[0])
            cells[k] = 3 * ROWS.index(seen[0].row) + COLUMNS.index(seen[0].column)
    return labels, cells


def _judge_attributes(
    asked: Callable[[Examples], np.ndarray],
    given: Callable[[Examples], np.ndarray],
    trivial: Callable[[Examples], np.ndarray],
) -> Callable[[np.ndarray, Examples], dict[str, Any]]:
    """Returns a judge of colour and shape, both right, for models that see embeddings.

    Args:
      asked: class numbers [n].
      given: images [n, s, s, 3] whose embedding, or one of whose, the model saw.
      trivial: images that a program without a model would give.
    """

    def judge(images: np.ndarray, examples: Examples) -> dict[str, Any]:
        wanted = asked(examples)
        (drawn, cells), (real, places) = _attributes(images), _attributes(given(examples))
        controls = (real == wanted, drawn == _rolled(wanted))
        found = _summary(drawn == wanted, *controls, _attributes(trivial(examples))[0] == wanted)
        known, both = drawn >= 0, len(COLOURS)
        return {
            **found,
            "colour": float(np.mean(known & (drawn % both == wanted % both))),
            "shape": float(np.mean(known & (drawn // both == wanted // both))),
            "in_another_cell": float(np.mean(known & (cells != places))),
        }

    return judge


def _most(examples: Examples) -> np.ndarray:
    """Returns the class of most of an image's neighbours."""
    return np.array([np.bincount(row).argmax() for row in examples.alike_label])


def _with(name: str, argument: str | None = None) -> Callable[..., np.ndarray]:
    """Returns a `draw` that hands one entry of the examples to the pipeline."""

    def draw(pipeline: Any, examples: Examples, seed: int, progress: Any) -> np.ndarray:
        if argument is not None:
            values = getattr(examples, name)
            values = values if isinstance(values, list) else values.tolist()
            return pipeline(**{argument: values}, seed=seed, progress=progress)
        source = examples.derived if name in examples.derived else vars(examples)
        rows = source[name]
        rows = rows.astype(np.int32) if rows.dtype == np.uint8 else rows
        return pipeline(conditions={name: rows}, seed=seed, progress=progress)

    return draw


def _without_condition(pipeline: Any, examples: Examples, seed: int, progress: Any) -> np.ndarray:
    return pipeline(num_images=len(examples.image), seed=seed, progress=progress)


def _inpaint(pipeline: Any, examples: Examples, seed: int, progress: Any) -> np.ndarray:
    masks = examples.derived["mask"].astype(np.float32)
    return pipeline(image=examples.image, mask=masks, seed=seed, progress=progress)


SCORES = {
    "unconditional": Score(
        "one known object", _without_condition, _judge_scenes, ("none", lambda found: True)
    ),
    "class": Score(
        "one object of the class",
        _with("label", "classes"),
        _per_image(_has_class, lambda e: e.label),
        _at_least(0.98),
    ),
    "two_objects": Score(
        "both objects, their places and relation right",
        _with("text", "prompts"),
        _per_image(_has_relation, lambda e: e.text),
        _at_least(0.75),
    ),
    "layout": Score(
        "mean IoU of boxes",
        _with("layout"),
        _per_image(box_overlap, lambda e: e.boxes),
        _at_least(0.70),
    ),
    "semantic": Score("mean IoU of classes", _with("segmentation"), _judge_maps, _at_least(0.80)),
    "super_resolution": Score(
        "PSNR, dB",
        _with("low_res"),
        _judge_resolution,
        ("2 dB above bicubic", lambda found: found["score"] >= found["trivial"] + 2),
    ),
    "inpainting": Score(
        "-LPIPS",
        _inpaint,
        _judge_inpainting,
        (
            "40 % less than the nearest fill, nothing else changed",
            lambda found: found["better_than_nearest"] >= 0.4 and found["unmasked_identical"],
        ),
    ),
    "retrieval": Score(
        "colour and shape of most neighbours",
        _with("neighbours"),
        # Real is the nearest neighbour itself; trivial the mean of the neighbours' pixels.
        _judge_attributes(
            _most, lambda e: e.alike[:, 0], lambda e: e.alike.mean(axis=1).astype(np.uint8)
        ),
        _at_least(0.80),
    ),
    "variations": Score(
        "colour and shape of the given image",
        _with("image_embedding"),
        # Trivial is another real image.
        _judge_attributes(lambda e: e.label, lambda e: e.image, lambda e: _rolled(e.image)),
        ("none", lambda found: True),
    ),
}
