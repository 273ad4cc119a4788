"""The facts about a source, against counts by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.data.folder import Folder
from ldm_jax.data.report import look_through
from ldm_jax.data.tokenizers import WordTokenizer


class Three:
    """Three examples of everything."""

    class_names = ("cat", "dog", "eel")

    def __len__(self):
        return 3

    def __getitem__(self, index):
        size = [(4, 8), (10, 5), (4, 4)][index]
        segmentation, mask = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        segmentation[: size[0] // 2] = 7 if index < 2 else 0
        mask[:, : size[1] // (index + 1)] = index < 2
        boxes = np.full((2, 5), -1, np.float32)
        boxes[:index, 4] = 3
        return {
            "image": np.full((*size, 3), index, np.uint8),
            "text": ["a b c", "", "a b c"][index],
            "class": [0, 2, 0][index],
            "segmentation": segmentation,
            "mask": mask,
            "boxes": boxes,
        }


def test_facts():
    reports = []
    facts = look_through(
        Three(),
        image_size=5,
        batch_size=2,
        tokenizer=WordTokenizer(["a", "b"], length=2),
        num_threads=2,
        progress=lambda *a: reports.append(a),
    )
    assert reports == [(1, 3)] * 3
    assert json.loads(json.dumps(facts)) == {
        "examples": 3,
        "readable": 3,
        "bad_files": [],
        "width": {"min": 4, "median": 5, "max": 8},
        "height": {"min": 4, "median": 4, "max": 10},
        "shorter_side": {"min": 4, "median": 4, "max": 5},
        "image_size": 5,
        "smaller_than_image_size": 2,
        "aspect_ratio": {"min": 0.5, "median": 1, "max": 2},
        "channels": {"RGB": 3},
        "captions": {"empty": 1, "different": 2, "words": {"min": 0, "median": 3, "max": 3}},
        "tokens": {"length": 2, "cut": 2},
        "classes": [
            {"class": 0, "name": "cat", "images": 2},
            {"class": 1, "name": "dog", "images": 0},
            {"class": 2, "name": "eel", "images": 1},
        ],
        "mask_coverage": {"min": 0, "median": 0.4, "max": 1, "empty": 1, "full": 1},
        "segmentation": [
            {"class": 0, "images": 3, "area": 0.6667},
            {"class": 7, "images": 2, "area": 0.3333},
        ],
        "boxes": {"per_image": {"min": 0, "median": 1, "max": 2}, "classes": {"3": 3}},
        "duplicates": {"images": 0, "groups": []},
        "batch_size": 2,
        "steps_per_epoch": 1.5,
    }


def test_broken_and_repeated_files(tmp_path):
    for k, level in enumerate((5, 6, 5, 5)):
        Image.new("L", (4, 4), level).save(tmp_path / f"{k}.png")
    (tmp_path / "4.png").write_bytes(b"no image")
    facts = look_through(Folder(str(tmp_path), max_bad_fraction=1.0))
    assert (facts["examples"], facts["readable"]) == (5, 4)
    why = "UnidentifiedImageError: cannot identify image file"
    assert facts["bad_files"] == [{"path": str(tmp_path / "4.png"), "reason": why}]
    names = [str(tmp_path / f"{k}.png") for k in (0, 2, 3)]
    assert facts["duplicates"] == {"images": 2, "groups": [names]}
    for name in ("captions", "tokens", "classes", "mask_coverage", "segmentation", "boxes"):
        assert facts[name] is None
    assert facts["steps_per_epoch"] is None
    with pytest.raises(UserError, match=r"--num_threads: got 0. Legal: 1 or more"):
        look_through(Folder(str(tmp_path)), num_threads=0)


def test_nothing_can_be_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    facts = look_through(Folder(str(tmp_path), max_bad_fraction=1.0))
    assert (facts["readable"], facts["width"], facts["channels"]) == (0, None, {})
