"""Which source a path means, so that nobody has to name it."""

import os
import re
from pathlib import Path
from typing import Any

from ldm_jax.core.checks import UserError
from ldm_jax.data.folder_listing import METADATA
from ldm_jax.data.record_format import DATASET

LEGAL = (
    "Legal: a folder of images, a folder or pattern of .tar files, a folder of a prepared TFDS "
    "data set, a folder of 'ldm-jax data prepare'"
)
_TFDS = "dataset_info.json"
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def source_settings(path: str, split: str | None = None) -> dict[str, Any]:
    """Returns `name` and arguments of the source in `SOURCES` that reads a path.

    Args:
      path: a folder of 'ldm-jax data prepare'; a TFDS data set, or the folder of one of its
        versions; a folder, file or pattern of .tar files; else a folder of images.
      split: of a TFDS data set, by default `train`; others have none.

    Raises:
      UserError: there is nothing of the kind.
    """
    root = Path(path).expanduser()
    settings = _settings(root, path)
    if settings["name"] == "tfds":
        return {**settings, "split": split or "train"}
    if split is not None:
        raise UserError(f"--split={split}: {path} is no TFDS data set. Legal: without --split.")
    return settings


def _settings(root: Path, path: str) -> dict[str, Any]:
    if root.name == METADATA and root.is_file():
        return {"name": "folder", "path": str(root.parent)}
    if root.is_file() or re.search(r"[*?{]", root.name):
        if ".tar" in root.name or not root.is_file():
            return {"name": "webdataset", "path": path}
        raise UserError(f"PATH={path}: is a file of no known kind. {LEGAL}.")
    if not root.is_dir():
        raise UserError(f"PATH={path}: no such folder. {LEGAL}.")
    if (root / DATASET).is_file():
        return {"name": "records", "path": path}
    if not (root / METADATA).is_file():
        prepared = _find_tfds(root)
        if prepared is not None:
            return prepared
        if any(".tar" in name or name.endswith(".tgz") for name in os.listdir(root)):
            return {"name": "webdataset", "path": path}
    return {"name": "folder", "path": path}


def _find_tfds(root: Path) -> dict[str, str] | None:
    """Returns the one TFDS data set at or below a folder; the newest, where it names no version."""
    if (root / _TFDS).is_file():
        folder, version = root.absolute().parent, f":{root.absolute().name}"
        return {"name": "tfds", "dataset": folder.name + version, "path": str(folder.parent)}
    found, level = [], [root]
    for _ in range(3):  # <root>/<dataset>/<configuration>/<version>
        found += [folder for folder in level if any(_versions(folder))]
        level = [child for folder in level for child in _folders(folder)]
    if len(found) > 1:
        names = ", ".join(sorted(map(str, found)))
        raise UserError(f"PATH={root}: holds several TFDS data sets. Legal: {names}.")
    if not found:
        return None
    folder = found[0].absolute()
    return {"name": "tfds", "dataset": folder.name, "path": str(folder.parent)}


def _versions(folder: Path) -> list[Path]:
    children = (child for child in _folders(folder) if _VERSION.fullmatch(child.name))
    return [child for child in children if (child / _TFDS).is_file()]


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir()]
