"""The studio as a person uses it: a real browser, the quickstart's model, two CPU cores."""

import base64
import io
import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli.main import main
from ldm_jax.pipeline import Pipeline
from ldm_jax.studio.files import KEY
from ldm_jax.studio.serve import serve
from ldm_jax.studio.studio import Studio

pytestmark = pytest.mark.browser

FIGURES = logging.getLogger("figures")
PICTURES = Path(__file__).parents[2] / "docs" / "studio"
RED = "a large red circle at the top left"
BLUE = "a large blue cross at the bottom right"
GREEN = "a large green square at the middle center"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 120


class Tab:
    """A tab, and what a person does in it."""

    def __init__(self, browser, address, size=WIDE):
        self.context = browser.new_context(viewport=size, accept_downloads=True)
        self.page = self.context.new_page()
        self.mistakes, self.outside = [], []
        self.page.on("pageerror", lambda error: self.mistakes.append(str(error)))
        self.page.on("request", self._note)
        self.page.goto(address)
        self.page.wait_for_selector("#easel canvas")
        self.page.wait_for_function("() => window.ldmEasel && document.querySelector('#draw')")
        self.page.wait_for_timeout(700)

    def _note(self, request):
        if not request.url.startswith(("http://127.0.0.1", "data:", "blob:")):
            self.outside.append(request.url)

    def close(self):
        self.context.close()

    def write(self, name, text):
        self.page.locator(f"#{name} textarea, #{name} input").first.fill(str(text))

    def number(self, name, value):
        field = self.page.locator(f"#{name} input[type=number]").first
        field.fill(str(value))
        field.press("Tab")

    def click(self, name):
        self.page.click(f"#{name}")

    def choose(self, name, file):
        """Uploads a file by a button or field."""
        with self.page.expect_file_chooser() as chooser:
            self.page.locator(f"#{name} button, button#{name}").first.click()
        chooser.value.set_files(file)

    def value(self, name):
        return self.page.locator(f"#{name} textarea, #{name} input").first.input_value()

    def open(self, tab):
        self.page.get_by_role("tab", name=tab).click()

    @property
    def said(self):
        return self.page.inner_text("#bar")

    @property
    def message(self):
        return (self.page.locator("#message").text_content() or "").strip()

    def until(self, test, patience=PATIENCE):
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if test():
                return
            time.sleep(0.01)
        raise AssertionError(f"waited in vain: {self.said!r}, {self.message!r}")

    def until_said(self, text):
        self.until(lambda: text in self.said)

    def previews(self):
        return int(self.page.get_attribute("#easel", "data-shown") or 0)

    def draw_to_the_end(self, button="draw"):
        before = self.previews()
        self.click(button)
        self.until(lambda: self.previews() > before)
        self.until_said("done")

    def paint(self, layer, corners):
        """Brushes along corners, in shares of the picture."""
        chosen = self.page.locator(f"[data-layer='{layer}']")
        if chosen.get_attribute("aria-pressed") == "false":
            chosen.click()
        box = self.page.locator("#easel canvas").bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places:
            self.page.mouse.move(*place, steps=6)
        self.page.mouse.up()

    def shown(self):
        """Returns the pixels on the easel as the server sent them, uint8 [H, W, 3]."""
        text = self.page.input_value("#shown textarea")
        return pixels(json.loads(text)["images"][0])

    def dots(self):
        return self.page.locator("#tree .dot")


def pixels(url):
    content = base64.b64decode(url.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.fixture
def tab(browser, address):
    found = Tab(browser, address)
    yield found
    assert found.mistakes == []
    assert found.outside == []  # nothing is fetched from elsewhere
    found.close()


@pytest.fixture(scope="module", autouse=True)
def warm(address, log, browser):
    """Everything is compiled before a person comes, as a minute after the start."""
    before, quiet = -1, 0
    end = time.monotonic() + 600
    while quiet < 12 and time.monotonic() < end:
        now = log.stat().st_size
        quiet = quiet + 1 if now == before else 0
        before = now
        time.sleep(1)


def compiled(log):
    return log.read_text().count("Finished XLA compilation of jit(")


def color_at(image, x, y):
    """Returns which of red, green and blue is strongest around a place, and how much."""
    height, width = image.shape[:2]
    row, column = int(y * height), int(x * width)
    patch = image[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].reshape(-1, 3)
    mean = patch.mean(axis=0)
    return ["red", "green", "blue"][int(mean.argmax())], float(mean.max() - np.median(mean))


def test_drawing_equals_the_command(tab, model, tmp_path):
    tab.write("prompt", RED)
    tab.number("seed", 3)
    tab.draw_to_the_end()
    image = tab.shown()
    assert color_at(image, 0.25, 0.25)[0] == "red"
    command = ["sample", "--workdir", str(model), "--prompt", RED, "--seed", "3"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    drawn = np.asarray(Image.open(tmp_path / "00000.png").convert("RGB"))
    difference = int(np.abs(drawn.astype(int) - image).max())
    FIGURES.info("studio against ldm-jax sample: largest difference %d grey levels", difference)
    assert difference <= 1


def test_pause_change_continue_and_branch(tab, log):
    tab.write("prompt", RED)
    tab.number("steps", 100)
    tab.click("draw")
    tab.until_said("left")
    tab.click("pause")
    tab.until_said("paused")
    step = int(tab.said.split()[1])
    tab.click("step")
    tab.until_said(f"step {step + 1} of 100, paused")
    before = compiled(log)
    tab.write("prompt", BLUE)
    tab.draw_to_the_end("continue")
    first = tab.shown()
    # Back to the beginning, and another way.
    tab.dots().nth(1).click()
    tab.until_said("step 5 of 100, paused")
    tab.write("prompt", GREEN)
    tab.draw_to_the_end("continue")
    assert (tab.shown() != first).any()
    assert color_at(tab.shown(), 0.5, 0.5)[0] == "green"
    assert tab.page.locator("#tree .dot[data-branch='1']").count() > 2
    # And back to the end of the first.
    tab.page.locator("#tree .dot[data-branch='0']").last.click()
    tab.until(lambda: (tab.shown() == first).all())
    assert compiled(log) == before
    tab.page.screenshot(path=PICTURES / "steering.png")


def test_a_change_shows_at_the_next_preview(tab, log):
    """From a click to the first changed preview: at most 1.5 × the time of the steps in between."""
    tab.write("prompt", RED)
    tab.number("steps", 250)
    before = compiled(log)
    tab.click("draw")
    tab.until_said("left")
    ratios = []
    for prompt in (BLUE, GREEN, RED, BLUE):
        tab.write("prompt", prompt)
        squares = tab.page.locator("#tree rect.dot").count()
        # The pace of five steps, undisturbed.
        count, began = tab.previews(), time.monotonic()
        tab.until(lambda count=count: tab.previews() >= count + 3)
        pace = (time.monotonic() - began) / 3
        row, began = int(tab.said.split()[1]), time.monotonic()
        tab.click("apply")
        tab.until(lambda squares=squares: tab.page.locator("#tree rect.dot").count() > squares)
        told = int(tab.page.locator("#tree rect.dot").last.get_attribute("data-row"))
        # The first preview of rows that heard of the change.
        tab.until(lambda told=told: int(tab.said.split()[1]) > told)
        delay = time.monotonic() - began
        ratios.append(delay / (pace * (int(tab.said.split()[1]) - row) / 5))
    FIGURES.info("delay of a change over the time of the steps: %s", [f"{x:.2f}" for x in ratios])
    assert compiled(log) == before
    tab.click("pause")
    assert np.median(ratios) <= 1.5


def test_two_regions_and_their_preset(tab, log, tmp_path):
    tab.write("prompt", "a small yellow square at the top right")
    tab.draw_to_the_end()
    before = compiled(log)
    tab.open("Regions")
    tab.write("region1_prompt", RED)
    tab.write("region2_prompt", BLUE)
    tab.paint("1", [(0.15, 0.15), (0.35, 0.2), (0.2, 0.35), (0.35, 0.35)])
    tab.paint("2", [(0.65, 0.65), (0.85, 0.7), (0.7, 0.85), (0.85, 0.85)])
    tab.page.screenshot(path=PICTURES / "regions.png")
    tab.draw_to_the_end()
    image = tab.shown()
    assert color_at(image, 0.25, 0.25)[0] == "red"
    assert color_at(image, 0.75, 0.75)[0] == "blue"
    assert compiled(log) == before
    tab.click("save_regions")
    link = tab.page.wait_for_selector("#regions_link a")
    with tab.page.expect_download() as saved:
        link.click()
    preset = tmp_path / "regions.json"
    saved.value.save_as(preset)
    assert len(json.loads(preset.read_text())["regions"]) == 2
    # Another person loads it.
    tab.page.reload()
    tab.page.wait_for_timeout(1500)
    tab.open("Regions")
    tab.choose("load_regions", preset)
    tab.until(lambda: tab.value("region1_prompt") == RED)
    tab.open("Draw")
    tab.write("prompt", "a small yellow square at the top right")
    tab.draw_to_the_end()
    np.testing.assert_array_equal(tab.shown(), image)


def test_what_is_marked_changes_and_nothing_else(tab, log):
    tab.write("prompt", RED)
    tab.draw_to_the_end()
    before = tab.shown()
    programs = compiled(log)
    tab.open("Edit")
    tab.write("wish", BLUE)
    tab.number("strength", 1)
    tab.paint("mask", [(0.6, 0.6), (0.9, 0.65), (0.6, 0.8), (0.9, 0.9), (0.65, 0.9)])
    tab.draw_to_the_end("marked")
    after = tab.shown()
    changed = (after != before).any(axis=-1)
    assert changed.any()
    assert not changed[:16, :16].any()
    assert not changed[:, :12].any()
    assert color_at(after, 0.75, 0.75)[0] == "blue"
    assert compiled(log) == programs
    tab.page.screenshot(path=PICTURES / "edit.png")
    tab.draw_to_the_end("around")
    assert tab.shown().shape[0] > after.shape[0]
    border = (tab.shown().shape[0] - after.shape[0]) // 2
    np.testing.assert_array_equal(tab.shown()[border:-border, border:-border], after)


def test_a_look_inside(tab):
    tab.write("prompt", RED)
    tab.draw_to_the_end()
    tab.open("Look inside")
    pictures = []
    for name in ("strip", "channels"):
        tab.click(name)
        tab.page.wait_for_selector(f"#picture img[alt='{name}']")
        pictures.append(tab.page.get_attribute("#picture img", "src"))
    tab.page.locator("#words label", has_text="red").click()
    tab.page.wait_for_selector("#picture img[alt='attention']")
    pictures.append(tab.page.get_attribute("#picture img", "src"))
    assert len(set(pictures)) == 3
    assert pixels(pictures[2]).std() > 10


def test_an_image_is_kept_and_read_back(tab, tmp_path):
    tab.write("prompt", GREEN)
    tab.number("seed", 11)
    tab.number("guidance", 3.5)
    tab.draw_to_the_end()
    image = tab.shown()
    tab.open("Gallery")
    tab.page.locator("#gallery [data-kept]").first.click()
    tab.until(lambda: "ldm-jax sample" in tab.page.input_value("#command textarea"))
    typed = tab.page.input_value("#command textarea")
    assert f"'--prompt={GREEN}'" in typed
    assert "--seed=11" in typed
    with tab.page.expect_download() as saved:
        tab.page.locator("#links a").first.click()
    file = tmp_path / "image.png"
    saved.value.save_as(file)
    assert f"{KEY}.0" in Image.open(file).text
    tab.page.reload()
    tab.page.wait_for_timeout(1500)
    tab.choose("readback", file)
    tab.until(lambda: tab.value("prompt") == GREEN)
    tab.draw_to_the_end()
    np.testing.assert_array_equal(tab.shown(), image)


def test_bad_input_is_a_sentence(tab, tmp_path):
    tab.click("draw")
    tab.until(lambda: "prompt: is empty" in tab.message)
    tab.open("Edit")
    tab.click("marked")
    tab.until(lambda: "no picture on the easel" in tab.message)
    wrong = tmp_path / "a.png"
    wrong.write_bytes(b"not a picture")
    tab.choose("upload", wrong)
    tab.until(lambda: "not an image that can be read" in tab.message)
    tab.open("Draw")
    tab.write("prompt", RED)
    tab.draw_to_the_end()
    assert tab.message == ""


def test_twenty_tabs_at_once(browser, address):
    tabs = [Tab(browser, address) for _ in range(20)]
    for number, tab in enumerate(tabs):
        tab.write("prompt", RED)
        tab.number("seed", number)
        tab.number("steps", 20)
    began = time.monotonic()
    for tab in tabs:
        tab.click("draw")
    # One of them has had enough and goes: nobody waits for its run.
    tabs.pop().close()
    for tab in tabs:
        tab.until(lambda tab=tab: "done" in tab.said, 300)
    FIGURES.info("19 of 20 tabs drew, %.0f s", time.monotonic() - began)
    images = [tab.shown().tobytes() for tab in tabs]
    assert len(set(images)) == 19  # each has its own
    for tab in tabs:
        tab.close()


@pytest.mark.filterwarnings("ignore:.*no_silent_downcasting")  # Gradio's, of pandas
def test_a_tab_that_closes_leaves_nothing(browser, model):
    studio = Studio(Pipeline.from_checkpoint(model))
    app, address = serve(studio, port=0, warm=False)
    try:
        tab = Tab(browser, address)
        tab.write("prompt", RED)
        tab.number("steps", 250)
        tab.click("draw")
        tab.until_said("left")
        assert len(studio) == 1
        (session,) = studio._sessions.values()
        tree = session.tree
        tab.close()
        end = time.monotonic() + 60
        while (len(studio) or session.tree) and time.monotonic() < end:
            time.sleep(0.1)
        assert len(studio) == 0
        assert session.tree is None  # nothing is held, or computed any more
        row = tree.row
        assert row < tree.total
        time.sleep(2)
        assert tree.row == row
    finally:
        app.close()


@pytest.mark.parametrize(("size", "name"), [(WIDE, "wide"), (NARROW, "narrow")])
def test_the_page_fits(browser, address, size, name):
    tab = Tab(browser, address, size)
    tab.write("prompt", RED)
    tab.draw_to_the_end()
    wide = tab.page.evaluate("document.documentElement.scrollWidth")
    tab.page.evaluate("window.scrollTo(0, 0)")
    tab.page.wait_for_timeout(300)
    tab.page.screenshot(path=PICTURES / f"{name}.png")
    assert wide <= size["width"]
    small = tab.page.evaluate(
        """() => [...document.querySelectorAll('#buttons button, #easel button')]
        .filter((x) => x.getBoundingClientRect().height < 30).length"""
    )
    assert small == 0
    tab.close()
