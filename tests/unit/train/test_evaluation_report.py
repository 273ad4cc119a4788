"""The report of an evaluation: what it keeps, shows and refuses."""

import json

import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.train.evaluation_report import Report, score_lines
from ldm_jax.train.scores import Score

PINS = {"samples": {"count": 20, "seed": 1, "sampler": {"name": "ddim", "eta": 0.0}}}
KID = [Score("kid", "kernel distance (a|b)", 0.25, 0.125)]
FID = [Score("fid", "Fréchet distance (a|b)", 12.3456789)]


@pytest.fixture
def path(tmp_path):
    report = Report(tmp_path / "new" / "report.json", PINS)
    report.add(FID, {}, "0.1.0")
    report.add(KID, {"size": 8}, "0.1.0 gabc")
    report.write({"samples": ["0.1.0"]})
    return tmp_path / "new" / "report.json"


def test_scores_are_kept_by_metric_and_settings(path):
    report = Report(path, PINS)
    assert report.has("fid", {})
    assert report.has("kid", {"size": 8})
    assert not report.has("kid", {"size": 9})
    assert not report.has("is", {})
    found = report.chosen({"kid": {"size": 8}})
    assert found["samples"] == PINS["samples"]
    assert found["features made by"] == {"samples": ["0.1.0"]}
    assert found["scores"] == [
        {
            "metric": "kid",
            "name": "kernel distance (a|b)",
            "value": 0.25,
            "std": 0.125,
            "settings": {"size": 8},
            "code": "0.1.0 gabc",
        }
    ]


def test_people_read_the_same(path):
    text = path.with_suffix(".md").read_text()
    assert "| kernel distance (a\\|b) | 0.25 ± 0.125 | size=8 | 0.1.0 gabc |" in text
    assert "| Fréchet distance (a\\|b) | 12.3457 |  | 0.1.0 |" in text
    assert '| sampler | {"name": "ddim", "eta": 0.0} |' in text
    assert score_lines(json.loads(path.read_text())["scores"]) == [
        "Fréchet distance (a|b)  12.3457",
        "kernel distance (a|b)   0.25 ± 0.125",
    ]


def test_what_is_not_its_own_is_refused(path):
    with pytest.raises(UserError) as caught:
        Report(path, {"samples": {**PINS["samples"], "seed": 2}})
    assert str(caught.value) == f"{path}: the report of something else. Legal: remove it."
    path.write_text("{")
    with pytest.raises(UserError, match=r"report\.json: damaged \(.+\)\. Legal: remove it\."):
        Report(path, PINS)
