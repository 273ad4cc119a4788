"""What one tab of a browser works on."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.pipeline import Pipeline
from ldm_jax.studio.reading import Reading
from ldm_jax.studio.record import make_record
from ldm_jax.studio.settings import Limits, Settings, check_settings
from ldm_jax.studio.tree import Tree

MOST_KEPT = 48  # images in a gallery


class Kept(NamedTuple):
    """An image of the gallery.

    Attributes:
      image: uint8 [H, W, C].
      record: what made it, see `record.make_record`.
      settings: of its run, the last ones.
      steered: whether they are not all.
    """

    image: np.ndarray
    record: dict[str, Any]
    settings: Settings
    steered: bool


@dataclasses.dataclass(frozen=True)
class Glance:
    """What there is to see of a run.

    Attributes:
      images: uint8 [n, H, W, C] as they are expected to become.
      row: rows that are done.
      total: rows of the run.
      seconds_left: at the present pace; None without one.
      paused: whether somebody stopped it.
      said: why a change was not taken; empty otherwise.
    """

    images: np.ndarray
    row: int
    total: int
    seconds_left: float | None = None
    paused: bool = False
    said: str = ""

    @property
    def done(self) -> bool:
        """Whether these are the images."""
        return self.row == self.total


class Session:
    """A tab: its tree of runs and its gallery, all in memory.

    One thread runs; others may ask it to pause, to steer or to end.

    Attributes:
      tree: of the present start; None before the first.
      form: what the page's form said when the run was last told; None before.
      gallery: kept images, the newest first.
      used: when a person last did something.
    """

    def __init__(self, pipeline: Pipeline, reading: Reading, limits: Limits | None = None):
        """Holds nothing yet."""
        self._pipeline, self._reading = pipeline, reading
        self._limits = Limits() if limits is None else limits
        self.tree: Tree | None = None
        self.form: Settings | None = None
        self.gallery: list[Kept] = []
        self.used = time.monotonic()
        self._pause, self._closed = threading.Event(), threading.Event()
        self._running = self._cancelled = False
        self._turn = threading.Lock()
        self._wanted: Settings | None = None
        self._script: list[tuple[int, Settings]] = []
        self._finished: set[tuple[int, int]] = set()

    @property
    def closed(self) -> bool:
        """Whether the tab is gone."""
        return self._closed.is_set()

    def begin(self, settings: Settings) -> None:
        """Starts another tree.

        Raises:
          UserError: settings that are not legal; then the present one stays.
        """
        self.replay([(0, settings)])

    def replay(self, history: list[tuple[int, Settings]]) -> None:
        """Starts a tree whose run will be told what an earlier one was told, at the same rows.

        Raises:
          UserError: settings that are not legal, or rows out of order.
        """
        (_, first), *later = history
        self._limits.check(first)
        tree = Tree(self._pipeline, self._reading, first)
        rows = [row for row, _ in later]
        if rows != sorted(set(rows)) or not all(0 <= row < tree.total for row in rows):
            raise UserError(f"steered: at steps {rows}. Legal: rising, from 0 to {tree.total - 1}.")
        for _, settings in later:
            check_settings(settings, self._reading)
        with self._turn:
            self.tree, self._wanted, self._script, self._finished = tree, None, later, set()
            self.form, self.used = first, time.monotonic()

    def steer(self, settings: Settings) -> bool:
        """Goes on with other settings: a run under way hears of them before its next rows.

        Returns whether they were taken at once, because nothing runs.

        Raises:
          UserError: they are not legal; then nothing has changed.
        """
        check_settings(settings, self._reading)
        self.used = time.monotonic()
        if self._turn.acquire(blocking=False):
            try:
                self._tree().change(settings)
                self._wanted, self._script = None, []
                return True
            finally:
                self._turn.release()
        self._wanted = settings
        return False

    def ask(self) -> None:
        """Tells that another run is asked for: the present one stops, and none is cancelled."""
        self._cancelled = False
        self._pause.set()

    def pause(self) -> None:
        """Stops the run before its next rows, or the one that waits for its turn."""
        self._cancelled = not self._running
        self._pause.set()

    def close(self) -> None:
        """Ends the run and lets go of all memory."""
        self._closed.set()
        self._pause.set()
        with self._turn:
            self.tree, self.form, self.gallery, self._wanted = None, None, [], None

    def go_to(self, branch: int, row: int) -> Glance:
        """Takes the run back to a row of a branch, or forth to one it has been at."""
        with self._turn:
            tree = self._tree()
            tree.go_to(branch, row)
            self._wanted, self._script, self.form = None, [], tree.settings
            self.used = time.monotonic()
            return self.glance(paused=not tree.done)

    def run(self, every: int, rows: int | None = None) -> Iterator[Glance]:
        """Runs to the end, or `rows` more, and shows what is expected after `every` of them.

        A change that cannot be made is told, and the run goes on without it.

        Args:
          every: rows between two glances.
          rows: at most; None for all that are left.
        """
        tree, done = self._tree(), 0
        if self._cancelled:
            self._cancelled = False
            yield self.glance(paused=not tree.done)
            return
        self._pause.clear()
        self._running = True
        self.used = began = time.monotonic()
        try:
            while not tree.done and (rows is None or done < rows):
                with self._turn:
                    if self.closed:
                        return
                    said, paused = self._tell(tree), self._pause.is_set()
                    if not paused:
                        before, due = tree.row, [row - tree.row for row, _ in self._script]
                        left = tree.total if rows is None else rows - done
                        tree.advance(min(every, tree.total - tree.row, left, *due))
                        done += tree.row - before
                        paused = not tree.done and done == rows
                    pace = (time.monotonic() - began) / max(done, 1)
                    glance = self.glance(pace * (tree.total - tree.row), paused, said)
                yield glance
                if paused:
                    break
        finally:
            self._running = False
            self.used = time.monotonic()
        if tree.done:
            self._wanted = None
            self._keep(tree)

    def glance(
        self, seconds_left: float | None = None, paused: bool = False, said: str = ""
    ) -> Glance:
        """Returns what there is to see now."""
        tree = self._tree()
        run = tree.run
        images = run.preview() if tree.row else run.noisy()
        return Glance(images, tree.row, tree.total, seconds_left, paused, said)

    def _tell(self, tree: Tree) -> str:
        """Tells the run what is due at its row; returns why it was not taken, or nothing."""
        due = [settings for row, settings in self._script if row == tree.row]
        self._script = [x for x in self._script if x[0] > tree.row]
        wanted, self._wanted = self._wanted, None
        if wanted is not None:  # a person takes over
            due, self._script = [wanted], []
        try:
            for settings in due:
                tree.change(settings)
        except UserError as error:
            return str(error)
        return ""

    def _keep(self, tree: Tree) -> None:
        """Puts the images of a run that has ended into the gallery, once."""
        place = (tree.branch, tree.total)
        if place in self._finished or self.closed:
            return
        self._finished.add(place)
        history = tree.history()
        found = [
            Kept(image, make_record(self._pipeline, history, k), history[-1][1], len(history) > 1)
            for k, image in enumerate(tree.run.images())
        ]
        self.gallery = [*found, *self.gallery][:MOST_KEPT]

    def _tree(self) -> Tree:
        if self.tree is None:
            raise UserError("nothing is drawn yet. Legal: Draw first.")
        return self.tree
