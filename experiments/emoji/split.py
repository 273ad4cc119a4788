"""Which captions a model never sees: subjects in one skin tone, things in one colour."""

import itertools
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ldm_jax.data.transforms import as_channels, decode

TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white")
_TONE = re.compile(r"(?P<subject>.+?),? (?P<tone>medium-light|medium-dark|light|medium|dark) skin")
_COLOUR = re.compile(rf"\b({'|'.join(COLOURS)})\b")
_LEAST_COLOURS = 4  # a thing in fewer colours would teach too little of itself
_LEAST_DIFFERENCE = 8.0  # levels, root mean square; below, a tone is hardly to be seen
# Subjects that differ in these alone look nearly the same, so they are held out together.
_ALIKE = re.compile(
    r"\b(man|men|woman|women|person|people|boy|girl|facing right|with|in|of)\b|[^a-z ]"
)


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
    combination is new. The same tone of subjects that hardly differ (man, woman or person; facing
    right) is left out too. Subjects that look nearly the same in two tones, such as the
    snowboarder, are not chosen.
    """
    rng = np.random.default_rng(seed)
    subjects: dict[str, list[Row]] = {}
    things: dict[str, list[Row]] = {}
    for row in rows:
        if row.tone > 0:
            subjects.setdefault(_subject(row), []).append(row)
        elif row.tone == 0 and len(_COLOUR.findall(row.text)) == 1:
            things.setdefault(_COLOUR.sub("*", row.text), []).append(row)
    whole = {
        name: sorted(group, key=lambda row: row.tone)
        for name, group in subjects.items()
        if len(group) == len(TONES) and _least_difference(group, folder) >= _LEAST_DIFFERENCE
    }
    families: dict[str, list[str]] = {}
    for name in whole:
        families.setdefault(_family(name), []).append(name)
    chosen = [list(families)[k] for k in rng.permutation(len(families))[:count]]
    tones = [whole[families[name][0]][i % len(TONES)] for i, name in enumerate(chosen)]
    alike = {(_family(_subject(row)), row.tone) for row in tones}
    many = [group for group in things.values() if len(group) >= _LEAST_COLOURS]
    colours = [group[int(rng.integers(len(group)))] for group in many]
    unseen = {row.file for row in colours}
    seen = [
        row
        for row in rows
        if row.file not in unseen
        and not (row.tone > 0 and (_family(_subject(row)), row.tone) in alike)
    ]
    return seen, tones, colours


def _subject(row: Row) -> str:
    """Returns what a caption of one tone shows, without the tone."""
    match = _TONE.match(row.text)
    assert match is not None
    return match["subject"]


def _family(subject: str) -> str:
    return " ".join(_ALIKE.sub(" ", subject.lower()).split()) or subject


def _least_difference(rows: list[Row], folder: Path) -> float:
    """Returns the smallest root mean square difference of any two of these, in levels."""
    images = [as_channels(decode(str(folder / row.file)), 3).astype(float) for row in rows]
    return min(float(np.sqrt(np.mean((a - b) ** 2))) for a, b in itertools.combinations(images, 2))


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
