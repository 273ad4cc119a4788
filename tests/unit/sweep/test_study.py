"""A study as a command, on points that cost nothing."""

import functools
import sys

import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.sweep.point import Point
from ldm_jax.sweep.study import Study, main, parse_arguments, run_study

MARKS = "<!-- results of small -->\n<!-- end of small -->\n"


def make_points(config, arguments, judge):
    del judge
    images = {"smoke": 1, "small": arguments.images, "paper": 0}[arguments.size]
    return [Point("a", config, seed, {}, {"images": images}) for seed in arguments.seeds]


def measure(point, folder, *, arguments, extractor):
    del folder, arguments, extractor
    if not point.settings["images"]:
        raise UserError("no images. Legal: some.")
    return {"scores": {"x": point.settings["images"] + point.seed}}


def write_report(rows, out):
    del out
    return "".join(f"| {row['seed']} | {row['scores']['x']} |\n" for row in rows)


@pytest.fixture
def study(tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from ldm_jax.core.defaults import base_config\n\n\ndef get_config():\n"
        "    return base_config()\n"
    )
    (tmp_path / "study").mkdir()
    return Study(
        tmp_path / "study",
        "about",
        functools.partial(make_points, str(config)),
        measure,
        write_report,
        add_arguments=lambda parser: parser.add_argument("--images", type=int, default=10),
    )


@pytest.fixture
def run(study, tmp_path):
    def call(*arguments):
        return run_study(study, parse_arguments(study, ["--workdir", str(tmp_path), *arguments]))

    return call


def test_a_page_shows_what_was_asked_for(run, tmp_path):
    out = tmp_path / "page"
    out.mkdir()
    (out / "README.md").write_text(MARKS)

    def small(*more):
        run("--size", "small", "--out", str(out), *more)
        return (out / "README.md").read_text().splitlines()[1:-1]

    assert small() == ["| 0 | 10 |"]
    assert small("--images", "7") == ["| 0 | 7 |"]
    # What is there already is not measured again, and is no other call's result.
    assert small() == ["| 0 | 10 |"]
    assert sorted(set(small("--seeds", "1"))) == ["| 0 | 10 |", "| 1 | 11 |"]


def test_sizes_do_not_share_a_folder(run, tmp_path):
    run("--size", "smoke")
    run("--size", "small")
    for size in ("smoke", "small"):
        assert len((tmp_path / "study" / size / "results.jsonl").read_text().splitlines()) == 1


def test_a_page_without_marks_is_told_before_anything_is_measured(run, tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(UserError, match="has no marks of the size small"):
        run("--size", "small", "--out", str(tmp_path))
    assert not (tmp_path / "results.jsonl").exists()


def test_a_mistake_is_one_line(study, tmp_path, monkeypatch, capsys):
    flags = ["--size", "paper", "--workdir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["run.py", *flags])
    monkeypatch.setattr("ldm_jax.sweep.study._use_both_cores", lambda: None)
    with pytest.raises(SystemExit) as ended:
        main(study)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "study: no images. Legal: some."
