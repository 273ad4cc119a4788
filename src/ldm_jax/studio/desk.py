"""What the buttons of the page do: from values of a form to what is shown, without Gradio."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.inspection.attention import AttentionReader
from ldm_jax.pipeline import extend_canvas
from ldm_jax.pipeline.painted import PaintedRegion, read_regions, write_regions
from ldm_jax.studio import gallery, looking
from ldm_jax.studio.drawing import progress_bar, tree_picture
from ldm_jax.studio.easel import easel_json, layers_of, painted_mask, painted_regions, selected
from ldm_jax.studio.files import (
    as_data_url,
    fitted,
    link,
    read_array,
    read_parameters,
    read_upload,
)
from ldm_jax.studio.reading import ARRAY, IMAGE, TEXT
from ldm_jax.studio.record import command, read_record
from ldm_jax.studio.session import Glance, Session
from ldm_jax.studio.settings import Settings
from ldm_jax.studio.studio import Studio
from ldm_jax.studio.tree import Tree

# Of a form, by name; then, for each region, those of easel.REGION.
FORM = (
    *("prompt", "negative", "label", "sampler", "steps", "guidance", "seed", "height", "width"),
    *("num_images", "wish", "strength", "borders"),
)


@dataclasses.dataclass(frozen=True)
class Shown:
    """What changes on the page; None leaves a part as it is.

    Attributes:
      easel: JSON of the pictures on the easel.
      bar: HTML of the progress.
      tree: HTML of the branches.
      gallery: HTML of the kept images.
      said: a sentence, which begins with '!' where something is wrong; empty to clear it.
    """

    easel: str | None = None
    bar: str | None = None
    tree: str | None = None
    gallery: str | None = None
    said: str | None = None


class Desk:
    """The buttons of a page over one studio; `tab` is the name of a tab's session."""

    def __init__(self, studio: Studio):
        """Takes the studio."""
        self.studio = studio
        self._shown: dict[str, np.ndarray] = {}
        self._read: dict[str, np.ndarray] = {}
        self._reader = AttentionReader(studio.pipeline)

    # What draws ----------------------------------------------------------------------------------

    def draw(self, tab: str, form: Mapping[str, Any], paint: str) -> Iterator[Shown]:
        """Draws anew."""
        with _sentences():
            session = self.studio.session(tab)
            session.begin(self._settings(tab, form, paint))
        yield from self._run(tab, session)

    def go_on(
        self, tab: str, form: Mapping[str, Any], paint: str, rows: int | None = None
    ) -> Iterator[Shown]:
        """Goes on from the present row with what the form changes, by default to the end."""
        session = self._tell(tab, form, paint)
        if session.tree is not None and session.tree.done:
            raise UserError("the run is done. Legal: go back to an earlier step, or draw anew.")
        yield from self._run(tab, session, rows)

    def steer(self, tab: str, form: Mapping[str, Any], paint: str) -> Shown:
        """Tells a run under way, or one that is paused, what the form changes."""
        session = self._tell(tab, form, paint)
        return Shown(tree=tree_picture(session.tree), said="")

    def ask(self, tab: str) -> None:
        """Stops the run of a tab, which is about to ask for another."""
        session = self.studio.find(tab)
        if session is not None:
            session.ask()

    def pause(self, tab: str) -> None:
        """Stops the run of a tab before its next rows, or the one that waits for its turn."""
        session = self.studio.find(tab)
        if session is not None:
            session.pause()

    def back(self, tab: str, branch: int, row: int) -> tuple[Settings, Shown]:
        """Takes the run back to a row of a branch; returns what it was told there."""
        session = self._session(tab)
        session.ask()
        with self.studio.work:
            glance = session.go_to(branch, row)
            shown = self._show(tab, session, glance)
        settings = self._tree(session).settings
        return settings, dataclasses.replace(
            shown, easel=easel_json(glance.images, layers_of(settings))
        )

    def redraw(self, tab: str, form: Mapping[str, Any], paint: str, way: str) -> Iterator[Shown]:
        """Draws again from the picture on the easel: what is marked of it, all of it, or around it.

        Args:
          tab: name of the session.
          form: of the page; `wish` says what should be there, empty for the same again.
          paint: of the easel.
          way: 'marked', 'all' or 'around'.
        """
        with _sentences():
            session = self.studio.session(tab)
            picture = self._picture(tab, paint)
            settings = self._settings(tab, form, paint, size=picture.shape[:2])
            changes = self._redrawn(session, form, settings, picture, paint, way)
            session.begin(dataclasses.replace(settings, **changes))
            session.form = dataclasses.replace(settings, mask=changes["mask"])
        yield from self._run(tab, session)

    # What is put in ------------------------------------------------------------------------------

    def put_image(self, tab: str, content: bytes, form: Mapping[str, Any]) -> Shown:
        """Puts an uploaded image on the easel, cut and resized to the size of the form."""
        channels = self.studio.pipeline.task.first_stage.model.image_channels
        size = (int(form["height"]), int(form["width"]))
        picture = fitted(read_upload(content, channels), size)
        self._shown[tab] = picture[None]
        return Shown(easel=easel_json(picture[None]), said="")

    def put_read(self, tab: str, content: bytes) -> str:
        """Keeps an image or array that the model reads; returns HTML that shows it."""
        reading = self.studio.reading
        if reading.kind == ARRAY:
            self._read[tab] = found = read_array(content, reading.shape)
            return f"<p class='said'>{reading.name}, {list(found.shape)}</p>"
        picture = read_upload(content, 3)
        if reading.kind == IMAGE and reading.name != "image":
            picture = fitted(picture, (reading.shape[0], reading.shape[1]))
        self._read[tab] = picture
        return f"<img class='picture' alt='{reading.name}' src='{as_data_url(picture)}'>"

    def load_parameters(self, tab: str, content: bytes) -> tuple[list[tuple[int, Settings]], Shown]:
        """Returns the history of an image of the studio, and puts the image on the easel."""
        record = read_parameters(content)
        history = read_record(record, self.studio.pipeline)
        channels = self.studio.pipeline.task.first_stage.model.image_channels
        settings = history[0][1]
        self._shown[tab] = read_upload(content, channels)[None]
        if settings.read is not None:
            self._read[tab] = settings.read
        if settings.image is not None:
            self._shown[tab] = settings.image[None]
        said = "Read back. Replay makes it again; Draw makes another of the form."
        if record["settings"].get("image") is not None and settings.image is None:
            said = "Read back, but for its start image, which was too large to keep: upload it."
            history = [(row, dataclasses.replace(told, mask=None)) for row, told in history]
        return history, Shown(easel=easel_json(self._shown[tab], layers_of(settings)), said=said)

    def replay(self, tab: str, history: Sequence[tuple[int, Settings]]) -> Iterator[Shown]:
        """Draws what an image's parameters say, changes on the way included."""
        with _sentences():
            session = self.studio.session(tab)
            session.replay(list(history))
        yield from self._run(tab, session)

    def load_regions(
        self, content: bytes, form: Mapping[str, Any]
    ) -> tuple[tuple[PaintedRegion, ...], str]:
        """Returns the regions of a preset, and the JSON that paints them on the easel."""
        size = (int(form["height"]), int(form["width"]))
        found = read_regions(content, size)
        most = self.studio.reading.most
        if len(found) > most:
            raise UserError(f"regions: got {len(found)}. Legal: up to {most}.")
        layers = {str(k + 1): as_data_url(region.mask) for k, region in enumerate(found)}
        return found, json.dumps({"layers": layers, "size": list(size)})

    def save_regions(self, form: Mapping[str, Any], paint: str) -> str:
        """Returns a link to a preset of the painted regions."""
        size = (int(form["height"]), int(form["width"]))
        regions = painted_regions(paint, form, self.studio.reading, size)
        return link("regions.json", write_regions(regions), "application/json")

    # What is looked at ---------------------------------------------------------------------------

    def look(self, tab: str, paint: str, what: str, word: int = 0) -> str:
        """Returns a picture of the present run as HTML: 'strip', 'channels' or 'attention'."""
        tree = self._tree(self._session(tab))
        number = min(selected(paint), tree.run.count - 1)
        with self.studio.work:
            if what == "attention":
                pipeline = self.studio.pipeline
                picture = looking.attention(pipeline, self._reader, tree, number, word)
            else:
                views = {"strip": looking.strip, "channels": looking.channels}
                picture = views[what](tree, number)
        return f"<img class='picture' alt='{what}' src='{as_data_url(picture)}'>"

    def words(self, tab: str) -> list[str]:
        """Returns the words of the present prompt that have a map."""
        session = self.studio.find(tab)
        if session is None or session.tree is None:
            return []
        return looking.words(self.studio.pipeline, session.tree.settings.prompt)

    def gallery(self, tab: str) -> str:
        """Returns the kept images of a tab as HTML that can be clicked."""
        return gallery.pictures(self._session(tab).gallery)

    def open_kept(self, tab: str, number: int) -> tuple[Shown, str, str, str]:
        """Returns what is shown of a kept image: easel, parameters, links, command."""
        kept = self._session(tab).gallery
        if not 0 <= number < len(kept):
            raise UserError(f"image {number}: legal is 0 to {len(kept) - 1}.")
        image, record, settings, steered = kept[number]
        self._shown[tab] = image[None]
        pipeline, reading = self.studio.pipeline, self.studio.reading
        typed, said = command(pipeline, reading, settings, steered, self.studio.flags)
        shown = Shown(easel=easel_json(image[None]), said=said)
        return shown, gallery.parameters(record), gallery.links(image, record, settings), typed

    def forget(self, tab: str) -> None:
        """Frees what a tab held."""
        self.studio.forget(tab)
        self._shown.pop(tab, None)
        self._read.pop(tab, None)

    # ---------------------------------------------------------------------------------------------

    def _run(self, tab: str, session: Session, rows: int | None = None) -> Iterator[Shown]:
        """Shows a run until it ends or is paused."""
        glances = session.run(self.studio.every, rows)
        yield Shown(bar=progress_bar(None, "begins"), said="")
        while True:
            with self.studio.work:
                glance = next(glances, None)
                if glance is None:
                    break
                shown = self._show(tab, session, glance)
            yield shown
        if session.tree is not None and session.tree.done:
            yield Shown(gallery=self.gallery(tab))

    def _show(self, tab: str, session: Session, glance: Glance) -> Shown:
        if not session.closed:  # its tab may have gone meanwhile
            self._shown[tab] = glance.images
        return Shown(
            easel=easel_json(glance.images),
            bar=progress_bar(glance),
            tree=tree_picture(session.tree),
            said=f"!{glance.said}" if glance.said else "",
        )

    def _settings(
        self, tab: str, form: Mapping[str, Any], paint: str, size: Any = None
    ) -> Settings:
        size = (int(form["height"]), int(form["width"])) if size is None else tuple(size)
        return Settings(
            prompt=str(form["prompt"] or ""),
            negative=str(form["negative"] or ""),
            label=int(form["label"] or 0),
            sampler=str(form["sampler"]),
            steps=int(form["steps"]),
            guidance=float(form["guidance"]),
            seed=int(form["seed"] or 0),
            size=size,
            num_images=int(form["num_images"]),
            regions=painted_regions(paint, form, self.studio.reading, size),
            read=self._read.get(tab),
        )

    def _tell(self, tab: str, form: Mapping[str, Any], paint: str) -> Session:
        """Tells a run what the form says otherwise than when the run was last told; returns its
        session.
        """
        with _sentences():
            session = self._session(tab)
            now = self._tree(session).settings
            form_now = self._settings(tab, form, paint, size=now.size)
            mask = None if now.mask is None else painted_mask(paint, now.size, wanted=False)
            before = now if session.form is None else session.form
            form_now = dataclasses.replace(form_now, mask=before.mask if mask is None else mask)
            changes = {name: getattr(form_now, name) for name in form_now.changed(before)}
            session.steer(dataclasses.replace(now, **changes))
            session.form = form_now
            return session

    def _redrawn(
        self,
        session: Session,
        form: Mapping[str, Any],
        settings: Settings,
        picture: np.ndarray,
        paint: str,
        way: str,
    ) -> dict[str, Any]:
        """Returns what `redraw` changes of the form's settings."""
        wish = str(form["wish"] or "").strip()
        found: dict[str, Any] = {"num_images": 1, "image": picture, "mask": None}
        found["strength"] = float(form["strength"])
        if wish and self.studio.reading.kind == TEXT:
            found["prompt"] = wish
        elif not wish:  # again is not the same
            last = settings.seed if session.tree is None else session.tree.settings.seed
            found["seed"] = (last + 1) % 2**32
        if way == "marked":
            found["mask"] = painted_mask(paint, picture.shape[:2])
        if way == "around":
            whole, mask = extend_canvas(picture, (int(form["borders"]),) * 4)
            found.update(image=whole, mask=np.uint8(255 * mask), strength=1.0, regions=())
            found["size"] = whole.shape[:2]
        return found

    def _session(self, tab: str) -> Session:
        session = self.studio.find(tab)
        if session is None:
            raise UserError("nothing is drawn yet. Legal: Draw first.")
        return session

    @staticmethod
    def _tree(session: Session) -> Tree:
        if session.tree is None:
            raise UserError("nothing is drawn yet. Legal: Draw first.")
        return session.tree

    def _picture(self, tab: str, paint: str) -> np.ndarray:
        shown = self._shown.get(tab)
        if shown is None:
            raise UserError("no picture on the easel. Legal: draw one, or upload one.")
        return shown[min(selected(paint), len(shown) - 1)]


@contextlib.contextmanager
def _sentences() -> Iterator[None]:
    """Turns what a form cannot hold into a sentence."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, KeyError, OverflowError, ValueError) as error:
        raise UserError(f"the form holds a value that is not legal ({error}).") from error
