"""What is in a folder of images: names of files, and rows of metadata.jsonl."""

import json
import os
import pathlib

from absl import logging

from ldm_jax.core.checks import UserError, read_text
from ldm_jax.data.side_cars import MAPS

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
METADATA = "metadata.jsonl"
_SIDE_CARS = tuple(f".{name}.png" for name in MAPS)


def check_root(path: str) -> pathlib.Path:
    """Returns the folder, or raises UserError if there is none."""
    root = pathlib.Path(path).expanduser()
    if not path or not root.is_dir():
        got = f"no folder {str(root)!r}" if path else "not set"
        raise UserError(
            f"data.source.path: {got}. Expected a folder of images; set it with "
            "--config.data.source.path=DIR."
        )
    return root


def list_images(root: pathlib.Path) -> list[pathlib.PurePath]:
    """Returns the images under a folder, sorted, relative to it; side-cars are no images."""
    found, side_cars = [], []
    for folder, folders, names in os.walk(root, followlinks=True):
        # Notebooks and file managers leave hidden folders; their images are no class.
        folders[:] = [name for name in folders if not name.startswith(".")]
        files = (pathlib.Path(folder, name) for name in names if not name.startswith("."))
        for file in files:
            if file.name.endswith(_SIDE_CARS):
                side_cars.append(file)
            elif file.suffix.lower() in EXTENSIONS and file.is_file():
                found.append(file)
    images = {file.with_suffix("") for file in found}
    orphans = sorted(
        file for file in side_cars if file.with_suffix("").with_suffix("") not in images
    )
    if orphans:
        logging.warning("%d maps have no image beside them, such as %s", len(orphans), orphans[0])
    return sorted(file.relative_to(root) for file in found)


def read_metadata(file: pathlib.Path) -> list[dict]:
    """Returns the rows of metadata.jsonl, each with a file name; raises UserError for others."""
    rows = []
    for number, line in enumerate(read_text(file, "data.source.path").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{file}:{number}: not a JSON object: {error}.") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise UserError(f"{file}:{number}: expected a JSON object with file_name, a text.")
        rows.append(row)
    return rows


def no_column(metadata: pathlib.Path, field: str, column: str, rows: list[dict]) -> str:
    """Returns the message that a column is missing."""
    found = sorted({key for row in rows for key in row if key != "file_name"})
    return (
        f"data.source.{field}: {metadata} has no {column!r} in every row it is needed in. "
        f"Columns: {', '.join(found) or 'none'}."
    )
