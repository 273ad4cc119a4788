"""Opening a model of any layout: a training run, our weights, a diffusers folder, a CompVis file.

All of them become a configuration, the task that it builds, and a way to load one component at a
time. What does not fit is counted before anything is loaded.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.core.defaults import base_config
from ldm_jax.core.types import PyTree
from ldm_jax.interop.compvis import read_compvis
from ldm_jax.interop.compvis_settings import open_question
from ldm_jax.interop.diffusers import is_diffusers, read_diffusers
from ldm_jax.interop.foreign import Account, Foreign, Progress, read_parameters, take_account
from ldm_jax.interop.mapping import Entry, flatten, nest
from ldm_jax.interop.own import LATENT_SCALE, is_own, read_own
from ldm_jax.interop.tensors import TensorInfo, Tensors
from ldm_jax.tasks.autoencoder import FirstStageTask
from ldm_jax.tasks.base import Task
from ldm_jax.tasks.first_stage import LatentScale, fixed_scale
from ldm_jax.tasks.latent_classifier import LatentClassifierTask
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.tasks.latent_task import LatentTask
from ldm_jax.train import assemble, assemble_data
from ldm_jax.train.checkpoint import (
    is_workdir,
    read_config,
    read_frozen_record,
    read_item,
    read_item_infos,
)

LAYOUTS = (
    "a training run's --workdir, a folder written by 'ldm-jax convert', a diffusers folder, or a "
    "CompVis file (.safetensors, .ckpt)"
)
_GROUPS = ("task", "data", "sample")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model on disk.

    Attributes:
      path: where.
      layout: 'workdir', 'ldm_jax', 'diffusers' or 'compvis'.
      config: what it amounts to; its tokenizer has a path if there is one.
      task: built from the configuration.
      abstract: shapes of the parameters, by component.
      infos: shapes and types on disk of the parameters, by component and path; the component's
        usual type for those that were not found.
      read: (component, progress) -> parameters found, NumPy arrays of the types on disk.
      latent_scale: between the first stage's latents and the diffusion model's.
      scale_record: what that was measured on, where it is kept; see `prepare_frozen`.
      accounts: what does not fit, by component.
      strays: tensors that belong to no component.
      tokenizer: its folder, or None.
      notes: what a user should know, a line each.
      close: closes the files.
    """

    path: Path
    layout: str
    config: ConfigDict
    task: Task
    abstract: Mapping[str, PyTree]
    infos: Mapping[str, Mapping[str, TensorInfo]]
    read: Callable[[str, Progress | None], PyTree]
    latent_scale: LatentScale | None
    scale_record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    accounts: Mapping[str, Account] = dataclasses.field(default_factory=dict)
    strays: tuple[str, ...] = ()
    tokenizer: Path | None = None
    notes: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def module(self, component: str) -> Any:
        """Returns the Flax module of a component."""
        return modules_of(self.task)[component]

    def load(self, component: str, progress: Progress | None = None) -> PyTree:
        """Returns all parameters of a component; those not found are drawn as training would."""
        found = flatten(self.read(component, progress))
        wanted = flatten(self.abstract[component])
        if missing := wanted.keys() - found.keys():
            fresh = flatten(self._init(component))
            types = self.infos[component]
            found |= {path: np.asarray(fresh[path]).astype(types[path].dtype) for path in missing}
        return nest({path: found[path] for path in wanted})

    def _init(self, component: str) -> PyTree:
        return jax.jit(_initializers(self.task, self.config)[component])(
            jax.random.key(self.config.seed)
        )

    def check(self) -> None:
        """Raises UserError unless every tensor has its place and every place its tensor."""
        lines = list(self.report())
        if lines:
            more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
            raise UserError(f"{self.path}: {'; '.join(lines[:3])}{more}.")

    def report(self) -> list[str]:
        """Returns a line for every tensor that does not fit."""
        lines = []
        for component, account in self.accounts.items():
            lines += [f"{component}: missing {_shown(name)}" for name in account.missing]
            lines += [f"{component}: unexpected {_shown(name)}" for name in account.unexpected]
            lines += [
                f"{component}: {_shown(name)} has shape {got}, expected {expected}"
                for name, got, expected in account.mismatched
            ]
        return lines + [f"unexpected {_shown(name)}" for name in self.strays]


def _shown(name: str) -> str:
    """Returns a name from a file as it may be printed: on one line, and nothing but text."""
    return name if name.isprintable() else ascii(name)


def read_model_config(path: str | Path, *, ema: bool = True) -> ConfigDict:
    """Returns the configuration that a model on disk amounts to.

    A field that nothing on disk settles is None: `task.parameterization` of Stable Diffusion 2.

    Args:
      path: one of LAYOUTS.
      ema: see `open_model`.

    Raises:
      UserError: nothing that we can read, or too little to know the model by.
    """
    path = Path(path).expanduser()
    if is_workdir(path):
        return read_config(path).lock()
    with _read_foreign(path, None, ema) as foreign:
        config = base_config()
        settings = _plain(foreign.settings)
        config.task, config.data = settings["task"], settings["data"]
        config.sample.update(settings["sample"])
        if foreign.layout == "compvis" and (question := open_question(settings)):
            config.task[question] = None
        return config.lock()


def open_model(
    path: str | Path,
    *,
    config: ConfigDict | None = None,
    tokenizer: str | Path | None = None,
    ema: bool = True,
    for_sampling: bool = True,
) -> Model:
    """Returns a model on disk; nothing but names, shapes and settings is read.

    Args:
      path: one of LAYOUTS.
      config: of the model, by default what `read_model_config` finds.
      tokenizer: folder of a Hugging Face tokenizer, where the model has none with it.
      ema: averaged parameters, where there are both.
      for_sampling: what the network predicts must be known.

    Raises:
      UserError: nothing that we can read, or a configuration that does not build.
    """
    path = Path(path).expanduser()
    config = read_model_config(path, ema=ema) if config is None else config
    config = config.copy_and_resolve_references()
    undecided = config.task.get("parameterization", "") is None
    if for_sampling and undecided and config.task.name == "latent_diffusion":
        raise UserError(
            f"{path}: Stable Diffusion 2's weights do not tell what they predict. Legal: "
            "--config.task.parameterization=eps (the base model) or v (the 768 model)."
        )
    if is_workdir(path):
        return _open_workdir(path, config, ema)
    foreign = _read_foreign(path, config, ema)
    try:
        named = (config.data.get("tokenizer") or {}).get("path")
        found = tokenizer or named or foreign.tokenizer
        found = None if found is None else Path(found).expanduser()
        return _open_foreign(path, foreign, config, found)
    except BaseException:
        foreign.close()
        raise


def modules_of(task: Task) -> dict[str, Any]:
    """Returns a task's modules by component."""
    if isinstance(task, LatentClassifierTask):
        return {"classifier": task.model, "first_stage": task.first_stage.model}
    if not isinstance(task, LatentDiffusionTask):
        return {"first_stage": task.model}
    return {
        "unet": task.model,
        "conditioner": task.conditioner,
        "first_stage": task.first_stage.model,
    }


def _read_foreign(path: Path, config: ConfigDict | None, ema: bool) -> Foreign:
    if path.is_dir():
        if is_own(path):
            return read_own(path)
        if is_diffusers(path):
            return read_diffusers(path)
    elif path.exists():
        settings = None if config is None else {g: config[g].to_dict() for g in _GROUPS}
        return read_compvis(path, settings, ema=ema)
    what = "no such file or folder" if not path.exists() else "no model that we know"
    raise UserError(f"{path}: {what}. Legal: {LAYOUTS}.")


def _plain(value: Any) -> Any:
    """JSON knows no tuples; configurations have no lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def _open_foreign(
    path: Path, foreign: Foreign, config: ConfigDict, tokenizer: Path | None
) -> Model:
    _name_tokenizer(config, tokenizer)
    task = assemble.build_task(config)
    abstract = _abstract(task, config)
    model = Model(path, foreign.layout, config, task, abstract, {}, lambda *_: {}, None)
    entries, infos, accounts = {}, {}, {}
    for name, tree in abstract.items():
        if name not in foreign.components:
            raise UserError(f"{path}: holds no {name}, which {config.task.name} needs.")
        component = foreign.components[name]
        entries[name] = component.entries(model.module(name), tree)
        accounts[name] = take_account(entries[name], component)
        infos[name] = _infos(entries[name], component.tensors)
    extra = tuple(
        f"{name}.{key}"
        for name, component in foreign.components.items()
        if name not in abstract
        for key in component.tensors.keys()
        if not component.unused(key)
    )

    def read(name: str, progress: Progress | None = None) -> PyTree:
        return read_parameters(entries[name], foreign.components[name].tensors, progress)

    return dataclasses.replace(
        model,
        infos=infos,
        read=read,
        latent_scale=_foreign_scale(foreign, config, task),
        scale_record=foreign.scale_record,
        accounts=accounts,
        strays=(*foreign.strays, *extra),
        tokenizer=tokenizer,
        notes=foreign.notes,
        close=foreign.close,
    )


def _infos(entries: Sequence[Entry], tensors: Tensors) -> dict[str, TensorInfo]:
    found = set(tensors.keys())
    known = [tensors.info(entry.theirs).dtype for entry in entries if entry.theirs in found]
    usual = known[0] if known else np.dtype(np.float32)
    infos: dict[str, TensorInfo] = {}
    for entry in entries:
        dtype = tensors.info(entry.theirs).dtype if entry.theirs in found else usual
        infos |= {
            path: TensorInfo(shape, dtype)
            for path, shape in zip(entry.ours, entry.shapes, strict=True)
        }
    return infos


def _name_tokenizer(config: ConfigDict, tokenizer: Path | None) -> None:
    """Writes where the tokenizer is, and its empty caption, into the configuration."""
    settings = config.data.get("tokenizer") or {}
    if tokenizer is None or settings.get("name") != "huggingface":
        return
    with config.unlocked(), config.ignore_type():
        config.data.tokenizer.path = str(tokenizer)
    assemble_data.keep_text(config, assemble_data.build_tokenizer(config))


def _foreign_scale(foreign: Foreign, config: ConfigDict, task: Task) -> LatentScale | None:
    if not isinstance(task, LatentDiffusionTask):
        return None
    tensors = foreign.components["unet"].tensors
    if foreign.layout == "ldm_jax" and set(LATENT_SCALE) <= set(tensors.keys()):
        shift, scale = (jnp.asarray(tensors[name], jnp.float32) for name in LATENT_SCALE)
        return LatentScale(shift, scale)
    factor = config.task.first_stage.get("scale_factor", "auto")
    if isinstance(factor, str) and foreign.scale_factor is not None:
        factor = foreign.scale_factor
    if not isinstance(factor, int | float):
        raise UserError(
            f"config.task.first_stage.scale_factor={factor!r}: imported weights need the number "
            "that they were trained with, such as 0.18215."
        )
    return fixed_scale(task.first_stage.model.latent_channels, float(factor))


def _initializers(task: Task, config: ConfigDict) -> dict[str, Callable[[Any], PyTree]]:
    """Returns, for each component, its parameters as a function of a key."""
    spec = assemble_data.batch_spec(config, task, 1)
    size = config.data.image_size
    if isinstance(task, FirstStageTask):
        return {"first_stage": lambda key: task.init(key, spec)[0]["autoencoder"]}
    if isinstance(task, LatentClassifierTask):
        return {
            "first_stage": lambda key: task.first_stage.init(key, size),
            "classifier": lambda key: task.init(key, spec)[0]["classifier"],
        }
    assert isinstance(task, LatentDiffusionTask)
    return {
        "first_stage": lambda key: task.first_stage.init(key, size),
        "conditioner": task.init_conditioner,
        "unet": lambda key: task.init(key, spec)[0]["unet"],
    }


def _abstract(task: Task, config: ConfigDict) -> dict[str, PyTree]:
    """Returns the shapes of every component that has parameters."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    makers = _initializers(task, config)
    shapes = {name: jax.eval_shape(make, key) for name, make in makers.items()}
    return {name: tree for name, tree in shapes.items() if jax.tree.leaves(tree)}


def _open_workdir(path: Path, config: ConfigDict, ema: bool) -> Model:
    task = assemble.build_task(config)
    trained = "ema_params" if ema else "params"
    if isinstance(task, LatentDiffusionTask):
        places = {
            "first_stage": ("frozen", "params"),
            "conditioner": (trained if task.train_conditioner else "frozen", "conditioner"),
            "unet": (trained, "unet"),
        }
    elif isinstance(task, LatentClassifierTask):
        places = {"first_stage": ("frozen", "params"), "classifier": (trained, "classifier")}
    else:
        places = {"first_stage": (trained, "autoencoder")}
    abstract = _abstract(task, config)
    infos = {name: read_item_infos(path, *places[name]) for name in abstract}

    def read(name: str, progress: Progress | None = None) -> PyTree:
        tree = read_item(path, *places[name], abstract[name])
        if progress is not None:
            progress(sum(x.nbytes for x in jax.tree.leaves(tree)))
        return tree

    scale, record = None, {}
    if isinstance(task, LatentTask):
        vector = jax.ShapeDtypeStruct((task.first_stage.model.latent_channels,), jnp.float32)
        found = read_item(path, "frozen", "latent_scale", {"shift": vector, "scale": vector})
        scale = LatentScale(jnp.asarray(found["shift"]), jnp.asarray(found["scale"]))
        record = read_frozen_record(path)
    tokenizer = config.data.get("tokenizer") or {}
    folder = Path(tokenizer["path"]) if tokenizer.get("path") else None
    return Model(
        path, "workdir", config, task, abstract, infos, read, scale, record, tokenizer=folder
    )
