"""Tables of studies, and the pages that they stand in."""

import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.sweep.page import (
    Column,
    about_seeds,
    best,
    comparable,
    fill_page,
    made_on,
    make_table,
)


def row(name, seed, score, **settings):
    made_by = {"device": "cpu", "devices": 2, "jax": "1", "date": "d", "code_sha256": "c"}
    told = {"name": name, "seed": seed, "overrides": {}, "settings": settings}
    return {**told, "scores": {"x": score}, "made_by": made_by}


def test_a_cell_is_the_mean_over_seeds_with_its_error():
    groups = {"a": [row("a", 0, 1.0), row("a", 1, 3.0)], "b": [row("b", 0, 2.5)]}
    columns = {"x": Column.of("x"), "half": Column(lambda r: r["scores"]["x"] / 2, "{:.1f} %")}
    assert make_table(groups, columns) == [
        "| | x | half |",
        "|---|---|---|",
        "| a | 2.000 ± 1.000 | 1.0 % ± 0.5 % |",
        "| b | 2.500 | 1.2 % |",
    ]


def test_the_best_is_that_of_means():
    groups = {"a": [row("a", 0, 1.0), row("a", 1, 4.0)], "b": [row("b", 0, 2.0)]}
    assert best(groups, "x") == "b"
    assert best(groups, "x", max) == "a"
    groups["c"] = [{"scores": {"x": 1.00004 * row["scores"]["x"]}} for row in groups["a"]]
    assert best(groups, "x", max) == "a and c"


def test_newest_rows_compare_if_they_were_measured_alike():
    rows = [row("a", 0, 9.0, judge="old"), row("a", 0, 1.0, judge="j"), row("b", 0, 2.0, judge="j")]
    groups = comparable("study", rows, ("judge",))
    assert {name: [x["scores"]["x"] for x in g] for name, g in groups.items()} == {
        "a": [1.0],
        "b": [2.0],
    }
    with pytest.raises(UserError) as told:
        comparable("study", [*rows[1:], row("c", 0, 1.0, judge="k")], ("judge",))
    assert str(told.value) == (
        "study: results with 2 kinds of judge: j, k. Legal: one; measure the others again, or keep "
        "another --out."
    )
    with pytest.raises(UserError, match=r"study: got no results\. Legal: those of one point"):
        comparable("study", [], ())


def test_what_is_said_of_seeds_and_machine():
    one, two = {"a": [row("a", 0, 1.0)]}, {"a": [row("a", 0, 1.0), row("a", 1, 1.0)]}
    assert about_seeds(one).startswith("One seed: there are no error bars")
    assert about_seeds(two).startswith("Means over 2 seeds, ± one standard error")
    assert about_seeds({**one, "b": two["a"]}).startswith("Means over 1 to 2 seeds")
    assert made_on(one) == "Made on cpu (2) with JAX 1, d, code c."
    other = row("a", 1, 1.0)
    other["made_by"] = {**other["made_by"], "code_sha256": "e"}
    assert made_on({"a": [row("a", 0, 1.0), other]}) == (
        "Made on cpu (2) with JAX 1, d, code c; cpu (2) with JAX 1, d, code e."
    )


def test_a_page_is_filled_between_its_marks_alone(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- results of small -->\nold\n<!-- end of small -->\nafter\n")
    fill_page(page, "small", "| new |\n")
    fill_page(page, "small", "| newer |\n")
    fill_page(page, "small", None)
    assert page.read_text() == (
        "before\n<!-- results of small -->\n| newer |\n<!-- end of small -->\nafter\n"
    )
    with pytest.raises(UserError) as told:
        fill_page(page, "smoke", "x")
    assert str(told.value) == (
        f"{page}: has no marks of the size smoke. Legal: <!-- results of smoke --> and "
        "<!-- end of smoke -->."
    )
