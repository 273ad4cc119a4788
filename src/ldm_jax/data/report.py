"""What a source holds, from one look at each of its examples."""

import collections
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.core.checks import check_positive
from ldm_jax.data.ahead import available_threads, map_ahead
from ldm_jax.data.file_source import FileSource
from ldm_jax.data.source import Source
from ldm_jax.data.tokenizers import Tokenizer

Progress = Callable[[int, int], object]
_CHANNELS = {1: "grey", 2: "grey with alpha", 3: "RGB", 4: "RGBA"}
_MAX_GROUPS = 10


class _Facts(NamedTuple):
    """What is kept of an example."""

    name: str
    height: int
    width: int
    channels: int
    digest: bytes
    text: str | None
    label: int | None
    mask: float | None
    area_by_class: dict[int, float] | None
    box_classes: tuple[int, ...] | None


def look_through(
    source: Source,
    *,
    image_size: int | None = None,
    batch_size: int | None = None,
    tokenizer: Tokenizer | None = None,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Returns facts about a source, for `json.dumps`; what it does not have is None.

    Every example is read. Of a range there are `min`, `median` and `max`.

    Args:
      source: a `FileSource` should allow for all files to be bad, as they are what is looked for.
      image_size: to count the images that are smaller.
      batch_size: to tell the steps of an epoch.
      tokenizer: to count the captions that are cut.
      num_threads: by default one per processor.
      progress: called with the number of examples done, and of all.
    """
    num_threads = available_threads() if num_threads is None else num_threads
    check_positive("--num_threads", [num_threads])
    found, truncated = [], tokenizer.truncated if tokenizer is not None else 0
    for facts in map_ahead(lambda i: _look(source, i, tokenizer), range(len(source)), num_threads):
        if facts is not None:
            found.append(facts)
        if progress is not None:
            progress(1, len(source))
    bad = source.quarantine if isinstance(source, FileSource) else {}
    shorter = [min(facts.height, facts.width) for facts in found]
    smaller = None if image_size is None else sum(side < image_size for side in shorter)
    cut = None if tokenizer is None else tokenizer.truncated - truncated
    return {
        "examples": len(source),
        "readable": len(found),
        "bad_files": [{"path": path, "reason": bad[path]} for path in sorted(bad)],
        "width": _range([facts.width for facts in found]),
        "height": _range([facts.height for facts in found]),
        "shorter_side": _range(shorter),
        "image_size": image_size,
        "smaller_than_image_size": smaller,
        "aspect_ratio": _range([facts.width / facts.height for facts in found]),
        "channels": _count(_CHANNELS[facts.channels] for facts in found),
        "captions": _captions([facts.text for facts in found if facts.text is not None]),
        "tokens": None if tokenizer is None else {"length": tokenizer.length, "cut": cut},
        "classes": _classes([x.label for x in found if x.label is not None], source.class_names),
        "mask_coverage": _coverage([facts.mask for facts in found if facts.mask is not None]),
        "segmentation": _segmentation(
            [x.area_by_class for x in found if x.area_by_class is not None]
        ),
        "boxes": _boxes([x.box_classes for x in found if x.box_classes is not None]),
        "duplicates": _duplicates(found),
        "batch_size": batch_size,
        "steps_per_epoch": None if batch_size is None else len(source) / batch_size,
    }


def _look(source: Source, index: int, tokenizer: Tokenizer | None) -> _Facts | None:
    files = source if isinstance(source, FileSource) else None
    example = files.read(index) if files is not None else source[index]
    if example is None:
        return None
    image, text = example["image"], example.get("text")
    if tokenizer is not None and text is not None:
        tokenizer(text)  # which counts what it cuts
    mask, segmentation, boxes = (example.get(name) for name in ("mask", "segmentation", "boxes"))
    used = () if boxes is None else boxes[boxes[:, 4] >= 0, 4].astype(int).tolist()
    return _Facts(
        name=files.name(index) if files is not None else f"example {index}",
        height=image.shape[0],
        width=image.shape[1],
        channels=image.shape[2],
        digest=hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).digest(),
        text=text,
        label=example.get("class"),
        mask=None if mask is None else float(mask.mean()),
        area_by_class=None if segmentation is None else _areas(segmentation),
        box_classes=None if boxes is None else tuple(used),
    )


def _areas(segmentation: np.ndarray) -> dict[int, float]:
    """Returns the part of the pixels of each class that there is."""
    classes, counts = np.unique(segmentation, return_counts=True)
    return dict(zip(classes.tolist(), (counts / segmentation.size).tolist(), strict=True))


def _range(values: Sequence[float]) -> dict[str, float] | None:
    if not values:
        return None
    ends = {"min": min(values), "median": float(np.median(values)), "max": max(values)}
    return {name: round(float(x), 4) if x % 1 else int(x) for name, x in ends.items()}


def _count(values: Any) -> dict[Any, int]:
    return dict(sorted(collections.Counter(values).items()))


def _captions(texts: list[str]) -> dict[str, Any] | None:
    if not texts:
        return None
    return {
        "empty": sum(not text.strip() for text in texts),
        "different": len(set(texts)),
        "words": _range([len(text.split()) for text in texts]),
    }


def _classes(labels: list[int], names: Sequence[str] | None) -> list[dict[str, Any]] | None:
    """Returns class, name and number of images, also of named classes without any."""
    if not labels:
        return None
    counts = collections.Counter(labels)
    named = dict(enumerate(names or ()))
    return [
        {"class": k, "name": named.get(k), "images": counts[k]} for k in sorted({*named, *counts})
    ]


def _coverage(fractions: list[float]) -> dict[str, Any] | None:
    if not fractions:
        return None
    empty, full = (sum(part == value for part in fractions) for value in (0.0, 1.0))
    return {**(_range(fractions) or {}), "empty": empty, "full": full}


def _segmentation(maps: list[dict[int, float]]) -> list[dict[str, Any]] | None:
    """Returns class, number of images, and the mean part of an image of any size."""
    if not maps:
        return None
    images = _count(k for areas in maps for k in areas)
    parts = {k: sum(areas.get(k, 0.0) for areas in maps) / len(maps) for k in images}
    return [{"class": k, "images": images[k], "area": round(parts[k], 4)} for k in images]


def _boxes(classes: list[tuple[int, ...]]) -> dict[str, Any] | None:
    if not classes:
        return None
    per_image = _range([len(each) for each in classes])
    return {"per_image": per_image, "classes": _count(k for each in classes for k in each)}


def _duplicates(found: list[_Facts]) -> dict[str, Any]:
    """Returns how many images repeat the pixels of another, and the first groups of them."""
    by_digest = collections.defaultdict(list)
    for facts in found:
        by_digest[facts.digest].append(facts.name)
    groups = [names for names in by_digest.values() if len(names) > 1]
    return {"images": sum(len(names) - 1 for names in groups), "groups": groups[:_MAX_GROUPS]}
