"""Lines of results: whole, in order, one a point."""

import multiprocessing

import pytest

from ldm_jax.core.checks import UserError
from ldm_jax.sweep.results import append_row, by_name, read_rows


def append_many(path, who):
    for number in range(50):
        append_row(path, {"who": who, "number": number, "text": "x" * 3000})


def test_rows_come_back_in_order(tmp_path):
    path = tmp_path / "deep" / "results.jsonl"
    assert read_rows(path) == []
    append_row(path, {"a": 1, "b": [1.5, None]})
    append_row(path, {"a": "ä"})
    assert read_rows(path) == [{"a": 1, "b": [1.5, None]}, {"a": "ä"}]


def test_a_torn_line_is_not_read_and_gives_way(tmp_path):
    path = tmp_path / "results.jsonl"
    append_row(path, {"a": 1})
    with path.open("ab") as file:
        file.write(b'{"a": 2, "b')
    assert read_rows(path) == [{"a": 1}]
    append_row(path, {"a": 3})
    assert read_rows(path) == [{"a": 1}, {"a": 3}]
    assert path.read_bytes().count(b"\n") == 2


def test_processes_do_not_mix_their_lines(tmp_path):
    path = tmp_path / "results.jsonl"
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=append_many, args=(path, who)) for who in "ab"]
    for process in others:
        process.start()
    for process in others:
        process.join()
    rows = read_rows(path)
    for who in "ab":
        assert [row["number"] for row in rows if row["who"] == who] == list(range(50))


def test_what_is_no_json_is_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    with pytest.raises(UserError, match=r"results.jsonl: a result is not JSON .*finite numbers.$"):
        append_row(path, {"a": float("nan")})
    assert not path.exists()
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(UserError) as told:
        read_rows(path)
    assert str(told.value) == (
        f"{path}: line 2 is no JSON object. Legal: what a sweep wrote; remove the line to measure "
        "its point again."
    )


def row(name, seed, score, **settings):
    return {"name": name, "seed": seed, "overrides": {}, "settings": settings, "score": score}


def test_the_newest_row_of_a_name_and_seed_counts():
    rows = [row("b", 0, 1), row("a", 0, 2), row("b", 1, 3), row("b", 0, 4)]
    found = by_name(rows)
    assert list(found) == ["b", "a"]
    assert [(x["seed"], x["score"]) for x in found["b"]] == [(0, 4), (1, 3)]


def test_seeds_that_were_measured_otherwise_have_no_mean():
    with pytest.raises(UserError) as told:
        by_name([row("a", 0, 1, images=5), row("a", 1, 2, images=6)])
    assert str(told.value) == (
        "sweep: the seeds 0 and 1 of a differ in their overrides or settings. Legal: measure both "
        "again."
    )
