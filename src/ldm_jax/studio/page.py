"""The page: which part of it does what."""

import functools
import html
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from ldm_jax.core.checks import UserError
from ldm_jax.studio.desk import FORM, Desk, Shown
from ldm_jax.studio.easel import REGION
from ldm_jax.studio.layout import Layout
from ldm_jax.studio.settings import Settings

# The easel puts what is painted into the last value of an event.
_FILL = "(...values) => window.ldmEasel.fill(values)"
_HOUR = 3600
_COMPUTE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "compute"}


class Page:
    """A page, and what happens when it is used."""

    def __init__(self, desk: Desk):
        """Takes what the buttons do."""
        self._desk, self._reading = desk, desk.studio.reading

    def build(self) -> gr.Blocks:
        """Returns the app, not yet served."""
        # Uploads of tabs that are gone are deleted.
        delete = (_HOUR, _HOUR)
        with gr.Blocks(title="ldm_jax studio", analytics_enabled=False, delete_cache=delete) as app:
            self._ui = Layout(self._desk.studio)
            self._connect()
            app.unload(self._forget)
        return app

    def _connect(self) -> None:
        ui = self._ui
        form = [ui.form[name] for name in self._names()]
        told = [*form, ui.paint]
        shown = [ui.shown, ui.bar, ui.tree, ui.gallery, ui.said]
        words: dict[str, Any] = {"fn": self._list_words, "outputs": ui.words, "queue": False}
        runs: list[tuple[Any, Callable]] = [
            (ui.draw.click, self._desk.draw),
            (ui.form["prompt"].submit, self._desk.draw),
            (ui.step.click, functools.partial(self._desk.go_on, rows=1)),
            (ui.go_on.click, self._desk.go_on),
            (ui.marked.click, functools.partial(self._desk.redraw, way="marked")),
            (ui.all.click, functools.partial(self._desk.redraw, way="all")),
            (ui.around.click, functools.partial(self._desk.redraw, way="around")),
        ]
        for event, work in runs:
            stopped = event(self._ask, None, None, queue=False, show_progress="hidden")
            stopped.then(
                self._streamed(work),
                told,
                shown,
                js=_FILL,
                show_progress="minimal",
                show_progress_on=[ui.bar],
                **_COMPUTE,
            ).then(**words)
        ui.replay.click(self._replayed, ui.history, shown, show_progress="hidden", **_COMPUTE).then(
            **words
        )
        ui.pause.click(self._stop, None, None, queue=False, show_progress="hidden")
        ui.apply.click(
            self._apply_now,
            told,
            shown,
            js=_FILL,
            queue=False,
            show_progress="hidden",
        )
        ui.tree.click(self._ask, None, None, queue=False, show_progress="hidden")
        ui.tree.click(self._back, None, [*form, *shown], show_progress="hidden", **_COMPUTE)
        ui.shown.change(None, ui.shown, None, js="(text) => { window.ldmEasel.show(text); }")
        ui.image_file.upload(
            self._put_image,
            [ui.image_file, *form],
            shown,
            queue=False,
            show_progress="hidden",
        )
        ui.read_file.upload(self._put_read, ui.read_file, [ui.read_shown, ui.said], queue=False)
        ui.back_file.upload(
            self._read_back,
            ui.back_file,
            [*form, ui.history, ui.replay, *shown],
            queue=False,
        )
        ui.save_regions.click(
            self._saved_regions, told, [ui.regions_link, ui.said], js=_FILL, queue=False
        )
        regions = self._region_fields()
        ui.load_regions.upload(
            self._loaded_regions,
            [ui.load_regions, *form],
            [*regions, ui.shown, ui.said],
            queue=False,
        )
        for button, what in ((ui.strip, "strip"), (ui.channels, "channels")):
            button.click(
                self._looked(what),
                [ui.paint],
                [ui.picture, ui.said],
                js=_FILL,
                **_COMPUTE,
            )
        ui.words.input(
            self._looked_at_word,
            [ui.words, ui.paint],
            [ui.picture, ui.said],
            js=_FILL,
            **_COMPUTE,
        )
        ui.gallery.click(
            self._opened,
            None,
            [*shown, ui.record, ui.links, ui.command],
            queue=False,
        )

    def _names(self) -> list[str]:
        numbers = range(1, self._reading.most + 1)
        return [*FORM, *(f"region{n}_{name}" for n in numbers for name in REGION)]

    def _region_fields(self) -> list[Any]:
        names = self._names()[len(FORM) :]
        return [self._ui.form[name] for name in names if name in self._ui.form]

    def _values(self, values: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self._names(), values, strict=True))

    def _streamed(self, work: Callable[..., Iterator[Shown]]) -> Callable:
        def run(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
            *form, paint = values
            try:
                for shown in work(_tab(request), self._values(form), paint):
                    yield _parts(shown)
            except _ILLEGAL as error:
                yield _parts(_mistake(error))

        return run

    def _apply_now(self, request: gr.Request, *values: Any) -> list[Any]:
        *form, paint = values
        try:
            return _parts(self._desk.steer(_tab(request), self._values(form), paint))
        except _ILLEGAL as error:
            return _parts(_mistake(error))

    def _replayed(self, request: gr.Request, history: Any) -> Iterator[list[Any]]:
        try:
            if not history:
                raise UserError("nothing was read back. Legal: a PNG of the studio.")
            for shown in self._desk.replay(_tab(request), history):
                yield _parts(shown)
        except _ILLEGAL as error:
            yield _parts(_mistake(error))

    def _ask(self, request: gr.Request) -> None:
        self._desk.ask(_tab(request))

    def _stop(self, request: gr.Request) -> None:
        self._desk.pause(_tab(request))

    def _forget(self, request: gr.Request) -> None:
        self._desk.forget(_tab(request))

    def _back(self, event: gr.EventData, request: gr.Request) -> list[Any]:
        try:
            settings, shown = self._desk.back(_tab(request), int(event.branch), int(event.row))
        except _ILLEGAL as error:
            return [*[gr.skip()] * len(self._names()), *_parts(_mistake(error))]
        return [*self._fields(settings), *_parts(shown)]

    def _fields(self, settings: Settings) -> list[Any]:
        """Returns the values of all fields of the form that settings stand for."""
        told = self._told(settings)
        return [told.get(name, gr.skip()) for name in self._names()]

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
        try:
            history, shown = self._desk.load_parameters(_tab(request), _bytes(content))
        except _ILLEGAL as error:
            return [*[gr.skip()] * (len(self._names()) + 2), *_parts(_mistake(error))]
        return [*self._fields(history[0][1]), history, gr.Button(visible=True), *_parts(shown)]

    def _told(self, settings: Settings) -> dict[str, Any]:
        """Returns the values of the form that settings stand for."""
        sides = {"height": settings.size[0], "width": settings.size[1]}
        plain = ("prompt", "negative", "label", "sampler", "steps", "guidance", "seed", "strength")
        found = {**sides, **{name: getattr(settings, name) for name in plain}}
        found["num_images"] = min(settings.num_images, self._desk.studio.limits.images)
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
        try:
            found = self._desk.words(_tab(request))
        except _ILLEGAL:  # a prompt that is longer than the model reads has no maps
            found = []
        return gr.Radio(choices=found, value=None)


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
