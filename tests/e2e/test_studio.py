"""The studio without a browser: what its buttons do is what the pipeline does."""

import argparse
import dataclasses
import json
import shlex

import jax
import numpy as np
import pytest

from ldm_jax.cli import studio as studio_command
from ldm_jax.cli.main import main
from ldm_jax.cli.sample_files import read_image
from ldm_jax.core.checks import UserError
from ldm_jax.pipeline.painted import PaintedRegion, write_regions
from ldm_jax.studio.desk import FORM, Desk
from ldm_jax.studio.drawing import progress_bar, tree_picture
from ldm_jax.studio.files import as_data_url, png, read_parameters
from ldm_jax.studio.reading import CLASS, TEXT, read_from
from ldm_jax.studio.record import command, make_record, read_record
from ldm_jax.studio.session import Session
from ldm_jax.studio.settings import Limits, Settings, check_settings, first_settings, legal_sizes
from ldm_jax.studio.studio import Studio
from ldm_jax.studio.tree import MOST_KEPT, Tree

RED, BLUE = "a large red circle at the top left", "a small blue cross at the bottom right"
LEFT = 255 * np.repeat([np.arange(16) < 8], 16, axis=0).astype(np.uint8)
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pipeline(vivid):
    return vivid["text"]


@pytest.fixture(scope="module")
def reading(pipeline):
    return read_from(pipeline)


@pytest.fixture
def settings(pipeline):
    return dataclasses.replace(
        first_settings(pipeline), prompt=RED, steps=8, guidance=2.0, seed=5, size=(16, 16)
    )


def told(pipeline, settings, cut, **changes):
    """Returns the images of a run that hears of a change after `cut` rows."""
    run = pipeline.start(
        settings.prompt,
        steps=settings.steps,
        seed=settings.seed,
        guidance_scale=settings.guidance,
        sampler=settings.sampler,
        num_images=settings.num_images,
    )
    run.advance(cut)
    run.change(**changes)
    return run.images()


def test_forks_go_their_own_ways(pipeline):
    run = pipeline.start(RED, steps=6, seed=1)
    run.advance(2)
    other = run.fork()
    other.change(prompts=BLUE)
    changed = other.images()
    np.testing.assert_array_equal(run.images(), pipeline(RED, steps=6, seed=1))
    assert (run.images() != changed).any()
    np.testing.assert_array_equal(other.fork().images(), changed)


def test_a_run_that_is_not_steered_is_the_pipelines(pipeline, reading, settings):
    tree = Tree(pipeline, reading, settings)
    while not tree.done:
        tree.advance(3)
    wanted = pipeline(RED, steps=8, seed=5, guidance_scale=2.0)
    np.testing.assert_array_equal(tree.run.images(), wanted)
    assert not tree.steered


def test_branches_are_runs_that_were_told_different_things(pipeline, reading, settings):
    tree = Tree(pipeline, reading, settings)
    tree.advance(8)
    first = tree.run.images()
    tree.go_to(0, 3)
    assert (tree.row, tree.branch) == (3, 0)
    assert tree.change(dataclasses.replace(settings, prompt=BLUE))
    assert tree.branch == 1
    tree.advance(8)
    np.testing.assert_array_equal(
        tree.run.images(), told(pipeline, settings, 3, prompts=BLUE, guidance_scale=2.0)
    )
    assert [row for row, _ in tree.history()] == [0, 3]
    # A third way, off the second, by guidance.
    tree.go_to(1, 5)
    tree.change(dataclasses.replace(settings, prompt=BLUE, guidance=4.0))
    tree.advance(8)
    assert [row for row, _ in tree.history()] == [0, 3, 5]
    assert len(tree.branches) == 3
    # And back to where it all came from.
    tree.go_to(0, 8)
    np.testing.assert_array_equal(tree.run.images(), first)


def test_rows_that_were_not_kept_are_computed_again_with_their_changes(pipeline, reading, settings):
    tree = Tree(pipeline, reading, settings)
    tree.advance(2)
    tree.change(dataclasses.replace(settings, prompt=BLUE))
    tree.advance(2)
    tree.change(dataclasses.replace(settings, prompt=BLUE, guidance=3.0))
    tree.advance(4)
    images = tree.run.images()
    branch = tree.branches[0]
    branch.kept = {0: branch.kept[0], 8: branch.kept[8]}
    for row in (4, 7):
        tree.go_to(0, row)
        assert tree.row == row
        run = tree.run.fork()
        np.testing.assert_array_equal(run.images(), images)


def test_going_back_without_a_change_makes_the_same_again(pipeline, reading, settings):
    tree = Tree(pipeline, reading, settings)
    tree.advance(8)
    images = tree.run.images()
    tree.go_to(0, 2)
    tree.advance(6)
    np.testing.assert_array_equal(tree.run.images(), images)
    assert not tree.steered
    assert len(tree.branches) == 2


def test_what_is_kept_is_bounded(pipeline, reading, settings):
    tree = Tree(pipeline, reading, dataclasses.replace(settings, steps=100))
    while not tree.done:
        tree.advance(1)
    kept = tree.branches[0].kept
    assert len(kept) <= MOST_KEPT
    assert {0, 100} <= set(kept)


def test_changes_that_cannot_be_are_refused_and_nothing_is_lost(pipeline, reading, settings):
    tree = Tree(pipeline, reading, settings)
    tree.advance(4)
    for other, said in (
        (dataclasses.replace(settings, prompt=" "), "prompt: is empty"),
        (dataclasses.replace(settings, guidance=1e6), "guidance: got 1000000.0"),
        (dataclasses.replace(settings, mask=LEFT), "mask: has no effect without an image"),
        (
            dataclasses.replace(settings, image=IMAGE, mask=LEFT),
            "did not start from an image",
        ),
    ):
        with pytest.raises(UserError, match=said):
            tree.change(other)
    for place, said in (((3, 0), "branch 3: legal is 0 to 0"), ((0, 7), "step 7: branch 0 has")):
        with pytest.raises(UserError, match=said):
            tree.go_to(*place)
    tree.advance(4)
    with pytest.raises(UserError, match="the run is done"):
        tree.change(dataclasses.replace(settings, prompt=BLUE))
    np.testing.assert_array_equal(
        tree.run.images(), pipeline(RED, steps=8, seed=5, guidance_scale=2.0)
    )


def compilations(pipeline):
    return sum(programs.advance._cache_size() for programs in pipeline._programs.values())


def test_no_change_compiles_once_the_studio_is_warm(pipeline, reading, settings):
    studio = Studio(pipeline)
    assert studio.warm() == 2 * (reading.most + 1)
    assert studio.warm() == 2 * (reading.most + 1)
    before = compilations(pipeline)
    tree = Tree(pipeline, reading, settings)
    tree.advance(1)
    regions = tuple(PaintedRegion(BLUE, np.roll(LEFT, k, axis=1)) for k in range(reading.most))
    for count in range(reading.most + 1):
        tree.change(dataclasses.replace(settings, regions=regions[:count], guidance=3.0 + count))
        tree.advance(1)
    tree.change(dataclasses.replace(settings, prompt=BLUE))
    tree.advance(1)
    edit = dataclasses.replace(settings, image=IMAGE, mask=LEFT, strength=1.0)
    tree = Tree(pipeline, reading, edit)
    tree.advance(1)
    tree.change(dataclasses.replace(edit, mask=255 - LEFT, regions=regions[:2]))
    tree.run.images()
    assert compilations(pipeline) == before


def test_what_is_not_marked_stays_to_the_bit(pipeline, reading, settings):
    edit = dataclasses.replace(settings, image=IMAGE, mask=LEFT, strength=0.5)
    tree = Tree(pipeline, reading, edit)
    tree.advance(8)
    found = tree.run.images()[0]
    np.testing.assert_array_equal(found[:, 8:], IMAGE[:, 8:])
    assert (found[:, :8] != IMAGE[:, :8]).any()


# Sessions ----------------------------------------------------------------------------------------


def test_a_session_shows_pauses_and_goes_on(pipeline, reading, settings):
    session = Session(pipeline, reading)
    session.begin(settings)
    glances = session.run(every=3)
    first = next(glances)
    assert (first.row, first.total, first.done) == (3, 8, False)
    assert first.seconds_left > 0
    session.pause()
    assert [(x.row, x.paused) for x in glances] == [(3, True)]
    rows = [(x.row, x.paused) for x in session.run(every=3, rows=1)]
    assert rows == [(4, True)]
    assert [x.row for x in session.run(every=3)] == [7, 8]
    (kept,) = session.gallery
    np.testing.assert_array_equal(kept.image, pipeline(RED, steps=8, seed=5, guidance_scale=2)[0])
    assert [x.row for x in session.run(every=3)] == []
    assert len(session.gallery) == 1  # once


def test_a_run_under_way_hears_of_a_change_before_its_next_rows(pipeline, reading, settings):
    session = Session(pipeline, reading)
    session.begin(settings)
    glances = session.run(every=4)
    next(glances)
    with session._turn:  # as while rows are computed
        assert not session.steer(dataclasses.replace(settings, prompt=BLUE))
    (last,) = glances
    wanted = told(pipeline, settings, 4, prompts=BLUE, guidance_scale=2.0)
    np.testing.assert_array_equal(last.images, wanted)


def test_the_last_word_counts(pipeline, reading, settings):
    """What was said while rows were computed, and then otherwise in a pause, is the latter."""
    session = Session(pipeline, reading)
    session.begin(settings)
    glances = session.run(every=4)
    next(glances)
    with session._turn:
        session.steer(dataclasses.replace(settings, prompt=BLUE))
    session.pause()
    assert session.steer(dataclasses.replace(settings, guidance=4.0))
    assert [x.paused for x in glances] == [True]
    (last,) = session.run(every=4)
    np.testing.assert_array_equal(last.images, told(pipeline, settings, 4, guidance_scale=4.0))


def test_a_change_that_cannot_be_is_refused_and_the_run_goes_on(pipeline, reading, settings):
    session = Session(pipeline, reading)
    session.begin(settings)
    glances = session.run(every=4)
    next(glances)
    with session._turn:
        with pytest.raises(UserError, match="prompt: is empty"):
            session.steer(dataclasses.replace(settings, prompt=""))
        # Legal by itself, but not for a run that began without an image.
        session.steer(dataclasses.replace(settings, image=IMAGE, mask=LEFT))
    (last,) = glances
    assert "did not start from an image" in last.said
    np.testing.assert_array_equal(last.images, pipeline(RED, steps=8, seed=5, guidance_scale=2))


def test_a_run_that_waits_can_be_cancelled(pipeline, reading, settings):
    session = Session(pipeline, reading)
    session.begin(settings)
    session.ask()
    session.pause()  # while it waits for its turn
    assert [(x.row, x.paused) for x in session.run(every=4)] == [(0, True)]
    session.ask()
    assert [x.row for x in session.run(every=4)] == [4, 8]


def test_guidance_may_be_turned_off_under_a_negative_prompt(pipeline, reading, settings):
    told = dataclasses.replace(settings, guidance=1.0, negative=BLUE)
    tree = Tree(pipeline, reading, told)
    tree.advance(2)
    tree.change(dataclasses.replace(told, guidance=3.0))
    tree.advance(2)
    tree.change(told)
    tree.advance(4)
    assert tree.done


def test_limits_hold_for_whatever_is_asked(pipeline, reading, settings):
    session = Session(pipeline, reading, Limits(images=2, side=32))
    with pytest.raises(UserError, match=r"images: got 3\. Legal: 1 to 2"):
        session.begin(dataclasses.replace(settings, num_images=3))
    with pytest.raises(UserError, match=r"size: got 64 pixels\. Legal: up to 32"):
        session.replay([(0, dataclasses.replace(settings, size=(16, 64)))])
    for rows in ([3, 2], [0, 8], [-1]):
        with pytest.raises(UserError, match=r"steered: at steps"):
            session.replay([(0, settings), *((row, settings) for row in rows)])
    assert session.tree is None


def test_a_closed_session_ends_its_run_and_holds_nothing(pipeline, reading, settings):
    session = Session(pipeline, reading)
    session.begin(settings)
    glances = session.run(every=1)
    next(glances)
    session.close()
    assert list(glances) == []
    assert (session.tree, session.gallery, session.closed) == (None, [], True)


def test_a_studio_bounds_its_tabs(pipeline, monkeypatch):
    monkeypatch.setattr("ldm_jax.studio.studio.MOST_SESSIONS", 2)
    studio = Studio(pipeline)
    one, _ = studio.session("1"), studio.session("2")
    with pytest.raises(UserError, match="has 2 tabs open"):
        studio.session("3")
    one.used -= 1e5
    studio.session("3")
    assert one.closed
    studio.forget("2")
    assert len(studio) == 1


# Records -----------------------------------------------------------------------------------------


def test_a_record_makes_the_run_again(pipeline, reading, settings):
    session = Session(pipeline, reading)
    session.begin(dataclasses.replace(settings, regions=(PaintedRegion(BLUE, LEFT, 0.5, 1.0),)))
    list(session.run(3, rows=3))
    session.steer(dataclasses.replace(settings, prompt=BLUE))
    list(session.run(3))
    (kept,) = session.gallery
    assert kept.steered
    content = png(kept.image, kept.record)
    history = read_record(read_parameters(content), pipeline)
    again = Session(pipeline, reading)
    again.replay(history)
    list(again.run(8))
    np.testing.assert_array_equal(again.gallery[0].image, kept.image)
    assert again.gallery[0].record == kept.record


@pytest.mark.parametrize(
    "broken",
    [
        {"format": "other"},
        {"settings": None},
        {"settings": {"prompt": 3}},
        {"settings": {"size": [0, 16]}},
        {"settings": {"size": [10**9, 16]}},
        {"settings": {"__class__": 1}},
        {"settings": {"seed": -1}},
        {"settings": {"regions": [{"mask": "../x"}]}},
        {"settings": {"image": {"png": "/etc/passwd"}}},
        {"settings": {"image": {"file": "/etc/passwd"}}},
        {"settings": {"image": {"sha256": "", "png": "/etc/passwd"}}},
        {"steered": {}},
        {"settings": {"read": {"sha256": "", "values": [[1], [1, 2]]}}},
        {"steered": [{"row": "1"}]},
        {"steered": [{"row": 1, "steps": 9}]},
    ],
)
def test_other_records_are_refused(pipeline, settings, broken):
    record = {**make_record(pipeline, [(0, settings)], 0), **broken}
    with pytest.raises(UserError):
        read_record(record, pipeline)


def test_the_command_draws_the_same(runs, tmp_path, settings):
    studio = Studio(_open(runs.text))
    region = PaintedRegion(BLUE, LEFT, 0.75, 1.0)
    cases = {
        "plain": {},
        "negative": {"negative": BLUE, "guidance": 3.5},
        "regions": {"regions": (region,)},
        "edit": {"image": IMAGE, "mask": LEFT, "strength": 0.5},
    }
    for name, changes in cases.items():
        tree = Tree(studio.pipeline, studio.reading, dataclasses.replace(settings, **changes))
        tree.advance(8)
        folder = tmp_path / name
        folder.mkdir()
        now = tree.settings
        typed, _ = command(studio.pipeline, studio.reading, now, False)
        words = shlex.split(typed)[1:]
        for file, content in (
            ("regions.json", write_regions(now.regions) if now.regions else None),
            ("image.png", None if now.image is None else png(now.image)),
            ("mask.png", None if now.mask is None else png(now.mask)),
        ):
            if content is not None:
                (folder / file).write_bytes(content)
                words = [x.replace(f"={file}", f"={folder / file}") for x in words]
        assert main([*words, "--out", str(folder / "out")]) == 0
        drawn = read_image("", str(folder / "out" / "00000.png"), 3)
        np.testing.assert_array_equal(drawn, tree.run.images()[0], err_msg=name)


def test_the_settings_have_the_last_word_in_the_command(pipeline, reading, settings):
    opened = ["--dtype=float32", "--raw", "--config.sample.spacing=reference"]
    gone = [f"--config.sample.{x}" for x in ("steps=3", "guidance_scale=9", "sampler.name=ddim")]
    option = "--config.sample.sampler.eta=0.5"
    more = [*opened, *gone, option]
    for sampler, kept in (("ddim", [*opened, option]), ("euler", opened)):
        now = dataclasses.replace(settings, sampler=sampler)
        typed, _ = command(pipeline, reading, now, False, more)
        words = shlex.split(typed)
        assert words[-len(kept) :] == kept
        assert f"--sampler={sampler}" in words
        assert not set(gone) & set(words)


def test_flags_that_opened_the_model_are_those_of_sample():
    parser = argparse.ArgumentParser()
    studio_command.add_arguments(parser)
    overrides = ["--config.sample.spacing", "reference", "--config.task.parameterization=v"]
    given = ["--checkpoint=x", "--config=c.py", "--tokenizer=t", "--dtype=bfloat16", "--raw"]
    assert studio_command.opening_flags(parser.parse_args(given), overrides) == [
        *given[1:],
        "--config.sample.spacing=reference",
        "--config.task.parameterization=v",
    ]


def _open(workdir):
    from ldm_jax.pipeline import Pipeline

    return Pipeline.from_checkpoint(workdir)


# The desk ----------------------------------------------------------------------------------------


@pytest.fixture
def desk(pipeline):
    return Desk(Studio(pipeline, every=3))


def form(**changes):
    regions = {
        f"region{k}_{name}": value
        for k in (1, 2, 3)
        for name, value in (("prompt", ""), ("weight", 1.0), ("feather", 0.0))
    }
    plain = (RED, "", 0, "ddim", 6, 2.0, 1, 16, 16, 1, "", 0.5, 4)
    return {**dict(zip(FORM, plain, strict=True)), **regions, **changes}


def painted(**layers):
    return json.dumps({"selected": 0, "layers": {k: as_data_url(x) for k, x in layers.items()}})


def test_the_desk_draws_steers_branches_and_edits(desk, pipeline):
    shown = list(desk.draw("tab", form(), "{}"))
    assert [json.loads(x.easel)["size"] for x in shown if x.easel] == [[16, 16]] * 2
    assert "done, 6 steps" in shown[-2].bar
    assert shown[-1].gallery.count("data-kept") == 1
    desk.back("tab", 0, 3)
    more = painted(**{"1": LEFT})
    list(desk.go_on("tab", form(region1_prompt=BLUE), more))
    tree = desk.studio.session("tab").tree
    assert len(tree.branches) == 2
    assert tree.settings.regions[0].prompt == BLUE
    # What is not marked of the picture on the easel stays.
    before = desk._shown["tab"][0].copy()
    list(desk.redraw("tab", form(wish=BLUE), painted(mask=LEFT), "marked"))
    after = desk._shown["tab"][0]
    np.testing.assert_array_equal(after[:, 8:], before[:, 8:])
    assert desk.studio.session("tab").tree.settings.prompt == BLUE
    list(desk.redraw("tab", form(), "{}", "around"))
    around = desk._shown["tab"][0]
    assert around.shape == (24, 24, 3)
    np.testing.assert_array_equal(around[4:-4, 4:-4], after)
    assert desk.studio.session("tab").tree.settings.seed == 2  # again, with another seed
    assert desk.gallery("tab").count("data-kept") == 4
    shown, record, links, typed = desk.open_kept("tab", 2)
    assert "was steered" in shown.said
    assert (typed, links.count("download=")) == ("", 2)
    assert json.loads(record)["steered"][0]["row"] == 3


def test_only_what_a_person_changes_is_steered(desk, pipeline):
    list(desk.draw("tab", form(), "{}"))
    redraw = desk.redraw("tab", form(wish=BLUE, strength=1.0), painted(mask=LEFT), "marked")
    next(redraw)
    next(redraw)
    desk.pause("tab")
    list(redraw)
    # The form still has the first prompt, which nobody has touched since.
    list(desk.go_on("tab", form(), painted(mask=LEFT)))
    tree = desk.studio.session("tab").tree
    assert tree.settings.prompt == BLUE
    assert not tree.steered
    # A branch goes on with what it was told, and the page is told so.
    list(desk.draw("tab", form(), "{}"))
    desk.back("tab", 0, 3)
    list(desk.go_on("tab", form(prompt=BLUE), "{}"))
    settings, _ = desk.back("tab", 0, 3)
    assert settings.prompt == RED
    list(desk.go_on("tab", form(), "{}"))
    assert desk.studio.session("tab").tree.settings.prompt == RED


def test_again_is_never_the_same(desk):
    list(desk.draw("tab", form(), "{}"))
    seeds = []
    for _ in range(2):
        list(desk.redraw("tab", form(strength=1.0), painted(mask=LEFT), "marked"))
        seeds.append(desk.studio.session("tab").tree.settings.seed)
    assert seeds == [2, 3]


def test_a_look_at_a_word_is_of_rows_that_read_it(desk):
    list(desk.draw("tab", form(), "{}"))
    desk.back("tab", 0, 3)
    list(desk.go_on("tab", form(prompt=BLUE), "{}"))
    word = BLUE.split().index("blue")
    mixed = desk.look("tab", "{}", "attention", word)
    tree = desk.studio.session("tab").tree
    tree.branches[0].kept = {}  # the rows that read another prompt
    assert desk.look("tab", "{}", "attention", word) == mixed


def test_the_desk_looks_inside(desk):
    with pytest.raises(UserError, match="nothing is drawn yet"):
        desk.look("tab", "{}", "strip")
    list(desk.draw("tab", form(), "{}"))
    for what in ("strip", "channels"):
        assert desk.look("tab", "{}", what).startswith("<img")
    words = desk.words("tab")
    assert words == RED.split()
    assert desk.look("tab", "{}", "attention", words.index("red")).startswith("<img")
    with pytest.raises(UserError, match="word 99: legal is 0 to"):
        desk.look("tab", "{}", "attention", 99)


def test_presets_go_out_and_come_in(desk, pipeline):
    link = desk.save_regions(form(region1_prompt=BLUE), painted(**{"1": LEFT}))
    assert 'download="regions.json"' in link
    content = write_regions((PaintedRegion(BLUE, LEFT, 0.5, 2.0),))
    regions, easel = desk.load_regions(content, form())
    assert regions[0].weight == 0.5
    assert list(json.loads(easel)["layers"]) == ["1"]
    with pytest.raises(UserError, match=r"regions: got 4\. Legal: up to 3"):
        desk.load_regions(write_regions([regions[0]] * 4), form())


def test_an_image_is_read_back_and_replayed(desk, pipeline):
    list(desk.draw("tab", form(), "{}"))
    desk.back("tab", 0, 3)
    list(desk.go_on("tab", form(prompt=BLUE), "{}"))
    kept = desk.studio.session("tab").gallery[0]
    history, shown = desk.load_parameters("new", png(kept.image, kept.record))
    assert history[0][1].prompt == RED
    assert "Replay makes it again" in shown.said
    list(desk.replay("new", history))
    np.testing.assert_array_equal(desk.studio.session("new").gallery[0].image, kept.image)


@pytest.mark.parametrize(
    ("changes", "paint", "said"),
    [
        ({"prompt": ""}, "{}", "prompt: is empty"),
        ({"prompt": "x" * 3000}, "{}", "prompt: legal are up to"),
        ({"sampler": "ddimm"}, "{}", "sampler: got 'ddimm'; did you mean 'ddim'"),
        ({"steps": 10**9}, "{}", "steps: got 1000000000. Legal: 1 to 250"),
        ({"steps": None}, "{}", "the form holds a value that is not legal"),
        ({"num_images": 99}, "{}", "images: got 99"),
        ({"num_images": float("nan")}, "{}", "the form holds a value that is not legal"),
        ({"height": 4096}, "{}", "size: got 4096 pixels. Legal: up to 64"),
        ({"height": 17}, "{}", "image size 17"),
        ({"seed": -1}, "{}", "seed: got -1"),
        ({"guidance": float("nan")}, "{}", "guidance: got nan"),
        ({}, "[", "the easel sent something"),
        ({}, '{"layers": {"1": "file:///etc/passwd"}}', "mask: legal is what the page paints"),
        ({}, painted(**{"1": LEFT}), "region 1: is painted, but has no prompt"),
    ],
)
def test_bad_input_is_a_sentence(desk, changes, paint, said):
    with pytest.raises(UserError) as error:
        list(desk.draw("tab", form(**changes), paint))
    assert said in str(error.value)
    assert desk.studio.session("tab").tree is None
    with pytest.raises(UserError):
        desk.steer("tab", form(**changes), paint)


def test_classes_are_asked_for_by_number(vivid):
    pipeline = vivid["classes"]
    reading = read_from(pipeline)
    assert (reading.kind, reading.classes) == (CLASS, 24)
    told = dataclasses.replace(first_settings(pipeline), label=3, steps=2, size=(16, 16))
    tree = Tree(pipeline, reading, told)
    tree.advance(1)
    tree.change(dataclasses.replace(told, regions=(PaintedRegion(7, LEFT),), guidance=2.0))
    tree.advance(1)
    with pytest.raises(UserError, match=r"class: got 24\. Legal: 0 to 23"):
        check_settings(dataclasses.replace(told, label=24), reading)
    assert "--class=3" in command(pipeline, reading, told, False)[0]


def test_what_a_page_offers_is_legal(pipeline, reading):
    assert reading.kind == TEXT
    sizes = legal_sizes(pipeline)
    assert 16 in sizes
    run = pipeline.start(RED, steps=1, image_shape=(sizes[0], sizes[-1]))
    assert run.images().shape[1:3] == (sizes[0], sizes[-1])


def test_drawings_say_where_a_run_is(pipeline, reading, settings):
    assert "ready" in progress_bar(None, "ready")
    assert "<script>" not in progress_bar(None, "<script>")
    tree = Tree(pipeline, reading, settings)
    tree.advance(4)
    tree.advance(4)
    tree.go_to(0, 4)
    tree.change(dataclasses.replace(settings, prompt=BLUE))
    tree.advance(2)
    picture = tree_picture(tree)
    assert picture.count('data-branch="0"') == 3
    assert picture.count('data-branch="1"') == 2
    assert picture.count("<rect") == 1


def test_settings_differ_by_what_is_in_their_masks():
    one = Settings(regions=(PaintedRegion("x", LEFT),))
    same = Settings(regions=(PaintedRegion("x", LEFT.copy()),))
    other = Settings(regions=(PaintedRegion("x", 255 - LEFT),))
    assert one.changed(same) == ()
    assert one.changed(other) == ("regions",)
    assert jax.tree.leaves(one.changed(Settings(seed=1))) == ["regions"]
