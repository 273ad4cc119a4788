"""Means over seeds, and pictures of them."""

import builtins
import math

import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.sweep.plots import Panel, mean_of, save_plot

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install ldm-jax[plot]")


def test_the_error_is_that_of_the_mean():
    mean = mean_of([1.0, 2.0, 6.0])
    assert mean.value == 3.0
    # Deviations -2, -1, 3: squares 14, over n - 1 = 2, over n = 3.
    assert mean.error == pytest.approx(math.sqrt(14 / 2 / 3))


def test_a_single_seed_has_no_error():
    assert mean_of([4]) == (4.0, None)


def test_a_plot_is_a_small_png(tmp_path):
    curves = {"LDM-1": [(10, [3.0, 4.0]), (100, [1.0, 2.0])], "LDM-4": [(20, [2.0])]}
    panels = [Panel("FLOPs", "distance", curves, log_x=True), Panel("images/s", "distance", curves)]
    path = tmp_path / "deep" / "quality.png"
    save_plot(path, panels)
    with Image.open(path) as image:
        assert image.size == (720, 256)
    assert path.stat().st_size < 60_000


def test_bars_are_drawn_where_there_are_seeds(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = {}
    monkeypatch.setattr(Axes, "legend", lambda self, **_: None)
    original = Axes.errorbar

    def errorbar(self, x, y, *, yerr, label, **kwargs):
        drawn[label] = (x, y, yerr)
        return original(self, x, y, yerr=yerr, **kwargs)

    monkeypatch.setattr(Axes, "errorbar", errorbar)
    curves = {"three": [(1, [1.0, 2.0, 3.0])], "one": [(1, [5.0])]}
    save_plot(tmp_path / "a.png", [Panel("x", "y", curves)])
    assert drawn["three"] == ([1], [2.0], [pytest.approx(1 / math.sqrt(3))])
    assert drawn["one"] == ([1], [5.0], None)


def test_without_matplotlib_it_says_what_to_install(tmp_path, monkeypatch):
    original = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError) as told:
        save_plot(tmp_path / "a.png", [Panel("x", "y", {"a": [(1, [1.0])]})])
    assert str(told.value) == (
        'plots: matplotlib is not installed. Legal: pip install "ldm-jax[plot]".'
    )
