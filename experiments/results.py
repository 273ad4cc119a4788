"""The README's table of results, from the result files that are committed beside it.

python experiments/results.py
Fills the README between its marks; `make results` runs it, and a test holds that it was run.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ldm_jax.sweep.page import fill_page
from ldm_jax.sweep.plots import mean_of
from ldm_jax.sweep.results import Row, by_name, read_rows

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
MARK = "all experiments"


class Result(NamedTuple):
    """A line of the table.

    Attributes:
      what: was measured.
      read: (content of the file) -> what was found, as text.
      controls: likewise, what to hold it against.
    """

    what: str
    read: Callable[[Any], str]
    controls: Callable[[Any], str]


def _task(name: str, what: str, form: str = "{:.3f}") -> Result:
    """Returns the line of a task, whose controls are real images and the better trivial one.

    Distances are kept below zero, so that more is better in all files, and shown above it.
    """

    def read(found: Any) -> str:
        one = found[name]
        error = one["standard_error"]
        return f"{form.format(abs(one['score']))} ± {form.format(error)}"

    def controls(found: Any) -> str:
        one = found[name]
        better = max(one["shuffled"], one["trivial"])
        return f"real {form.format(abs(one['real']))}, trivial {form.format(abs(better))}"

    return Result(what, read, controls)


def _means(rows: Sequence[Row], metric: str | None = None) -> dict[str, float]:
    """Returns a score of every point of a study, by default the first, over its seeds."""
    metric = metric or next(iter(rows[0]["scores"]))
    return {
        name: mean_of([row["scores"][metric] for row in group]).value
        for name, group in by_name(rows).items()
    }


def _least(what: str) -> Result:
    """Returns the line of a study: the point with the least distance, and the others."""

    def read(rows: Sequence[Row]) -> str:
        means = _means(rows)
        name = min(means, key=lambda name: means[name])
        return f"{name}: {means[name]:.1f}"

    def controls(rows: Sequence[Row]) -> str:
        means = sorted(_means(rows).items(), key=lambda item: item[1])
        return ", ".join(f"{name} {mean:.1f}" for name, mean in means[1:])

    what = f"Fashion-MNIST, {what}, one seed: Fréchet distance by a classifier's features"
    return Result(what, read, controls)


def _ratio(rows: Sequence[Row], what: str) -> float:
    """Returns how many times as many images a second latents make as pixels."""
    means = _means(rows, f"{what} images/s")
    return means["LDM-4"] / means["LDM-1"]


def _share(found: Any) -> str:
    return f"{found['score']:.3f} ± {found['standard_error']:.3f}"


RESULTS = {
    "quickstart/results.json": (
        Result(
            "shapes by caption: colour, shape and position right (`make quickstart`)",
            lambda found: f"{found['caption_accuracy']:.3f}",
            lambda found: (
                f"real {found['real_image_accuracy']:.3f}, trivial "
                f"{found['shuffled_caption_accuracy']:.3f}"
            ),
        ),
    ),
    "tasks/results.json": (
        _task("class", "shapes by class: right colour and shape"),
        _task("two_objects", "shapes by caption: two objects, places and relation right"),
        _task("layout", "shapes by layout: mean IoU of boxes"),
        _task("semantic", "shapes by label map: mean IoU"),
        _task("super_resolution", "shapes, super-resolution ×4: PSNR, dB", "{:.2f}"),
        _task("inpainting", "shapes, inpainting: LPIPS of what was hidden", "{:.4f}"),
        _task("retrieval", "shapes by retrieved neighbours: attribute followed"),
        _task("variations", "shapes, variations of an image: colour and shape kept"),
        _task("unconditional", "shapes without a condition: one known object"),
    ),
    "fashion_mnist/results.json": (
        Result(
            "Fashion-MNIST by class: a classifier names it",
            lambda found: f"{found['requested_class_named']:.3f}",
            lambda found: f"real {found['classifier_accuracy_on_real_test_images']:.3f}",
        ),
    ),
    "fashion_mnist/captions.json": (
        Result(
            "Fashion-MNIST by caption, frozen text encoder: a classifier names it",
            lambda found: _share(found["training captions"]),
            lambda found: (
                f"real {found['classifier_accuracy_on_real_test_images']:.3f}, trivial "
                f"{max(found['training captions'][x] for x in ('shuffled', 'one_class')):.3f}"
            ),
        ),
    ),
    "compression/results.jsonl": (_least("the best factor at equal training compute"),),
    "kl_or_vq/results.jsonl": (_least("the best regularisation of the first stage"),),
    "latent_scale/results.jsonl": (_least("the best deviation of the latents"),),
    "guidance/results.jsonl": (_least("the best scale of guidance"),),
    "parameterization/results.jsonl": (_least("the best target and schedule"),),
    "samplers/results.jsonl": (_least("the best sampler with 50 steps"),),
    "conditioning/results.jsonl": (
        Result(
            "shapes, a label map concatenated, one seed: mean IoU",
            lambda rows: f"{_means(rows)['map-concat']:.3f}",
            lambda rows: f"by cross-attention {_means(rows)['map-attention']:.3f}",
        ),
        Result(
            "shapes, a class by cross-attention, one seed: right colour and shape",
            lambda rows: f"{_means(rows)['class-attention']:.3f}",
            lambda rows: f"concatenated {_means(rows)['class-concat']:.3f}",
        ),
    ),
    "inpainting_cost/results.jsonl": (
        Result(
            "shapes, inpainting, latents against pixels: images a second, trained and drawn",
            lambda rows: " and ".join(f"{_ratio(rows, x):.1f} ×" for x in ("trained", "drawn")),
            lambda rows: "the paper from 2.9 × and 3.7 ×",
        ),
    ),
    "emoji/results.json": (
        Result(
            "emoji by caption, combinations never seen: category and skin tone right",
            lambda found: (
                f"{found['unseen']['agreement']:.3f} ± {found['unseen']['standard_error']:.3f}"
            ),
            lambda found: (
                f"real {found['unseen']['real']:.3f}, trivial "
                f"{max(found['unseen'][x] for x in ('shuffled', 'trivial')):.3f}"
            ),
        ),
    ),
}


def make_table() -> str:
    """Returns the table as Markdown."""
    lines = ["| what | found | beside it | page |", "|---|---|---|---|"]
    for file, results in RESULTS.items():
        path = HERE / file
        found: Any = read_rows(path) if path.suffix == ".jsonl" else json.loads(path.read_text())
        page = f"experiments/{Path(file).parent}/README.md"
        for what, read, controls in results:
            name = page.split("/")[1]
            lines.append(f"| {what} | {read(found)} | {controls(found)} | [{name}]({page}) |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    fill_page(README, MARK, make_table())
