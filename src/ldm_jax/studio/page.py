"""The page: components, and which button does what."""

import functools
import html
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ldm_jax.core.checks import UserError
from ldm_jax.samplers import SAMPLERS
from ldm_jax.studio.desk import FORM, REGION, Desk, Shown
from ldm_jax.studio.drawing import progress_bar, tree_picture
from ldm_jax.studio.files import FORMATS
from ldm_jax.studio.reading import ARRAY, CLASS, IMAGE, LAYOUT, MAP, MASKED, TEXT, Reading
from ldm_jax.studio.settings import MAX_STEPS, Settings, first_settings, legal_sizes

ASSETS = Path(__file__).parent / "assets"
# The easel puts what is painted into the last value of an event.
_FILL = "(...values) => window.ldmEasel.fill(values)"
_COMPUTE = {"concurrency_limit": 1, "concurrency_id": "compute"}
_FILES = [f".{name.lower()}" for name in (*FORMATS, "jpg")]
_ONLY_TEXT = "What should be there instead; empty for the same again"


class Page:
    """The components of a page, and what happens when they are used."""

    def __init__(self, desk: Desk):
        """Takes what the buttons do."""
        self._desk, self._reading = desk, desk.studio.reading
        self._form: dict[str, Any] = {}

    def build(self) -> gr.Blocks:
        """Returns the app, not yet served."""
        with gr.Blocks(title="ldm_jax studio", analytics_enabled=False) as app:
            self._head()
            with gr.Row(equal_height=False):
                with gr.Column(scale=5, min_width=330):
                    self._stage()
                with gr.Column(scale=4, min_width=330), gr.Tabs():
                    with gr.Tab("Draw"):
                        self._draw_tab()
                    with gr.Tab("Regions", visible=self._reading.most > 0 and self._paints()):
                        self._region_tab()
                    with gr.Tab("Edit"):
                        self._edit_tab()
                    with gr.Tab("Look inside"):
                        self._look_tab()
                    with gr.Tab("Gallery"):
                        self._gallery_tab()
            self._connect()
            app.unload(self._forget)
        return app

    # Components ----------------------------------------------------------------------------------

    def _head(self) -> None:
        source = html.escape(Path(str(self._desk.studio.pipeline.source)).name)
        gr.HTML(f"<h1>ldm_jax studio</h1><span>{source}</span>", elem_id="head", js_on_load=None)

    def _stage(self) -> None:
        self._easel = gr.HTML(
            _easel_html(self._reading),
            elem_id="easel",
            js_on_load="window.ldmEasel.start(element)",
        )
        self._bar = gr.HTML(progress_bar(None, "ready"), elem_id="bar", js_on_load=None)
        self._said = gr.HTML("", elem_id="message", js_on_load=None)
        with gr.Row(elem_id="buttons"):
            self._draw = gr.Button("Draw", variant="primary", elem_id="draw", min_width=80)
            self._pause = gr.Button("Pause", elem_id="pause", min_width=80)
            self._step = gr.Button("Step", elem_id="step", min_width=80)
            self._continue = gr.Button("Continue", elem_id="continue", min_width=80)
            self._apply = gr.Button("Apply", elem_id="apply", min_width=80)
        self._tree = gr.HTML(
            tree_picture(None), elem_id="tree", js_on_load=_click("branch", "row"), padding=False
        )
        # What goes to the easel, and what comes from it.
        self._shown = gr.Textbox(visible="hidden", elem_id="shown")
        self._paint = gr.Textbox(visible="hidden", elem_id="paint")

    def _draw_tab(self) -> None:
        first, reading = first_settings(self._desk.studio.pipeline), self._reading
        is_text, form = reading.kind == TEXT, self._form
        form["prompt"] = gr.Textbox(
            label="Prompt",
            lines=1,
            max_lines=4,
            elem_id="prompt",
            visible=is_text,
            placeholder="what to draw",
        )
        form["negative"] = gr.Textbox(label="Without", elem_id="negative", visible=is_text)
        form["label"] = gr.Number(
            0,
            label=f"Class, 0 to {reading.classes - 1}",
            precision=0,
            minimum=0,
            visible=reading.kind == CLASS,
            elem_id="label",
        )
        with gr.Group(visible=reading.kind in (IMAGE, ARRAY)):
            self._read_file = gr.File(
                label=f"The {reading.name} that this model reads",
                type="binary",
                file_types=[".npy"] if reading.kind == ARRAY else _FILES,
                elem_id="read",
            )
            self._read_shown = gr.HTML("", js_on_load=None)
        with gr.Row():
            form["guidance"] = gr.Slider(
                1, 20, first.guidance, step=0.1, label="Guidance", elem_id="guidance"
            )
            form["steps"] = gr.Slider(
                1, MAX_STEPS, first.steps, step=1, label="Steps", elem_id="steps"
            )
        with gr.Row():
            form["sampler"] = gr.Dropdown(
                sorted(SAMPLERS), value=first.sampler, label="Sampler", elem_id="sampler"
            )
            form["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
            form["num_images"] = gr.Dropdown(
                list(range(1, self._desk.studio.most_images + 1)),
                value=1,
                label="Images",
                elem_id="num_images",
                min_width=80,
            )
        sizes = legal_sizes(self._desk.studio.pipeline)
        with gr.Row():
            for name, side in zip(("height", "width"), first.size, strict=True):
                form[name] = gr.Dropdown(
                    sizes, value=side, label=name.capitalize(), elem_id=name, min_width=80
                )
        self._back_file = gr.UploadButton(
            "Read back a PNG of the studio", type="binary", file_types=[".png"], elem_id="readback"
        )
        self._replay = gr.Button("Replay it", visible=False, elem_id="replay")
        self._history = gr.State(None)

    def _region_tab(self) -> None:
        own = self._reading.paints_regions
        gr.Markdown(
            "Choose a colour under the picture, paint, and say what belongs there. "
            "**Draw**, or **Apply** to a run under way."
        )
        for number in range(1, self._reading.most + 1):
            with gr.Group():
                label = f"Region {number}" + ("" if self._reading.kind == TEXT else ": class")
                name = f"region{number}_"
                self._form[f"{name}prompt"] = gr.Textbox(label=label, elem_id=f"{name}prompt")
                with gr.Row(visible=own):
                    self._form[f"{name}weight"] = gr.Slider(
                        0, 1, 1, step=0.05, label="Weight", min_width=100
                    )
                    self._form[f"{name}feather"] = gr.Slider(
                        0, 32, 1, step=0.5, label="Feather, pixels", min_width=100
                    )
        with gr.Row():
            self._save_regions = gr.Button("Save these", elem_id="save_regions")
            self._load_regions = gr.UploadButton(
                "Load regions", type="binary", file_types=[".json"], elem_id="load_regions"
            )
        self._regions_link = gr.HTML("", elem_id="regions_link", js_on_load=None)

    def _edit_tab(self) -> None:
        gr.Markdown("Choose **mark** under the picture and brush over what should change.")
        only = None if self._reading.kind == TEXT else "the same condition, another seed"
        self._form["wish"] = gr.Textbox(
            label=_ONLY_TEXT, placeholder=only, elem_id="wish", interactive=only is None
        )
        self._form["strength"] = gr.Slider(
            0.05, 1, 0.75, step=0.05, label="Strength: how much is drawn anew", elem_id="strength"
        )
        with gr.Row():
            self._marked = gr.Button("Redraw what is marked", variant="primary", elem_id="marked")
            self._all = gr.Button("Redraw all of it", elem_id="all")
        with gr.Row():
            sizes = legal_sizes(self._desk.studio.pipeline)
            unit = sizes[1] - sizes[0] if len(sizes) > 1 else sizes[0]
            self._form["borders"] = gr.Slider(
                unit, 4 * unit, unit, step=unit, label="Border, pixels", elem_id="borders"
            )
            self._around = gr.Button("Paint around it", elem_id="around")
        self._image_file = gr.File(
            label="Or start from an image of yours",
            type="binary",
            file_types=_FILES,
            elem_id="upload",
            height=120,
        )

    def _look_tab(self) -> None:
        with gr.Row():
            self._strip = gr.Button("Denoising", elem_id="strip", min_width=90)
            self._channels = gr.Button("Latent channels", elem_id="channels", min_width=90)
        self._words = gr.Radio(
            [], label="Where does the network look at …", elem_id="words", type="index"
        )
        self._picture = gr.HTML("", elem_id="picture", js_on_load=None)

    def _gallery_tab(self) -> None:
        self._gallery = gr.HTML(
            "<p class='said'>Finished images are kept here.</p>",
            elem_id="gallery",
            js_on_load=_click("kept"),
        )
        self._links = gr.HTML("", elem_id="links", js_on_load=None)
        self._command = gr.Textbox(
            label="The equal command", buttons=["copy"], elem_id="command", lines=2
        )
        self._record = gr.Code(label="Parameters", language="json", elem_id="record")

    # Events --------------------------------------------------------------------------------------

    def _connect(self) -> None:
        form = [self._form[name] for name in self._names()]
        told = [*form, self._paint]
        shown = [self._shown, self._bar, self._tree, self._gallery, self._said]
        words: dict[str, Any] = {"fn": self._list_words, "outputs": self._words, "queue": False}
        runs: list[tuple[Any, Callable]] = [
            (self._draw.click, self._desk.draw),
            (self._form["prompt"].submit, self._desk.draw),
            (self._step.click, functools.partial(self._desk.go_on, rows=1)),
            (self._continue.click, self._desk.go_on),
            (self._marked.click, functools.partial(self._desk.redraw, way="marked")),
            (self._all.click, functools.partial(self._desk.redraw, way="all")),
            (self._around.click, functools.partial(self._desk.redraw, way="around")),
        ]
        for event, work in runs:
            event(self._stop, None, None, queue=False, show_progress="hidden")
            event(
                self._streamed(work),
                told,
                shown,
                js=_FILL,
                show_progress="minimal",
                show_progress_on=[self._bar],
                **_COMPUTE,
            ).then(**words)
        self._replay.click(
            self._replayed, self._history, shown, show_progress="hidden", **_COMPUTE
        ).then(**words)
        self._pause.click(self._stop, None, None, queue=False, show_progress="hidden")
        self._apply.click(
            self._apply_now,
            told,
            shown,
            js=_FILL,
            queue=False,
            show_progress="hidden",
        )
        self._tree.click(self._back, None, shown, show_progress="hidden", **_COMPUTE)
        self._shown.change(None, self._shown, None, js="(text) => { window.ldmEasel.show(text); }")
        self._image_file.upload(
            self._put_image, [self._image_file, *form], shown, queue=False, show_progress="hidden"
        )
        self._read_file.upload(
            self._put_read, self._read_file, [self._read_shown, self._said], queue=False
        )
        self._back_file.upload(
            self._read_back,
            self._back_file,
            [*form, self._history, self._replay, *shown],
            queue=False,
        )
        self._save_regions.click(
            self._saved_regions, told, [self._regions_link, self._said], js=_FILL, queue=False
        )
        regions = self._region_fields()
        self._load_regions.upload(
            self._loaded_regions,
            [self._load_regions, *form],
            [*regions, self._shown, self._said],
            queue=False,
        )
        for button, what in ((self._strip, "strip"), (self._channels, "channels")):
            button.click(
                self._looked(what),
                [self._paint],
                [self._picture, self._said],
                js=_FILL,
                **_COMPUTE,
            )
        self._words.input(
            self._looked_at_word,
            [self._words, self._paint],
            [self._picture, self._said],
            js=_FILL,
            **_COMPUTE,
        )
        self._gallery.click(
            self._opened, None, [*shown, self._record, self._links, self._command], queue=False
        )

    def _names(self) -> list[str]:
        numbers = range(1, self._reading.most + 1)
        return [*FORM, *(f"region{n}_{name}" for n in numbers for name in REGION)]

    def _region_fields(self) -> list[Any]:
        names = self._names()[len(FORM) :]
        return [self._form[name] for name in names if name in self._form]

    def _paints(self) -> bool:
        return self._reading.kind in (TEXT, CLASS, LAYOUT, MAP)

    def _values(self, values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self._names(), values, strict=True))

    def _streamed(self, work: Callable[..., Iterator[Shown]]) -> Callable:
        def run(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
            *form, paint = values
            try:
                for shown in work(_tab(request), self._values(form), paint):
                    yield _parts(shown)
            except UserError as error:
                yield _parts(_mistake(error))

        return run

    def _apply_now(self, request: gr.Request, *values: Any) -> list[Any]:
        *form, paint = values
        try:
            return _parts(self._desk.steer(_tab(request), self._values(form), paint))
        except UserError as error:
            return _parts(_mistake(error))

    def _replayed(self, request: gr.Request, history: Any) -> Iterator[list[Any]]:
        try:
            if not history:
                raise UserError("nothing was read back. Legal: a PNG of the studio.")
            for shown in self._desk.replay(_tab(request), history):
                yield _parts(shown)
        except UserError as error:
            yield _parts(_mistake(error))

    def _stop(self, request: gr.Request) -> None:
        self._desk.pause(_tab(request))

    def _forget(self, request: gr.Request) -> None:
        self._desk.forget(_tab(request))

    def _back(self, event: gr.EventData, request: gr.Request) -> list[Any]:
        try:
            return _parts(self._desk.back(_tab(request), int(event.branch), int(event.row)))
        except _ILLEGAL as error:
            return _parts(_mistake(error))

    def _put_image(self, request: gr.Request, content: Any, *form: Any) -> list[Any]:
        try:
            shown = self._desk.put_image(_tab(request), _bytes(content), self._values(form))
        except _ILLEGAL as error:
            shown = _mistake(error)
        return _parts(shown)

    def _put_read(self, request: gr.Request, content: Any) -> list[Any]:
        try:
            return [self._desk.put_read(_tab(request), _bytes(content)), ""]
        except _ILLEGAL as error:
            return [gr.skip(), _sentence(error)]

    def _read_back(self, request: gr.Request, content: Any) -> list[Any]:
        names = [name for name in self._names() if name in self._form]
        try:
            history, shown = self._desk.load_parameters(_tab(request), _bytes(content))
        except _ILLEGAL as error:
            return [*[gr.skip()] * (len(names) + 2), *_parts(_mistake(error))]
        told = self._told(history[0][1])
        fields = [told.get(name, gr.skip()) for name in names]
        replay = gr.Button(visible=len(history) > 1)
        return [*fields, history, replay, *_parts(shown)]

    def _told(self, settings: Settings) -> dict[str, Any]:
        """Returns the values of the form that settings stand for."""
        sides = {"height": settings.size[0], "width": settings.size[1]}
        plain = ("prompt", "negative", "label", "sampler", "steps", "guidance", "seed", "strength")
        found = {**sides, **{name: getattr(settings, name) for name in plain}}
        found["num_images"] = min(settings.num_images, self._desk.studio.most_images)
        return {**found, **self._told_regions(settings.regions)}

    def _told_regions(self, regions: Sequence[Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for number in range(1, self._reading.most + 1):
            region = regions[number - 1] if number <= len(regions) else None
            for name, empty in zip(REGION, ("", 1.0, 1.0), strict=True):
                value = empty if region is None else getattr(region, name)
                found[f"region{number}_{name}"] = str(value) if name == "prompt" else value
        return found

    def _saved_regions(self, request: gr.Request, *values: Any) -> list[Any]:
        *form, paint = values
        try:
            return [self._desk.save_regions(self._values(form), paint), ""]
        except _ILLEGAL as error:
            return [gr.skip(), _sentence(error)]

    def _loaded_regions(self, request: gr.Request, content: Any, *form: Any) -> list[Any]:
        names = self._names()[len(FORM) :]
        try:
            regions, easel = self._desk.load_regions(_bytes(content), self._values(form))
        except _ILLEGAL as error:
            return [*[gr.skip()] * len(names), gr.skip(), _sentence(error)]
        told = self._told_regions(regions)
        return [*[told[name] for name in names], easel, ""]

    def _looked(self, what: str) -> Callable:
        def run(request: gr.Request, paint: str) -> list[Any]:
            try:
                return [self._desk.look(_tab(request), paint, what), ""]
            except _ILLEGAL as error:
                return [gr.skip(), _sentence(error)]

        return run

    def _looked_at_word(self, request: gr.Request, word: Any, paint: str) -> list[Any]:
        try:
            return [self._desk.look(_tab(request), paint, "attention", int(word)), ""]
        except _ILLEGAL as error:
            return [gr.skip(), _sentence(error)]

    def _opened(self, event: gr.EventData, request: gr.Request) -> list[Any]:
        try:
            shown, record, links, typed = self._desk.open_kept(_tab(request), int(event.kept))
        except _ILLEGAL as error:
            return [*_parts(_mistake(error)), *[gr.skip()] * 3]
        return [*_parts(shown), record, links, typed]

    def _list_words(self, request: gr.Request) -> Any:
        return gr.Radio(choices=self._desk.words(_tab(request)), value=None)


# What a form, or an event of the page, can hold that is not legal.
_ILLEGAL = (UserError, AttributeError, TypeError, ValueError, KeyError, OverflowError)


def _tab(request: gr.Request) -> str:
    """Returns the name of a tab's session.

    Raises:
      UserError: the call comes from no page.
    """
    name = request.session_hash
    if not isinstance(name, str) or not 1 <= len(name) <= 64:
        raise UserError("session: legal is a page of the studio.")
    return name


def _parts(shown: Shown) -> list[Any]:
    """Returns the values of easel, bar, tree, gallery and sentence."""
    values = [shown.easel, shown.bar, shown.tree, shown.gallery]
    said = gr.skip() if shown.said is None else _note(shown.said)
    return [*[gr.skip() if x is None else x for x in values], said]


def _mistake(error: Exception) -> Shown:
    return Shown(said=f"!{_plain(error)}")


def _sentence(error: Exception) -> str:
    return _note(f"!{_plain(error)}")


def _plain(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    return "the page sent a value that is not legal."


def _note(said: str) -> str:
    """Returns a sentence as HTML; a mistake begins with '!'."""
    if not said:
        return ""
    if said.startswith("!"):
        return f'<p role="alert">{html.escape(said[1:])}</p>'
    return f'<p class="note" role="status">{html.escape(said)}</p>'


def _bytes(content: Any) -> bytes:
    if not isinstance(content, bytes):
        raise UserError("upload: there is no file.")
    return content


def _click(*names: str) -> str:
    """Returns JavaScript that hands on the data of a clicked part."""
    told = ", ".join(f"{name}: Number(found.dataset.{name})" for name in names)
    return (
        "const tell = (event) => {"
        f" const found = event.target.closest('[data-{names[0]}]');"
        f" if (found) trigger('click', {{ {told} }}); }};"
        "element.addEventListener('click', tell);"
        "element.addEventListener('keydown', (event) => {"
        " if (event.key === 'Enter') tell(event); });"
    )


def _easel_html(reading: Reading) -> str:
    """Returns the canvas and its tools."""
    layers = []
    if reading.kind not in (IMAGE, ARRAY, MASKED) and reading.kind in (TEXT, CLASS, LAYOUT, MAP):
        layers = [
            f'<button type="button" data-layer="{k}" aria-pressed="false" title="region {k}">'
            f"{k}</button>"
            for k in range(1, reading.most + 1)
        ]
    layers.append(
        '<button type="button" data-layer="mask" aria-pressed="false" '
        'title="what an edit may change">mark</button>'
    )
    return (
        '<canvas width="768" height="768" aria-label="the picture; choose a colour to paint on it">'
        f'</canvas><div class="thumbs"></div><div class="tools">{"".join(layers)}'
        '<label>brush <input type="range" data-brush min="2" max="60" value="18"></label>'
        '<button type="button" data-erase aria-pressed="false">eraser</button>'
        '<button type="button" data-undo>undo</button>'
        '<button type="button" data-clear>clear</button></div>'
    )
