"""Curves with error bars over seeds, as a small PNG."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ldm_jax.core.checks import UserError

_DPI = 80
_X_CHARACTERS, _Y_CHARACTERS = 46, 32  # of a label that fits along an axis


class Mean(NamedTuple):
    """Mean over seeds, and its standard error; None for a single one, of which nothing is known."""

    value: float
    error: float | None


class Panel(NamedTuple):
    """A pair of axes.

    Attributes:
      x_label: what is on the horizontal axis.
      y_label: likewise.
      curves: by label, of points (x, y over seeds).
      log_x: whether the horizontal axis is logarithmic.
      log_y: likewise.
    """

    x_label: str
    y_label: str
    curves: Mapping[str, Sequence[tuple[float, Sequence[float]]]]
    log_x: bool = False
    log_y: bool = False


def mean_of(values: Sequence[float]) -> Mean:
    """Returns the mean and s / sqrt(n), with s the deviation of a sample (divided by n - 1)."""
    if len(values) < 2:
        return Mean(float(values[0]), None)
    deviation = float(np.std(values, ddof=1))
    return Mean(float(np.mean(values)), deviation / math.sqrt(len(values)))


def save_plot(path: Path, panels: Sequence[Panel]) -> None:
    """Writes panels side by side; bars are one standard error to each side, of two seeds or more.

    Raises:
      UserError: there is no matplotlib.
    """
    figure, axes, ticker = _subplots(len(panels))
    for axis, panel in zip(axes, panels, strict=True):
        for label, points in panel.curves.items():
            means = [mean_of(y) for _, y in points]
            bars = [mean.error for mean in means]
            axis.errorbar(
                [x for x, _ in points],
                [mean.value for mean in means],
                yerr=None if None in bars else bars,
                marker="o",
                markersize=3,
                capsize=2,
                linewidth=1,
                label=label,
            )
        axis.set_xlabel(_broken(panel.x_label, _X_CHARACTERS))
        axis.set_ylabel(_broken(panel.y_label, _Y_CHARACTERS))
        for log, one, set_scale in (
            (panel.log_x, axis.xaxis, axis.set_xscale),
            (panel.log_y, axis.yaxis, axis.set_yscale),
        ):
            if log:
                set_scale("log", subs=())
                one.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                one.set_major_formatter("{x:g}")
        axis.tick_params(which="both", labelsize=7)
        axis.legend(fontsize=7)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI)


def _broken(label: str, width: int) -> str:
    return textwrap.fill(label, width, break_on_hyphens=False)


def _subplots(count: int) -> tuple[Any, Sequence[Any], Any]:
    """Returns a figure, its axes, and matplotlib's module of ticks."""
    try:
        from matplotlib import ticker
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise UserError(
            'plots: matplotlib is not installed. Legal: pip install "ldm-jax[plot]".'
        ) from error
    # Without pyplot, which keeps figures and picks a window system.
    figure = Figure(figsize=(4.5 * count, 3.2))
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, squeeze=False)[0], ticker
