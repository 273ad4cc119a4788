"""Small drawings of the page: the bar of progress, and the tree of branches."""

import html

from ldm_jax.studio.session import Glance
from ldm_jax.studio.tree import Tree

_LANE, _LEFT, _TOP = 26, 16, 16
_WIDTH = 320


def progress_bar(glance: Glance | None, note: str = "") -> str:
    """Returns a bar, with the seconds that are left, as HTML."""
    if glance is None:
        return _bar(0, note)
    said = f"step {glance.row} of {glance.total}"
    if glance.done:
        said = f"done, {glance.total} steps"
    elif glance.paused:
        said += ", paused"
    elif glance.seconds_left is not None:
        said += f", {glance.seconds_left:.0f} s left"
    share = glance.row / max(glance.total, 1)
    return _bar(share, " · ".join(x for x in (said, note) if x))


def _bar(share: float, said: str) -> str:
    text = f'<p class="said">{html.escape(said)}</p>'
    return f'<div class="bar"><i style="width:{100 * share:.1f}%"></i></div>{text}'


def tree_picture(tree: Tree | None) -> str:
    """Returns the branches of a run, one below the other, as SVG whose dots can be clicked.

    A dot has `data-branch` and `data-row`: a row that was kept. A ring is the present place, a
    square one where something was changed.
    """
    if tree is None:
        return '<p class="said">Branches of a run appear here.</p>'
    # Copies: a run under way adds to them.
    branches = list(tree.branches)
    height = _TOP * 2 + _LANE * (len(branches) - 1)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH + 2 * _LEFT} {height}" role="img" '
        'aria-label="branches of this run">'
    ]
    for number, branch in enumerate(branches):
        y = _y(number)
        left, right = _x(tree, branch.start), _x(tree, branch.tip)
        if branch.parent is not None:
            above = _y(branch.parent)
            parts.append(f'<path d="M{left} {above} V{y}"/>')
        present = " class='now'" if number == tree.branch else ""
        parts.append(f'<path{present} d="M{left} {y} H{right}"/>')
    for number, branch in enumerate(branches):
        told = {row for row, _ in branch.settings[1:]} | ({branch.start} if number else set())
        for row in list(branch.kept):
            parts.append(_dot(tree, number, row, told))
    x, y = _x(tree, tree.row), _y(tree.branch)
    parts.append(f'<circle class="here" cx="{x}" cy="{y}" r="7"/></svg>')
    return "".join(parts)


def _dot(tree: Tree, number: int, row: int, told: set[int]) -> str:
    x, y = _x(tree, row), _y(number)
    title = f"<title>branch {number + 1}, step {row}</title>"
    data = f'class="dot" tabindex="0" data-branch="{number}" data-row="{row}"'
    if row in told:
        return f'<rect {data} x="{x - 4}" y="{y - 4}" width="8" height="8">{title}</rect>'
    return f'<circle {data} cx="{x}" cy="{y}" r="4">{title}</circle>'


def _x(tree: Tree, row: int) -> float:
    return round(_LEFT + _WIDTH * row / max(tree.total, 1), 1)


def _y(number: int) -> int:
    return _TOP + _LANE * number
