"""What steers a run of sampling, as inputs of a compiled program, and the `predict` they make."""

import dataclasses
from collections.abc import Callable

import flax.struct

from ldm_jax.core.types import Array, Conditioning, PyTree
from ldm_jax.samplers.base import Predict
from ldm_jax.samplers.constraints import dynamic_threshold, keep_known, on_x0
from ldm_jax.samplers.guidance import classifier_free, regional, restore_deviation
from ldm_jax.samplers.windows import windowed
from ldm_jax.tasks.first_stage import Frozen
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask

# (predict, scaled latents -> images, per-image inputs, parameters) -> predict
Guide = Callable[[Predict, Callable[[Array], Array], PyTree, PyTree], Predict]


@flax.struct.dataclass
class Controls:
    """What may change between two rows of a run; each leaf has a row per image.

    What is None is compiled out: another set of Nones is another program, other values are not.

    Attributes:
      conditionings: of the prompts, one, or several that share the image.
      weights: [b, R, h, w] shares of R > 1 prompts, which sum to 1.
      null: what guidance steers away from; None turns guidance off.
      scale: [b], of the guidance.
      interval: [b, 2], the least and the most noisy timestep with guidance.
      rescale: [b], see `samplers.guidance.restore_deviation`.
      threshold: [b, 2], percentile and limit, see `samplers.constraints.dynamic_threshold`.
      known: [b, h, w, c] scaled latents that the image must keep.
      mask: [b, h, w, 1], 1 where it must.
      guide: inputs of the `Guide`.
    """

    conditionings: tuple[Conditioning, ...]
    weights: Array | None = None
    null: Conditioning | None = None
    scale: Array | None = None
    interval: Array | None = None
    rescale: Array | None = None
    threshold: Array | None = None
    known: Array | None = None
    mask: Array | None = None
    guide: PyTree = None


@dataclasses.dataclass(frozen=True)
class Options:
    """What a compiled program is made for, beside shapes.

    Attributes:
      window: height and width in latent pixels of overlapping windows; None denoises all at once.
      overlap: of neighbouring windows, in latent pixels.
      quantize: the predicted x0 goes through the first stage's codebook at every row.
      tile: edge in pixels of windows that images are encoded and decoded in; None takes them whole.
      guide: further guidance, such as `samplers.guidance.loss_guided`, or a correction of the
        prediction; it stands around classifier-free guidance.
    """

    window: tuple[int, int] | None = None
    overlap: tuple[int, int] = (0, 0)
    quantize: bool = False
    tile: int | None = None
    guide: Guide | None = None


def make_predict(
    task: LatentDiffusionTask,
    params: PyTree,
    frozen: Frozen,
    controls: Controls,
    options: Options,
    guide_params: PyTree = None,
) -> Predict:
    """Returns the model's `predict` with everything around it that controls and options ask for.

    From inside out: windows, classifier-free guidance or regions, the guide, threshold, codebook,
    and the known part last, so that it stays what it is.
    """

    def decode(z: Array) -> Array:
        return task.first_stage.decode(frozen, z, options.tile)

    denoise = task.denoiser(params)
    if options.window is not None:
        denoise = windowed(denoise, options.window, options.overlap)
    predict = _prompted(task, denoise, controls)
    if options.guide is not None:
        predict = options.guide(predict, decode, controls.guide, guide_params)
    changes: list[Callable[[Array], Array]] = []
    if controls.threshold is not None:
        changes.append(dynamic_threshold(controls.threshold[:, 0], controls.threshold[:, 1]))
    if options.quantize:
        changes.append(lambda z: task.first_stage.quantize(frozen, z))
    if controls.known is not None and controls.mask is not None:
        changes.append(keep_known(controls.known, controls.mask))
    for change in changes:
        predict = on_x0(predict, task.schedule, change)
    return predict


def _prompted(task: LatentDiffusionTask, denoise: Callable, controls: Controls) -> Predict:
    if controls.null is None or controls.scale is None:
        return classifier_free(denoise, controls.conditionings[0], None, 1.0)
    rescale = None
    if controls.rescale is not None:
        rescale = restore_deviation(task.schedule, task.parameterization, controls.rescale)
    return regional(
        denoise,
        controls.conditionings,
        controls.weights,
        controls.null,
        controls.scale,
        interval=controls.interval,
        rescale=rescale,
    )
