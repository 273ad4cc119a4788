"""Data sets that TensorFlow Datasets prepared as ArrayRecord files, read without TensorFlow."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.core.config import call
from ldm_jax.data.class_captions import ClassCaptions

_INFO = "dataset_info.json"
_TEXT_FEATURES = ("text", "caption", "captions")


class Tfds:
    """One split of a prepared TFDS data set on disk; nothing is downloaded or prepared.

    The feature `image` is the image, `label` the class, and the first of `text`, `caption`,
    `captions` the caption (of several captions, the first).

    Args:
      dataset: name, with configuration and version where there is a choice: `mnist`,
        `huge/config`, `mnist:3.0.1`. The newest version is the default.
      path: the TFDS data folder, which holds `<dataset>/<version>/dataset_info.json`.
      split: `train`, `test`, or a slice such as `train[:90%]`.
      captions: `names` and `templates` of `ClassCaptions`, which makes captions of the classes, in
        place of those that the data set may have.
    """

    def __init__(
        self,
        dataset: str,
        path: str,
        split: str = "train",
        captions: Mapping[str, Any] | None = None,
    ):
        self.dataset, self.path, self.split = dataset, path, split
        folder = _find_prepared(pathlib.Path(path).expanduser(), dataset)
        self._records = _open_split(folder, split)
        features = self._records.dataset_info.features
        if "image" not in features:
            raise UserError(
                f"data.source: {folder} has the features {', '.join(features)}. "
                "Expected one named image."
            )
        self._text = next((name for name in _TEXT_FEATURES if name in features), None)
        self._has_label = "label" in features
        names = getattr(features["label"], "names", None) if self._has_label else None
        self.class_names: tuple[str, ...] | None = tuple(names) if names else None
        self._captions = call("data.source.captions", ClassCaptions, captions) if captions else None
        if self._captions is not None:
            self._captions.check_classes(self.class_names)

    def __repr__(self) -> str:
        also = ", captions of classes" if self._captions else ""
        return f"Tfds(dataset={self.dataset!r}, path={self.path!r}, split={self.split!r}{also})"

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns image uint8 [H, W, C], and class and text where the data set has them."""
        record = self._records[int(index)]
        example: dict[str, Any] = {"image": np.asarray(record["image"], np.uint8)}
        if self._has_label:
            example["class"] = int(record["label"])
        if self._captions is not None:
            example["text"] = self._captions(example["class"], int(index))
        elif self._text is not None:
            example["text"] = _as_text(record[self._text])
        return example


def _as_text(value: Any) -> str:
    if isinstance(value, dict):  # a sequence of feature dicts, such as COCO's captions
        value = value.get("text", next(iter(value.values())))
    if not isinstance(value, str | bytes):
        value = value[0] if len(value) else ""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _find_prepared(root: pathlib.Path, dataset: str) -> pathlib.Path:
    """Returns the folder of the newest version, or raises UserError with what is there."""
    if not root.is_dir():
        raise UserError(
            f"data.source.path: no folder {str(root)!r}. Expected a TFDS data folder; set it with "
            "--config.data.source.path=DIR."
        )
    name, _, version = dataset.partition(":")
    folders = sorted(
        (file.parent for file in (root / name).glob(f"{version or '*'}/{_INFO}")),
        key=lambda folder: [int(part) if part.isdigit() else -1 for part in folder.name.split(".")],
    )
    if not folders:
        prepared = [file.parent.relative_to(root) for file in root.glob(f"*/**/{_INFO}")]
        listing = ", ".join(sorted(f"{p.parent.as_posix()}:{p.name}" for p in prepared)) or "none"
        raise UserError(
            f"data.source.dataset: looked for {root / name / (version or '*') / _INFO}. "
            f"Prepared data sets in {root}: {listing}."
        )
    return folders[-1]


def _open_split(folder: pathlib.Path, split: str) -> Any:
    import tensorflow_datasets as tfds  # costs a second to import

    builder = tfds.builder_from_directory(str(folder))
    legal = list(builder.info.splits)
    base = split.partition("[")[0]
    if any(part.partition("[")[0].strip() not in legal for part in split.split("+")):
        raise UserError(
            f"data.source.split: got {split!r} for {folder}. Legal: {', '.join(legal)}, and slices "
            f"such as {legal[0]}[:90%]."
        )
    if not list(folder.glob(f"*-{base}.array_record*")):
        found = ", ".join(sorted(item.name for item in folder.iterdir()))
        raise UserError(
            f"data.source.path: looked for ArrayRecord files of {base!r} in {folder}; found: "
            f"{found}. Prepare the data set with file_format=array_record."
        )
    try:
        return builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]
    except ValueError as error:
        raise UserError(f"data.source.split: got {split!r} for {folder}: {error}") from error
