"""A run as a tree: it can be steered, taken back to any earlier row, and branched there."""

import dataclasses
import itertools
from typing import Any

from ldm_jax.core.checks import UserError
from ldm_jax.pipeline import Generation, Pipeline
from ldm_jax.studio.reading import Reading
from ldm_jax.studio.settings import Settings, arguments, check_settings, steering

MOST_KEPT = 64  # runs to come back to, in all branches
MOST_BRANCHES = 12


@dataclasses.dataclass
class Branch:
    """One way that a run went.

    Attributes:
      parent: number of the branch that it left; None for the first.
      start: row where it left that, or 0.
      settings: (row from which on they hold, settings), in order; the first is of `start`.
      kept: runs to come back to, by row, in order.
      tip: the row that it has come to.
    """

    parent: int | None
    start: int
    settings: list[tuple[int, Settings]]
    kept: dict[int, Generation]
    tip: int

    def settings_at(self, row: int) -> Settings:
        """Returns the settings that made row `row`, or that it would go on with."""
        return [settings for start, settings in self.settings if start <= row][-1]


class Tree:
    """Runs of one start: the same noise, size, sampler and steps.

    Attributes:
      branches: by number.
      branch: number of the present one.
      row: where the present run stands.
      total: rows of a run.
    """

    def __init__(self, pipeline: Pipeline, reading: Reading, settings: Settings):
        """Starts a run, which computes nothing yet.

        Raises:
          UserError: settings that are not legal.
        """
        check_settings(settings, reading)
        self._pipeline, self._reading = pipeline, reading
        told = arguments(settings, pipeline, reading)
        self._run = pipeline.start(told.pop("prompts", None), **told)
        self.total = self._run.total
        self.branches = [Branch(None, 0, [(0, settings)], {}, 0)]
        self.branch = 0

    @property
    def row(self) -> int:
        """Rows of the present run that are done."""
        return self._run.row

    @property
    def done(self) -> bool:
        """Whether the present run is."""
        return self._run.done

    @property
    def run(self) -> Generation:
        """The present run, to look at."""
        return self._run

    @property
    def settings(self) -> Settings:
        """What the present run goes on with."""
        return self.branches[self.branch].settings_at(self.row)

    @property
    def steered(self) -> bool:
        """Whether the present run was told different things at different rows."""
        return len(self.history()) > 1

    def history(self) -> list[tuple[int, Settings]]:
        """Returns what the present run was told, (row from which on, settings), in order."""
        found: list[tuple[int, Settings]] = []
        number: int | None = self.branch
        end = self.row + 1
        while number is not None:
            branch = self.branches[number]
            found = [x for x in branch.settings if x[0] < end] + found
            number, end = branch.parent, branch.start
        return [found[0]] + [
            after for before, after in itertools.pairwise(found) if after[1].changed(before[1])
        ]

    def path(self) -> list[Generation]:
        """Returns the kept runs that the present one came by, itself last, in the order of rows."""
        found: list[Generation] = []
        number: int | None = self.branch
        end = self.row
        while number is not None:
            branch = self.branches[number]
            found = [run for row, run in branch.kept.items() if row < end] + found
            number, end = branch.parent, branch.start
        return [*found, self._run]

    def advance(self, rows: int) -> None:
        """Runs so many rows more of the present branch, or of a new one from an earlier row."""
        if self.done:
            return
        self._leave()
        if not self._run.row:
            self._keep()
        self._run.advance(rows)
        self.branches[self.branch].tip = self.row
        self._keep()

    def change(self, settings: Settings) -> bool:
        """Goes on with other settings from the present row; returns whether anything differs.

        Raises:
          UserError: the run is done, the change is not legal, or cannot be made under way.
        """
        check_settings(settings, self._reading)
        changed = settings.changed(self.settings)
        if not changed:
            return False
        if self.done:
            raise UserError("the run is done. Legal: go back to an earlier step, then change it.")
        told = self._steering(settings)
        now = self.settings
        if settings.mask is not None and now.image is None:
            raise UserError("mask: this run did not start from an image. Legal: draw anew.")
        if settings.mask is None and now.mask is not None:
            raise UserError("mask: this run needs one. Legal: another mask, or draw anew.")
        run = self._run.fork()
        run.change(**told)  # raises before anything is left
        self._leave()
        self._run = run
        steered = {name: getattr(settings, name) for name in changed}
        merged = dataclasses.replace(now, **steered)
        branch = self.branches[self.branch]
        branch.settings = [x for x in branch.settings if x[0] < self.row] + [(self.row, merged)]
        if self.row in branch.kept:
            branch.kept[self.row] = self._run.fork()
        return True

    def go_to(self, number: int, row: int) -> None:
        """Makes a row of a branch the present one; what it has not kept is computed again.

        Raises:
          UserError: there is no such row.
        """
        if not 0 <= number < len(self.branches):
            raise UserError(f"branch {number}: legal is 0 to {len(self.branches) - 1}.")
        branch = self.branches[number]
        if not branch.start <= row <= branch.tip:
            raise UserError(f"step {row}: branch {number} has {branch.start} to {branch.tip}.")
        if not branch.kept:
            return
        near = max(x for x in branch.kept if x <= row)
        run = branch.kept[near].fork()
        while run.row < row:
            told = [start for start, _ in branch.settings if run.row < start <= row]
            run.advance(min(told, default=row) - run.row)
            if run.row in told:  # again
                run.change(**self._steering(branch.settings_at(run.row)))
        self.branch, self._run = number, run

    def _steering(self, settings: Settings) -> dict[str, Any]:
        return steering(settings, self._pipeline, self._reading)

    def _leave(self) -> None:
        """Opens a branch where the present row is not the end of its own."""
        branch = self.branches[self.branch]
        if self.row == branch.tip:
            return
        if len(self.branches) == MOST_BRANCHES:
            raise UserError(
                f"the tree has {MOST_BRANCHES} branches. Legal: go on with one of them."
            )
        settings = branch.settings_at(self.row)
        self.branches.append(
            Branch(
                self.branch,
                self.row,
                [(self.row, settings)],
                {self.row: self._run.fork()},
                self.row,
            )
        )
        self.branch = len(self.branches) - 1

    def _keep(self) -> None:
        """Keeps the present run to come back to; every second one goes when there are too many."""
        self.branches[self.branch].kept[self.row] = self._run.fork()
        if sum(len(branch.kept) for branch in self.branches) <= MOST_KEPT:
            return
        for branch in self.branches:
            for row in list(branch.kept)[1:-1:2]:
                del branch.kept[row]
