"""The page of a study: a table and sentences from its results, between marks in its README."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ldm_jax.core.checks import UserError
from ldm_jax.sweep.plots import mean_of
from ldm_jax.sweep.results import Row, by_name

_ONE_SEED = "One seed: there are no error bars, and differences of a few percent mean nothing."
_SEEDS = "Means over {} seeds, ± one standard error, which is also what the bars show."


class Column(NamedTuple):
    """A column of a table.

    Attributes:
      read: (row of a result) -> number.
      form: how it is printed.
    """

    read: Callable[[Row], float]
    form: str = "{:.2f}"

    @classmethod
    def of(cls, score: str, form: str = "{:.3f}") -> "Column":
        """Returns the column of a score."""
        return cls(lambda row: float(row["scores"][score]), form)


def comparable(study: str, rows: Sequence[Row], settings: Sequence[str]) -> dict[str, list[Row]]:
    """Returns the newest rows by name, once they were measured in the same way.

    Args:
      study: its name, for the message.
      rows: of results.
      settings: of the points, that have to be the same in all of them.

    Raises:
      UserError: there are none, or they cannot stand in one table.
    """
    groups = by_name(rows)
    if not groups:
        raise UserError(f"{study}: got no results. Legal: those of one point at least.")
    every = [row["settings"] for row in itertools.chain.from_iterable(groups.values())]
    for name in settings:
        found = {str(each.get(name)) for each in every}
        if len(found) > 1:
            raise UserError(
                f"{study}: results with {len(found)} kinds of {name}: {', '.join(sorted(found))}. "
                "Legal: one; measure the others again, or keep another --out."
            )
    return groups


def make_table(groups: Mapping[str, Sequence[Row]], columns: Mapping[str, Column]) -> list[str]:
    """Returns the lines of a Markdown table, one for each name, with means over its seeds."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, group in groups.items():
        cells = []
        for read, form in columns.values():
            mean = mean_of([read(row) for row in group])
            # Of what is the same for every seed, such as a number of parameters, none is shown.
            cells.append(
                form.format(mean.value) + (f" ± {form.format(mean.error)}" if mean.error else "")
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def best(
    groups: Mapping[str, Sequence[Row]], score: str, choose: Callable[..., float] = min
) -> str:
    """Returns the name whose mean score is the least, or with `max` the highest.

    Of several that are equal to four digits, all.
    """
    means = {
        name: mean_of([row["scores"][score] for row in group]).value
        for name, group in groups.items()
    }
    chosen = f"{choose(means.values()):.4g}"
    return " and ".join(name for name, mean in means.items() if f"{mean:.4g}" == chosen)


def about_seeds(groups: Mapping[str, Sequence[Row]]) -> str:
    """Returns what a table's numbers are of, in a sentence."""
    fewest, most = (choose(len(group) for group in groups.values()) for choose in (min, max))
    if most == 1:
        return _ONE_SEED
    return _SEEDS.format(most if fewest == most else f"{fewest} to {most}")


def made_on(groups: Mapping[str, Sequence[Row]]) -> str:
    """Returns the machines and the code that a table's numbers are of, in a sentence."""
    every = [row["made_by"] for group in groups.values() for row in group]
    found = {
        f"{x['device']} ({x['devices']}) with JAX {x['jax']}, {x['date']}, code {x['code_sha256']}"
        for x in every
    }
    return f"Made on {'; '.join(sorted(found))}."


def fill_page(page: Path, size: str, text: str | None) -> None:
    """Puts a table between a page's marks of a size; None only looks for them.

    Raises:
      UserError: the page has none.
    """
    begin, end = f"<!-- results of {size} -->\n", f"<!-- end of {size} -->"
    before, found, rest = page.read_text().partition(begin)
    _, ends, after = rest.partition(end)
    if not found or not ends:
        raise UserError(
            f"{page}: has no marks of the size {size}. Legal: {begin.strip()} and {end}."
        )
    if text is not None:
        page.write_text(f"{before}{begin}{text}{end}{after}")
