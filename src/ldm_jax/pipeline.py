"""The Python door: a model in, images out.

pipeline = Pipeline.from_checkpoint("runs/shapes")
images = pipeline(["a large red circle at the top left"], seed=1)
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, check_in, check_shape
from ldm_jax.core.types import PyTree
from ldm_jax.parallel.mesh import make_mesh
from ldm_jax.parallel.sharding import placed
from ldm_jax.tasks.base import Task
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train import assemble
from ldm_jax.train.checkpoint import is_workdir, read_config, restore_params
from ldm_jax.train.exchange import load_diffusion, open_model
from ldm_jax.train.frozen import restore_run_frozen
from ldm_jax.train.preflight import check_sampling
from ldm_jax.train.sampling import make_sample_fn


class Pipeline:
    """Samples from a latent diffusion model with its own first stage and tokenizer.

    Attributes:
      config: of the model.
      task: built from it.
      mesh: that the parameters lie on.
      step: of the training run; 0 for imported weights.
      notes: how what was read differs from what its files say, a line each.
    """

    def __init__(
        self,
        config: ConfigDict,
        task: LatentDiffusionTask,
        params: PyTree,
        frozen: PyTree,
        mesh: Mesh,
        step: int,
        notes: Sequence[str] = (),
    ):
        """Takes what `from_checkpoint` finds; `params` and `frozen` are laid out over `mesh`."""
        self.config, self.task, self.mesh, self.step = config, task, mesh, step
        self.notes = tuple(notes)
        self._params, self._frozen = params, frozen
        self._tokenizer = assemble.build_tokenizer(config)
        assemble.check_tokenizer(task, self._tokenizer)
        self._compiled: dict[str, Callable[..., np.ndarray]] = {}

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        config: ConfigDict | None = None,
        tokenizer: str | Path | None = None,
        ema: bool = True,
        mesh: Mesh | None = None,
    ) -> "Pipeline":
        """Returns a model on disk, ready to sample.

        Args:
          path: the workdir of `ldm-jax train`, whose newest checkpoint is taken; or a folder of
            `ldm-jax convert`, a diffusers folder, or a CompVis file.
          config: replaces the model's own, for other `sample` settings, or where a CompVis file
            does not tell.
          tokenizer: folder of a Hugging Face tokenizer, where the model has none with it.
          ema: the averaged parameters (usual) or the raw ones.
          mesh: by default all devices along `data`.

        Raises:
          UserError: no diffusion model, nothing trained yet, or tensors that do not fit.
        """
        mesh = make_mesh() if mesh is None else mesh
        path = Path(path).expanduser()
        if not is_workdir(path):
            return cls._from_weights(path, config, tokenizer, ema, mesh)
        config = read_config(path) if config is None else config
        check_sampling(config, None)
        task = _diffusion(path, assemble.build_task(config))
        spec = assemble.batch_spec(config, task, 1)
        params, _ = jax.eval_shape(lambda: task.init(jax.random.key(0), spec))
        params, step = restore_params(path, placed(mesh, params), ema=ema)
        frozen = restore_run_frozen(config, task, path, mesh, for_training=False)
        return cls(config, task, params, frozen, mesh, step)

    @classmethod
    def _from_weights(
        cls,
        path: str | Path,
        config: ConfigDict | None,
        tokenizer: str | Path | None,
        ema: bool,
        mesh: Mesh,
    ) -> "Pipeline":
        with open_model(path, config=config, tokenizer=tokenizer, ema=ema) as model:
            model.check()
            task = _diffusion(path, model.task)
            check_sampling(model.config, None)
            params, frozen = load_diffusion(model, mesh)
            return cls(model.config, task, params, frozen, mesh, step=0, notes=model.notes)

    def __call__(
        self,
        prompts: Sequence[str] | None = None,
        *,
        classes: Sequence[int] | None = None,
        conditions: Mapping[str, np.ndarray] | None = None,
        num_images: int | None = None,
        seed: int = 0,
        first_index: int = 0,
        image_shape: tuple[int, int] | None = None,
        latents: np.ndarray | None = None,
        output: str = "uint8",
        progress: Callable[[int], object] | None = None,
    ) -> np.ndarray:
        """Returns images [n, H, W, C].

        Image k of the result is a function of (seed, first_index + k) and its own condition: it
        does not change with the number of images or devices.

        Args:
          prompts: one per image, for models that read text.
          classes: one per image, for models that read a class.
          conditions: for models that read something else, such as low-resolution images: the
            conditioner's inputs by name, a row per image.
          num_images: for unconditional models; otherwise repeats a single prompt or class.
          seed: of the noise.
          first_index: number of the first image.
          image_shape: (H, W) in pixels, by default the training size.
          latents: [n, h, w, c] standard normal noise to start from, instead of that of the seed.
          output: 'uint8', or 'float32' for values about [-1, 1] that are not clipped.
          progress: called with the number of images finished, after each bucket.

        Raises:
          UserError: the condition is missing, of the wrong kind, or the size is illegal.
        """
        if not 0 <= seed < 2**32:
            raise UserError(f"seed={seed}: legal is 0 to 2^32 - 1.")
        if isinstance(prompts, str):
            raise UserError(f"prompts: got one text. Legal: a list, such as [{prompts!r}].")
        check_in("output", output, ("uint8", "float32"))
        batch, count = self._inputs(prompts, classes, conditions, num_images)
        if image_shape is not None:
            assemble.check_image_size(self.task, *image_shape)
        if latents is not None:
            size = self.task.image_size
            shape = self.task.first_stage.latent_shape(*(image_shape or (size, size)))
            check_shape("latents", np.shape(latents), (count, *shape))
            latents = np.asarray(latents, np.float32)
        indices = first_index + np.arange(count)
        draw = self._draw_fn(image_shape, output)
        return draw(self._params, self._frozen, batch, seed, indices, progress, latents)

    def _draw_fn(
        self, image_shape: tuple[int, int] | None, output: str
    ) -> Callable[..., np.ndarray]:
        key = f"{self.config.sample.to_json_best_effort(sort_keys=True)}{image_shape}{output}"
        if key not in self._compiled:
            self._compiled[key] = make_sample_fn(
                self.task,
                assemble.build_sample_settings(self.config, self.task),
                self.mesh,
                per_device_batch=self.config.sample.per_device_batch,
                image_shape=image_shape,
                as_uint8=output == "uint8",
            )
        return self._compiled[key]

    def _inputs(
        self, prompts, classes, conditions, num_images
    ) -> tuple[dict[str, np.ndarray], int]:
        given: dict[str, Sequence[Any] | None] = {"tokens": prompts, "class": classes}
        words = {"tokens": "prompts", "class": "classes"}
        reads = self.task.conditioner.inputs
        for name, values in given.items():
            if values is not None and name not in reads:
                raise UserError(
                    f"{words[name]}: given, but this model's conditioner reads "
                    f"{', '.join(words.get(r, r) for r in reads) or 'nothing'}."
                )
        if not reads:
            return {}, _count(num_images if num_images is not None else 1)
        if reads[0] not in given:
            return self._other_inputs(reads, conditions)
        values = given.get(reads[0])
        if values is None or not len(values):
            raise UserError(f"{words[reads[0]]}: this model needs at least one.")
        if num_images is not None and len(values) == 1:
            values = list(values) * _count(num_images)
        if num_images not in (None, len(values)):
            raise UserError(
                f"num_images={num_images}: got {len(values)} {words[reads[0]]}, one image each. "
                "Legal: num_images with one of them."
            )
        if reads[0] == "tokens":
            rows = np.stack([self._tokenizer(text) for text in values])
        else:
            rows = np.asarray(self._checked_classes(values), np.int32)
        return {reads[0]: rows}, len(rows)

    def _other_inputs(
        self, reads: tuple[str, ...], conditions: Mapping[str, np.ndarray] | None
    ) -> tuple[dict[str, np.ndarray], int]:
        found = {} if conditions is None else {k: np.asarray(v) for k, v in conditions.items()}
        counts = {len(value) for value in found.values()}
        if set(found) != set(reads) or len(counts) != 1:
            raise UserError(
                f"conditions: this model's conditioner reads {', '.join(reads)}; got "
                f"{', '.join(found) or 'nothing'}. Legal: these names, with one row per image each."
            )
        return found, counts.pop()

    def _checked_classes(self, classes: Sequence[int]) -> Sequence[int]:
        limit = self.task.conditioner.num_classes
        for label in classes:
            if label != int(label) or not 0 <= label < limit:
                raise UserError(f"class {label}: legal is 0 to {limit - 1}.")
        return classes


def _diffusion(path: str | Path, task: Task) -> LatentDiffusionTask:
    if not isinstance(task, LatentDiffusionTask):
        raise UserError(f"{path}: holds a first stage alone; sampling needs latent_diffusion.")
    return task


def _count(num_images: int) -> int:
    if num_images < 1:
        raise UserError(f"num_images={num_images}: legal is 1 or more.")
    return num_images
