"""Pictures of a run: how it came out of noise, its latents, and where a word was looked at."""

import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.inspection.attention import AttentionReader, mean_maps, word_maps
from ldm_jax.inspection.latents import channel_rows
from ldm_jax.inspection.noising import spread
from ldm_jax.inspection.sheet import Cell, heat_over, sheet
from ldm_jax.inspection.words import word_tokens
from ldm_jax.pipeline import Generation, Pipeline
from ldm_jax.studio.reading import TEXT, read_from
from ldm_jax.studio.tree import Tree
from ldm_jax.train.assemble_data import build_tokenizer

FRAMES = 8


def strip(tree: Tree, number: int) -> np.ndarray:
    """Returns x_t and the predicted x0 of an image at the kept rows of its way, uint8 [H, W, 3]."""
    runs = _some(tree)
    labels = [f"step {run.row}" for run in runs]
    noisy = [Cell(run.noisy()[number], label) for run, label in zip(runs, labels, strict=True)]
    expected = [
        Cell(run.preview()[number] if run.row else run.noisy()[number], f"x0 at {run.row}")
        for run in runs
    ]
    return sheet(
        [f"x_t, and the x0 that is predicted from it, of {tree.total} steps"], [noisy, expected]
    )


def channels(tree: Tree, number: int) -> np.ndarray:
    """Returns the channels of an image's latent at the kept rows of its way, uint8 [H, W, 3]."""
    runs = _some(tree)
    latents = np.stack([run.latents()[number] for run in runs])
    rows, (low, high) = channel_rows(latents, tuple(f"step {run.row}" for run in runs))
    return sheet([f"latent channels, black {low:.2f}, white {high:.2f}"], rows)


def words(pipeline: Pipeline, prompt: str) -> list[str]:
    """Returns the words of a prompt that have a map; none where the model reads no text."""
    if read_from(pipeline).kind != TEXT or not prompt.strip():
        return []
    return [word for word, _ in word_tokens(build_tokenizer(pipeline.config), prompt)]


def attention(
    pipeline: Pipeline, reader: AttentionReader, tree: Tree, number: int, word: int
) -> np.ndarray:
    """Returns an image under the map of a word of its present prompt, uint8 [H, W, 3].

    Args:
      pipeline: the model.
      reader: of its attention.
      tree: whose present run is looked at, at the kept rows of its way.
      number: of the image.
      word: number of the word.

    Raises:
      UserError: no such word, or a model without cross-attention.
    """
    found = word_tokens(build_tokenizer(pipeline.config), tree.settings.prompt)
    if not 0 <= word < len(found):
        raise UserError(f"word {word}: legal is 0 to {len(found) - 1}.")
    if not tree.row:
        raise UserError("attention: nothing is drawn yet. Legal: after the first steps.")
    runs = [run for run in _some(tree) if run.row and _same_prompt(run, tree.run)]
    maps = mean_maps([reader(run, number) for run in runs])
    name, tokens = found[word]
    image = tree.run.preview()[number]
    latent = pipeline.task.first_stage.latent_shape(*image.shape[:2])[:2]
    shown = {places: word_maps(values, tokens, latent) for places, values in maps.items()}
    cells = [Cell(image, "image")]
    for _, values in sorted(shown.items(), reverse=True):
        high = float(values.max())
        height, width = values.shape
        cells.append(Cell(heat_over(image, values, high), f"{height} x {width}: {high:.3f}"))
    return sheet([f"where the network looks at {name!r}, and its largest probability"], [cells])


def _same_prompt(run: Generation, other: Generation) -> bool:
    """Returns whether two runs were told the same words, of which alone there can be a mean."""
    return all((x == other.request.inputs[name]).all() for name, x in run.request.inputs.items())


def _some(tree: Tree) -> list[Generation]:
    """Returns up to FRAMES of the runs on the way, evenly spread, the present one among them."""
    path = tree.path()
    return [path[k] for k in spread(len(path), FRAMES)]
