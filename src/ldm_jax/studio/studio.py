"""One model, the tabs that draw with it, and the programs that they need."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.parallel.mesh import batch_shards
from ldm_jax.pipeline import Pipeline, Region
from ldm_jax.studio.reading import CLASS, TEXT, read_from
from ldm_jax.studio.session import Session
from ldm_jax.studio.settings import Limits, Settings, arguments, first_settings

MOST_SESSIONS = 64
_IDLE = 600.0  # seconds after which a tab that does nothing gives way
_SIDES = 4  # times the training size that an image may have


class Studio:
    """A model and the sessions that share it.

    Attributes:
      pipeline: the model.
      reading: how it is told what to draw.
      every: rows of the sampler between two glances.
      limits: of one run.
      flags: of `ldm-jax sample` that the model was opened with, for commands that draw the same.
      work: held by whoever computes.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        every: int = 5,
        most_images: int = 4,
        flags: Sequence[str] = (),
    ):
        """Compiles nothing yet; draws no more images at once than a bucket of the model holds."""
        largest = pipeline.config.sample.per_device_batch * batch_shards(pipeline.mesh)
        self.pipeline, self.reading = pipeline, read_from(pipeline)
        self.every, self.flags, self.work = every, tuple(flags), threading.Lock()
        self.limits = Limits(min(most_images, largest), _SIDES * pipeline.task.image_size)
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def session(self, name: str) -> Session:
        """Returns the session of a tab; a new one may take the place of one that is long idle.

        Raises:
          UserError: there are too many tabs.
        """
        with self._lock:
            found = self._sessions.get(name)
            if found is None:
                self._make_room()
                found = self._sessions[name] = Session(self.pipeline, self.reading, self.limits)
            return found

    def find(self, name: str) -> Session | None:
        """Returns the session of a tab, if it has one."""
        return self._sessions.get(name)

    def forget(self, name: str) -> None:
        """Ends a session, whose tab is gone, and frees its memory."""
        with self._lock:
            found = self._sessions.pop(name, None)
        if found is not None:
            found.close()

    def __len__(self) -> int:
        return len(self._sessions)

    def warm(self, said: Callable[[str], object] = lambda text: None) -> int:
        """Compiles what steering may ask for, so that no change compiles; returns how many.

        That is every number of regions, with and without a mask, for one image of the training
        size and models of text or classes; other numbers and sizes compile when they are first
        drawn. What the compilation cache has is not compiled again.
        """
        cases = list(itertools.product(range(self._regions() + 1), (False, True)))
        if self.reading.kind not in (TEXT, CLASS):
            cases = []
        for number, (regions, masked) in enumerate(cases, start=1):
            said(f"programs: {number} of {len(cases)}")
            with self.work:
                self._run_once(regions, masked)
        return len(cases)

    def _regions(self) -> int:
        return self.reading.most if self.reading.paints_regions else 0

    def _run_once(self, regions: int, masked: bool) -> None:
        first = first_settings(self.pipeline)
        channels = self.pipeline.task.first_stage.model.image_channels
        image = np.zeros((*first.size, channels), np.uint8) if masked else None
        mask = np.zeros(first.size, np.uint8) if masked else None
        guidance = first.guidance if first.guidance != 1 else 2.0
        settings = Settings(
            prompt="warm",
            guidance=guidance,
            size=first.size,
            steps=2,
            image=image,
            mask=mask,
            strength=1.0,
        )
        told = arguments(settings, self.pipeline, self.reading)
        prompt: str | int = "warm" if self.reading.kind == TEXT else 0
        told["regions"] = [Region(prompt, np.zeros(first.size, np.float32))] * regions
        run = self.pipeline.start(told.pop("prompts", None), **told)
        run.advance(1)
        run.preview()
        run.fork().images()

    def _make_room(self) -> None:
        if len(self._sessions) < MOST_SESSIONS:
            return
        oldest = min(self._sessions, key=lambda name: self._sessions[name].used)
        if time.monotonic() - self._sessions[oldest].used < _IDLE:
            raise UserError(f"the studio has {MOST_SESSIONS} tabs open. Legal: close one.")
        self._sessions.pop(oldest).close()
