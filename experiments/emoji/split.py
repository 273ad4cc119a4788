"""Which captions a model never sees: subjects in one skin tone, things in one colour."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldm_jax.data.transforms import decode

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")
_TONE = re.compile(r"(?P<subject>.+?),? (?P<tone>medium-light|medium-dark|light|medium|dark) skin")
_COLOUR = re.compile(rf"\b({'|'.join(COLOURS)})\b")
_LEAST_COLOURS = 4  # a thing in fewer colours would teach too little of itself


class Row(NamedTuple):
    """One emoji.

    Attributes:
      file: its name in the folder.
      text: its caption.
      category: as the data set has it.
      tone: 0 without a skin tone, or 1 + its index in TONES; -1 for several.
    """

    file: str
    text: str
    category: str
    tone: int


def read_rows(folder: Path) -> list[Row]:
    """Returns the rows of metadata.jsonl."""
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    return [Row(x["file_name"], x["text"], x["category"], tone_of(x["text"])) for x in rows]


def tone_of(text: str) -> int:
    """Returns the number of a caption's skin tone; see `Row`."""
    count = text.count("skin tone")
    if count != 1:
        return 0 if count == 0 else -1
    match = _TONE.match(text)
    return -1 if match is None else 1 + TONES.index(match["tone"])


def hold_out(
    rows: list[Row], folder: Path, count: int, seed: int = 0
) -> tuple[list[Row], list[Row], list[Row]]:
    """Returns what is trained on, `count` unseen pairs of subject and tone, unseen colours.

    Of every chosen subject one tone is held out and four are trained on; of everything that comes
    in four colours or more, one colour. So each word of an unseen caption is known, and its
    combination is new. Subjects that look the same in several tones, such as the snowboarder,
    are left in training.
    """
    rng = np.random.default_rng(seed)
    subjects: dict[str, list[Row]] = {}
    things: dict[str, list[Row]] = {}
    for row in rows:
        if row.tone > 0:
            match = _TONE.match(row.text)
            assert match is not None
            subjects.setdefault(match["subject"], []).append(row)
        elif row.tone == 0 and len(_COLOUR.findall(row.text)) == 1:
            things.setdefault(_COLOUR.sub("*", row.text), []).append(row)
    whole = [group for group in subjects.values() if _distinct(group, folder) == len(TONES)]
    chosen = rng.permutation(len(whole))[:count]
    tones = [
        sorted(whole[k], key=lambda row: row.tone)[i % len(TONES)] for i, k in enumerate(chosen)
    ]
    many = [group for group in things.values() if len(group) >= _LEAST_COLOURS]
    colours = [group[int(rng.integers(len(group)))] for group in many]
    unseen = {row.file for row in (*tones, *colours)}
    return [row for row in rows if row.file not in unseen], tones, colours


def _distinct(rows: list[Row], folder: Path) -> int:
    """Returns how many of these look different."""
    return len({decode(str(folder / row.file)).tobytes() for row in rows})


def write_folder(folder: Path, images: Path, rows: list[Row]) -> None:
    """Writes a folder of these rows whose images stay where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "images"
    if not link.is_symlink():
        link.symlink_to(images.resolve(), target_is_directory=True)
    lines = [
        json.dumps({"file_name": f"images/{x.file}", "text": x.text, "category": x.category})
        for x in rows
    ]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
