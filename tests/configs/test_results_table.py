"""The README's table of results is that of the committed files."""

import importlib.util
import re
from pathlib import Path

import pytest

from ldm_jax.sweep.page import fill_page

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results():
    spec = importlib.util.spec_from_file_location("results", ROOT / "experiments" / "results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_files(results, tmp_path):
    copy = tmp_path / "README.md"
    copy.write_text(results.README.read_text())
    fill_page(copy, results.MARK, results.make_table())
    assert copy.read_text() == results.README.read_text(), "run: make results"


def test_every_line_has_a_number_and_a_page(results):
    lines = results.make_table().splitlines()[2:]
    assert len(lines) == sum(map(len, results.RESULTS.values()))
    for line in lines:
        _, _, found, _, page, _ = line.split("|")
        assert re.search(r"\d\.\d", found)
        assert (ROOT / re.search(r"\((.*)\)", page)[1]).is_file()
