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
from ldm_jax.studio.settings import Settings
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
    """

    images: np.ndarray
    row: int
    total: int
    seconds_left: float | None = None
    paused: bool = False

    @property
    def done(self) -> bool:
        """Whether these are the images."""
        return self.row == self.total


class Session:
    """A tab: its tree of runs and its gallery, all in memory.

    One thread runs; others may ask it to pause, to steer or to end.

    Attributes:
      tree: of the present start; None before the first.
      gallery: kept images, the newest first.
      used: time of the last call.
    """

    def __init__(self, pipeline: Pipeline, reading: Reading):
        """Holds nothing yet."""
        self._pipeline, self._reading = pipeline, reading
        self.tree: Tree | None = None
        self.gallery: list[Kept] = []
        self.used = time.monotonic()
        self._pause, self._closed = threading.Event(), threading.Event()
        self._turn = threading.Lock()
        self._wanted: Settings | None = None
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
        tree = Tree(self._pipeline, self._reading, settings)
        with self._turn:
            self.tree, self._wanted, self._finished = tree, None, set()

    def replay(self, history: list[tuple[int, Settings]]) -> None:
        """Starts a tree and tells it what an earlier run was told, at the same rows."""
        self.begin(history[0][1])
        tree = self._tree()
        for row, settings in history[1:]:
            if tree.row < row < tree.total:
                tree.advance(row - tree.row)
            tree.change(settings)

    def steer(self, settings: Settings) -> bool:
        """Goes on with other settings: a run under way hears of them before its next rows.

        Returns whether they were taken at once, because nothing runs.

        Raises:
          UserError: they are not legal.
        """
        if self._turn.acquire(blocking=False):
            try:
                self._tree().change(settings)
                return True
            finally:
                self._turn.release()
        self._wanted = settings
        return False

    def pause(self) -> None:
        """Stops the run before its next rows."""
        self._pause.set()

    def close(self) -> None:
        """Ends the run and lets go of all memory."""
        self._closed.set()
        self._pause.set()
        with self._turn:
            self.tree, self.gallery, self._wanted = None, [], None

    def go_to(self, branch: int, row: int) -> Glance:
        """Takes the run back to a row of a branch, or forth to one it has been at."""
        with self._turn:
            tree = self._tree()
            tree.go_to(branch, row)
            return self.glance(paused=not tree.done)

    def run(self, every: int, rows: int | None = None) -> Iterator[Glance]:
        """Runs to the end, or `rows` more, and shows what is expected after `every` of them.

        Args:
          every: rows between two glances.
          rows: at most; None for all that are left.

        Raises:
          UserError: a change on the way was not legal; the run stands where it was.
        """
        tree, done = self._tree(), 0
        self._pause.clear()
        self.used = began = time.monotonic()
        while not tree.done and (rows is None or done < rows):
            with self._turn:
                if self.closed:
                    return
                paused = self._pause.is_set()
                if not paused:
                    wanted, self._wanted = self._wanted, None
                    if wanted is not None:
                        tree.change(wanted)
                    count = min(every, tree.total - tree.row, (rows or tree.total) - done)
                    tree.advance(count)
                    done += count
                    paused = not tree.done and done == rows
                pace = (time.monotonic() - began) / max(done, 1)
                glance = self.glance(pace * (tree.total - tree.row), paused)
            yield glance
            if paused:
                break
        self.used = time.monotonic()
        if tree.done:
            self._keep(tree)

    def glance(self, seconds_left: float | None = None, paused: bool = False) -> Glance:
        """Returns what there is to see now."""
        tree = self._tree()
        run = tree.run
        images = run.preview() if tree.row else run.noisy()
        return Glance(images, tree.row, tree.total, seconds_left, paused)

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
