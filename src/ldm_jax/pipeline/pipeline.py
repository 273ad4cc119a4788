"""A model on disk, ready to draw."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, check_shape
from ldm_jax.core.compilation_cache import keep_compiled_programs
from ldm_jax.core.types import PyTree
from ldm_jax.parallel.mesh import batch_shards, make_mesh
from ldm_jax.parallel.sharding import on_host, placed
from ldm_jax.pipeline.arguments import STEERING, Arguments
from ldm_jax.pipeline.canvas import as_images, as_masks, as_rows
from ldm_jax.pipeline.checks import check_arguments, check_names, check_whole
from ldm_jax.pipeline.conditions import ConditionReader, as_image_and_mask
from ldm_jax.pipeline.generation import Generation, Runs, finished
from ldm_jax.pipeline.guides import ClassifierGuide
from ldm_jax.pipeline.planning import image_count, make_options, make_plan, make_request
from ldm_jax.pipeline.request import Plan, Request
from ldm_jax.samplers.ddim_inversion import ddim_inversion
from ldm_jax.tasks.base import Task
from ldm_jax.tasks.guided import Options
from ldm_jax.tasks.latent_classifier import LatentClassifierTask
from ldm_jax.tasks.latent_diffusion import MASKED_IMAGE, LatentDiffusionTask
from ldm_jax.tasks.latent_task import LatentTask
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.checkpoint import is_workdir, read_config, restore_params
from ldm_jax.train.condition_checks import check_tokenizer
from ldm_jax.train.exchange import open_model, read_model_config
from ldm_jax.train.fingerprint import diffusion_hash
from ldm_jax.train.frozen import restore_run_frozen
from ldm_jax.train.load import load_classifier, load_diffusion
from ldm_jax.train.preflight import check_sampling
from ldm_jax.train.sampling import Programs, bucket_size, buckets


class Pipeline:
    """Samples from a latent diffusion model with its own first stage and tokenizer.

    Attributes:
      config: of the model; `config.sample` holds the defaults of sampling.
      task: built from it.
      mesh: that the parameters lie on.
      step: of the training run; 0 for imported weights.
      notes: how what was read differs from what its files say, a line each.
      source: where it was read.
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
        source: str | Path | None = None,
    ):
        """Takes what `from_checkpoint` finds; `params` and `frozen` are laid out over `mesh`."""
        keep_compiled_programs()
        self.config, self.task, self.mesh, self.step = config, task, mesh, step
        self.notes, self.source = tuple(notes), source
        self._params, self._frozen = params, frozen
        tokenizer = assemble_data.build_tokenizer(config)
        check_tokenizer(task, tokenizer)
        self._reader = ConditionReader(task, tokenizer)
        self._programs: dict[Options, Programs] = {}
        self._fingerprint: str | None = None

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        config: ConfigDict | None = None,
        tokenizer: str | Path | None = None,
        ema: bool = True,
        dtype: str | None = None,
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
          dtype: of the computation, such as 'bfloat16' on accelerators; by default the model's.
          mesh: by default all devices along `data`.

        Raises:
          UserError: no diffusion model, nothing trained yet, or tensors that do not fit.
        """
        mesh = make_mesh() if mesh is None else mesh
        path = Path(path).expanduser()
        if dtype is not None:
            read = read_config if is_workdir(path) else partial(read_model_config, ema=ema)
            config = (read(path) if config is None else config).copy_and_resolve_references()
            assemble.set_dtype(config, dtype)
        if not is_workdir(path):
            return cls._from_weights(path, config, tokenizer, ema, mesh)
        config = read_config(path) if config is None else config
        check_sampling(config, None)
        task = _diffusion(path, assemble.build_task(config))
        spec = assemble_data.batch_spec(config, task, 1)
        params, _ = jax.eval_shape(lambda: task.init(jax.random.key(0), spec))
        params, step = restore_params(path, placed(mesh, params), ema=ema)
        frozen = restore_run_frozen(config, task, path, mesh, for_training=False)
        return cls(config, task, params, frozen, mesh, step, source=path)

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
            return cls(
                model.config, task, params, frozen, mesh, step=0, notes=model.notes, source=path
            )

    def __call__(
        self,
        prompts: str | Sequence[str] | None = None,
        *,
        progress: Callable[[int], object] | None = None,
        callback: Callable[[Generation], object] | None = None,
        callback_every: int = 5,
        **arguments: Unpack[Arguments],
    ) -> np.ndarray:
        """Returns images [n, H, W, C].

        Image k of the result is a function of (seed, first_index + k) and of its own condition. Its
        noise does not change with the number of images or devices; nor do its pixels, to the bit
        while buckets have the same size, and else but for rounding.

        Args:
          prompts: one text, or one per image, for models that read text.
          progress: called with the number of images finished, after each bucket.
          callback: called with the `Generation` between pieces of `callback_every` rows, which it
            may look at (`preview`) and steer (`change`).
          callback_every: rows of the sampler's table in a piece.
          **arguments: see `pipeline.arguments.Arguments`.

        Raises:
          UserError: the condition is missing or of the wrong kind, or an argument is illegal.
        """
        check_whole("callback_every", callback_every)
        found: list[np.ndarray] = []
        generations = self.stream(prompts, **arguments)
        if progress is not None:
            progress(0)  # the first bucket compiles: let a bar show that it has begun
        for generation in generations if callback else finished(generations):
            while callback is not None and not generation.done:
                generation.advance(callback_every)
                if not generation.done:
                    callback(generation)
            found.append(generation.images())
            if progress is not None:
                progress(generation.count)
        return np.concatenate(found)

    def stream(
        self, prompts: str | Sequence[str] | None = None, **arguments: Unpack[Arguments]
    ) -> Runs:
        """Returns the buckets of a run one by one, each not yet drawn; arguments as for a call.

        What is wrong with the arguments is raised at once.
        """
        check_names(tuple(arguments), tuple(Arguments.__annotations__))
        given: Any = as_image_and_mask(self.task, arguments)
        check_arguments(given)
        plan = make_plan(self.config, self.task, given)
        request = self._request(prompts, given, plan)
        programs = self._compiled(make_options(self.task, given), plan.image_shape)

        def remake(**changes: Any) -> Request:
            check_names(tuple(changes), ("prompts", *STEERING))
            new: Any = {**given, **as_image_and_mask(self.task, changes)}
            words = new.pop("prompts", prompts)
            check_arguments(new)
            again = self._request(words, new, plan, steering=request.scale is not None)
            if len(again) != len(request):
                raise UserError(
                    f"change: got {len(again)} prompts for {len(request)} images. Legal: as many."
                )
            return again

        def generations() -> Iterator[Generation]:
            places = self._places(len(request))
            for number, (rows, count) in enumerate(places, start=1):
                yield Generation(
                    programs,
                    (self._params, self._frozen, given.get("guide_params")),
                    request.take(rows),
                    plan,
                    count=count,
                    last=number == len(places),
                    as_uint8=given.get("output", "uint8") == "uint8",
                    remake=lambda rows=rows, **changes: remake(**changes).take(rows),
                )

        return Runs(len(request), plan.image_shape, generations())

    def start(
        self, prompts: str | Sequence[str] | None = None, **arguments: Unpack[Arguments]
    ) -> Generation:
        """Returns a run that has not begun, to advance, look at and steer step by step.

        Raises:
          UserError: more images than a bucket holds, or as for a call.
        """
        runs = self.stream(prompts, **arguments)
        first = next(runs)
        if not first.last:
            raise UserError(
                f"start: got more images than one bucket holds. Legal: up to {first.count}, or a "
                "larger config.sample.per_device_batch."
            )
        return first

    def invert(
        self,
        images: np.ndarray,
        prompts: str | Sequence[str] | None = None,
        *,
        refinements: int = 2,
        **arguments: Unpack[Arguments],
    ) -> np.ndarray:
        """Returns the noise [n, h, w, c] that DDIM makes these images of: DDIM inversion.

        Give it back as `latents`, with sampler='ddim' and the same prompt, steps and spacing, to
        get the images again, or with another prompt to edit them. Guidance is off unless asked for:
        with it the way back is less exact.

        Args:
          images: uint8 [H, W, C] or several.
          prompts: one text, or one per image, for models that read text.
          refinements: see `samplers.ddim_inversion`; evaluations per step less one.
          **arguments: those of a call that speak of condition, steps, spacing and guidance.
        """
        legal = ("classes", "conditions", "num_images", "negative", "steps", "spacing", "tile")
        check_names(tuple(arguments), (*legal, "guidance_scale", "image_shape"))
        check_whole("refinements", refinements, 0)
        arguments = {"guidance_scale": 1.0, **arguments}
        whole: Any = {**arguments, "image": images, "strength": 1.0, "sampler": "ddim"}
        check_arguments(whole)
        plan = make_plan(self.config, self.task, whole)
        rows = ddim_inversion(plan.levels, refinements)
        request = self._request(prompts, whole, plan)
        programs = self._compiled(Options(tile=arguments.get("tile")), plan.image_shape)
        found = []
        for taken, count in self._places(len(request)):
            run = Generation(
                programs,
                (self._params, self._frozen, None),
                request.take(taken),
                Plan(plan.levels, rows, plan.image_shape, noisy=False),
                count=count,
            )
            run.advance()
            found.append(run.latents())
        return np.concatenate(found)

    def reconstruct(self, images: np.ndarray, *, tile: int | None = None) -> np.ndarray:
        """Returns what the first stage makes of images: uint8 [n, H, W, C], encoded and decoded.

        It bounds what any sample of this model can look like.

        Args:
          images: uint8 [H, W, C] or several, of a size that the first stage can divide.
          tile: edge in pixels of the tiles, where an image is too large for the memory.
        """
        return self.decode(self.encode(images, tile=tile), tile=tile)

    def encode(self, images: np.ndarray, *, tile: int | None = None) -> np.ndarray:
        """Returns the scaled latents [n, h, w, c] of images: the mode of each posterior.

        Args:
          images: uint8 [H, W, C] or several, of a size that the first stage can divide.
          tile: as in `reconstruct`.
        """
        stage = self.task.first_stage
        images = np.asarray(images)
        size = images.shape[1:3] if images.ndim == 4 else images.shape[:2]
        images = as_images("images", images, (size[0], size[1]), stage.model.image_channels)
        stage.latent_shape(*size)
        programs, found = self._compiled(Options(tile=tile), (size[0], size[1])), []
        for rows, count in self._places(len(images)):
            pixels = programs.put_rows(images[rows].astype(np.float32) / 127.5 - 1)
            found.append(on_host(programs.encode(self._frozen, pixels))[:count])
        return np.concatenate(found)

    def decode(self, latents: np.ndarray, *, tile: int | None = None) -> np.ndarray:
        """Returns the images, uint8 [n, H, W, C], of scaled latents [n, h, w, c].

        Args:
          latents: as `encode` gives them, clean or noisy.
          tile: as in `reconstruct`.
        """
        model, latents = self.task.first_stage.model, np.asarray(latents, np.float32)
        check_shape("latents", latents.shape, (None, None, None, model.latent_channels))
        height, width = (side * model.downsampling_factor for side in latents.shape[1:3])
        programs, found = self._compiled(Options(tile=tile), (height, width)), []
        for rows, count in self._places(len(latents)):
            z = programs.put_rows(latents[rows])
            found.append(np.asarray(programs.decode(True, self._frozen, z)[0])[:count])
        return np.concatenate(found)

    def load_classifier(self, path: str | Path) -> ClassifierGuide:
        """Returns a classifier of this model's noisy latents, to guide with.

        Args:
          path: the workdir of a run of a `latent_classifier`.

        Raises:
          UserError: no classifier, or one of other latents or another noise than this model's.
        """
        assert self.source is not None
        with open_model(Path(path).expanduser()) as model, open_model(self.source) as guided:
            params = load_classifier(model, self.mesh, guided)
            assert isinstance(model.task, LatentClassifierTask)
            return ClassifierGuide(model.task, params)

    @property
    def weights(self) -> tuple[PyTree, PyTree]:
        """The parameters of the model, and what is frozen, laid out over the mesh."""
        return self._params, self._frozen

    def fingerprint(self) -> str:
        """Returns the sha256 of the parameters of model, conditioner and first stage, in hex."""
        if self._fingerprint is None:
            self._fingerprint = diffusion_hash(self._params, self._frozen)
        return self._fingerprint

    def _request(
        self, prompts: Any, arguments: Arguments, plan: Plan, *, steering: bool = False
    ) -> Request:
        masked = arguments.get("mask") is not None
        to_inpaint = self._reader.reads == (MASKED_IMAGE,) and masked
        if to_inpaint and arguments.get("conditions") is None:
            arguments = {**arguments, "conditions": self._image_and_mask(arguments, plan)}
        cut_before = len(self._reader.cut)
        request = make_request(
            self.config, self.task, self._reader, prompts, arguments, plan, steering=steering
        )
        cut = len(self._reader.cut) - cut_before  # each text is spoken of once
        if cut:
            length = self.config.data.tokenizer.length
            logging.warning("prompts longer than %d tokens are cut there: %d", length, cut)
        return dataclasses.replace(request, keeps=not to_inpaint)

    def _image_and_mask(self, arguments: Arguments, plan: Plan) -> dict[str, np.ndarray]:
        """Returns what the conditioning of inpainting models is made of."""
        channels = self.task.first_stage.model.image_channels
        images = as_images("image", arguments["image"], plan.image_shape, channels)
        masks = as_masks("mask", arguments["mask"], plan.image_shape)
        count = max(len(images), len(masks), image_count(arguments) or 1)
        return {"image": as_rows(images, count), "mask": as_rows(masks, count)}

    def _places(self, count: int) -> list[tuple[np.ndarray, int]]:
        """Returns the rows of each bucket of `count` images, and how many of them are wanted."""
        largest = self.config.sample.per_device_batch
        size = bucket_size(count, batch_shards(self.mesh), largest)
        places = enumerate(buckets(count, size))
        return [(rows, min(size, count - number * size)) for number, rows in places]

    def _compiled(self, options: Options, image_shape: tuple[int, int]) -> Programs:
        self.task.first_stage.check_tile(options.tile)
        if options.tile is not None and max(image_shape) <= options.tile:
            options = dataclasses.replace(options, tile=None)
        if options not in self._programs:
            decode_batch = self.config.sample.decode_batch
            self._programs[options] = Programs(
                self.task, self.mesh, options, decode_batch=decode_batch
            )
        return self._programs[options]


def _diffusion(path: str | Path, task: Task) -> LatentDiffusionTask:
    if not isinstance(task, LatentDiffusionTask):
        what = "a classifier" if isinstance(task, LatentTask) else "a first stage"
        raise UserError(f"{path}: holds {what} alone; sampling needs latent_diffusion.")
    return task
