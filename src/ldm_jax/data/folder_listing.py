"""What is in a folder of images: names of files, and rows of metadata.jsonl."""

import json
import os
import pathlib
from collections.abc import Iterator

from absl import logging

from ldm_jax.core.checks import UserError, read_text, shortened
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
    for folder, names in _walk(root):
        files = (pathlib.Path(folder, name) for name in names if not name.startswith("."))
        for file in files:
            if file.name.endswith(_SIDE_CARS):
                side_cars.append(file)
            elif file.suffix.lower() in EXTENSIONS and os.path.isfile(file):
                found.append(file)
    images = {file.with_suffix("") for file in found}
    orphans = sorted(
        file for file in side_cars if file.with_suffix("").with_suffix("") not in images
    )
    if orphans:
        logging.warning("%d maps have no image beside them, such as %s", len(orphans), orphans[0])
    return sorted(file.relative_to(root) for file in found)


def _walk(root: pathlib.Path) -> Iterator[tuple[str, list[str]]]:
    """Yields every folder once, with the names in it: real ones first, then those of links.

    A link may lead to a folder above itself; to follow it each time would never end.
    """
    seen: set[str] = set()
    pending, skipped = [str(root)], []
    while pending:
        links = []
        for top in pending:
            for folder, folders, names in os.walk(top):
                real = os.path.realpath(folder)
                if real in seen:
                    folders.clear()
                    skipped.append(folder)
                    continue
                seen.add(real)
                # Notebooks and file managers leave hidden folders; their images are no class.
                folders[:] = [name for name in folders if not name.startswith(".")]
                paths = (os.path.join(folder, name) for name in folders)
                links += [path for path in paths if os.path.islink(path)]
                yield folder, names
        pending = sorted(links)
    if skipped:
        logging.warning(
            "%d links lead to folders that are read already, such as %s", len(skipped), skipped[0]
        )


def files_in(folder: pathlib.Path) -> set[str]:
    """Returns the names of the files in a folder; no pipes or devices, which may never end."""
    if not os.path.isdir(folder):
        return set()
    with os.scandir(folder) as entries:
        # Only links cost a look at what they lead to.
        return {e.name for e in entries if e.is_file(follow_symlinks=False) or _leads_to_file(e)}


def _leads_to_file(entry: os.DirEntry) -> bool:
    return entry.is_symlink() and os.path.isfile(entry.path)


def file_inside(where: str, column: str, name: str) -> pathlib.PurePath:
    """Returns the file that a row names, relative to the folder.

    Args:
      where: the row, for messages.
      column: that names it.
      name: as the row has it. Links in the folder may lead out of it; the name may not.

    Raises:
      UserError: it names no file, or one outside the folder.
    """
    file = pathlib.PurePath(name)
    if not file.name or file.anchor or ".." in file.parts:
        raise UserError(
            f"{where}: {column} is {shortened(repr(name))}. Legal: a file in the folder or below "
            "it, by its path from there, without '..'."
        )
    return file


def read_metadata(file: pathlib.Path) -> list[dict]:
    """Returns the rows of metadata.jsonl, each with a file name; raises UserError for others."""
    rows = []
    for number, line in enumerate(read_text(file, "data.source.path").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # no JSON, or a number of too many digits
            raise UserError(f"{file}:{number}: not a JSON object: {error}.") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise UserError(f"{file}:{number}: expected a JSON object with file_name, a text.")
        file_inside(f"{file}:{number}", "file_name", row["file_name"])
        rows.append(row)
    return rows


def no_column(metadata: pathlib.Path, field: str, column: str, rows: list[dict]) -> str:
    """Returns the message that a column is missing."""
    found = sorted({key for row in rows for key in row if key != "file_name"})
    return (
        f"data.source.{field}: {metadata} has no {column!r} in every row it is needed in. "
        f"Columns: {shortened(', '.join(found)) or 'none'}."
    )
