"""Steps of a point's measurement that are taken once, and found again after a cut."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def kept(path: Path, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Returns what a JSON file holds; where there is none, it is made and written whole."""
    if not path.is_file():
        text = json.dumps(make(), allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)
    found: dict[str, Any] = json.loads(path.read_text())
    return found
