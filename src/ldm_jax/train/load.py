"""Taking the parts of an opened model: onto a mesh, into a run, or to guide another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import PyTree
from ldm_jax.interop.towers import is_tower, read_tower
from ldm_jax.parallel.sharding import placed, put_whole, replicated
from ldm_jax.tasks.base import Task
from ldm_jax.tasks.first_stage import Frozen
from ldm_jax.tasks.latent_classifier import LatentClassifierTask
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.exchange import Model, modules_of, open_model
from ldm_jax.train.fingerprint import check_first_stage, first_stage_hash, module_settings


def load_component(model: Model, component: str, mesh: Mesh) -> PyTree:
    """Returns the parameters of a component, laid out over a mesh; {} if it has none.

    They get the types of the configuration: float32, unless it says otherwise.
    """
    if component not in model.abstract:
        return {}
    return _put(model, component, model.load(component), mesh)


def _put(model: Model, component: str, params: PyTree, mesh: Mesh) -> PyTree:
    return jax.tree.map(
        lambda x, to: put_whole(x.astype(to.dtype), to.sharding),
        params,
        placed(mesh, model.abstract[component]),
    )


def load_diffusion(model: Model, mesh: Mesh) -> tuple[PyTree, Frozen]:
    """Returns the parameters and the frozen parts of a diffusion model, laid out over a mesh."""
    task = model.task
    assert isinstance(task, LatentDiffusionTask)
    params = {name: load_component(model, name, mesh) for name in task.groups["diffusion"]}
    return params, load_frozen(model, mesh, with_conditioner=not task.train_conditioner)


def load_classifier(model: Model, mesh: Mesh, guided: Model) -> PyTree:
    """Returns the parameters of a classifier, for `LatentClassifierTask.log_prob`.

    Args:
      model: a classifier's run.
      mesh: over which they are laid out.
      guided: the diffusion model that it is to guide.

    Raises:
      UserError: no classifier, or one of other latents or another noise than the model's.
    """
    task = model.task
    if not isinstance(task, LatentClassifierTask):
        raise UserError(
            f"{model.path}: holds no classifier. Legal: the --workdir of a run of a "
            "latent_classifier."
        )
    assert isinstance(guided.task, LatentDiffusionTask)
    same = {
        "first stage": _digest(model) == _digest(guided),
        "scale of latents": _same(model.latent_scale, guided.latent_scale),
        "noise schedule": _same(task.schedule, guided.task.schedule),
    }
    for what, agrees in same.items():
        if not agrees:
            raise UserError(
                f"{model.path}: its {what} is not that of {guided.path}. Legal: a classifier "
                f"trained with --config.task.first_stage.workdir={guided.path}."
            )
    return {"classifier": load_component(model, "classifier", mesh)}


def _digest(model: Model) -> str:
    """Returns the hash of a model's first stage, as kept with the scale of its latents."""
    recorded = model.scale_record.get("first_stage")
    if recorded:
        return str(recorded)
    params = model.load("first_stage") if "first_stage" in model.abstract else {}
    return first_stage_hash(model.module("first_stage"), params)


def _same(tree: PyTree, other: PyTree) -> bool:
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def load_frozen(model: Model, mesh: Mesh, *, with_conditioner: bool) -> Frozen:
    """Returns the parts of a diffusion model that a run does not train, laid out over a mesh.

    Raises:
      UserError: the scale of its latents belongs to another first stage.
    """
    assert model.latent_scale is not None
    conditioner = load_component(model, "conditioner", mesh) if with_conditioner else None
    scale = put_whole(model.latent_scale, replicated(mesh))
    params: PyTree = {}
    if "first_stage" in model.abstract:
        params = model.load("first_stage")
    if model.layout in ("workdir", "ldm_jax"):  # the others have no place for a hash
        digest = first_stage_hash(model.module("first_stage"), params)
        check_first_stage(str(model.path), model.scale_record, digest)
    return Frozen(_put(model, "first_stage", params, mesh) if params else {}, scale, conditioner)


def load_conditioner(config: ConfigDict, task: LatentDiffusionTask, mesh: Mesh) -> PyTree:
    """Returns the parameters of the frozen conditioner that `config` names, laid out over a mesh.

    It is that of `config.train.init_from`; or `config.task.conditioner_weights` is a folder of
    transformers, or a model of any layout whose conditioner is the run's.

    Raises:
      UserError: it is neither, or of another conditioner.
    """
    if config.train.init_from:
        with open_start(config, task) as start:
            return load_component(start, "conditioner", mesh)
    abstract = jax.eval_shape(task.init_conditioner, jax.eval_shape(lambda: jax.random.key(0)))
    source = Path(config.task.conditioner_weights).expanduser()
    what = "config.task.conditioner_weights"
    if is_tower(source):
        params = read_tower(what, source, task.conditioner, abstract)
    else:
        with open_model(source, for_sampling=False) as model:
            model.check()
            check_same_components(f"{what}={source}", model, {"conditioner": task.conditioner})
            params = model.load("conditioner")
    return jax.tree.map(
        lambda x, to: put_whole(np.asarray(x).astype(to.dtype), to.sharding),
        params,
        placed(mesh, abstract),
    )


def open_start(config: ConfigDict, task: Task) -> Model:
    """Returns the model that a run starts from, `config.train.init_from`.

    Raises:
      UserError: it is another model than the run's.
    """
    source = Path(config.train.init_from).expanduser()
    # A CompVis file is what the run's configuration says that it is.
    model = open_model(source, config=config if source.is_file() else None, for_sampling=False)
    try:
        model.check()
        check_same_components(f"config.train.init_from={source}", model, modules_of(task))
        theirs, ours = (getattr(t, "parameterization", None) for t in (model.task, task))
        if ours is not None and theirs != ours:
            logging.warning("%s predicts %s; this run learns to predict %s", source, theirs, ours)
    except BaseException:
        model.close()
        raise
    return model


def check_same_components(what: str, model: Model, wanted: Mapping[str, Any]) -> None:
    """Raises UserError unless a model's modules compute what the wanted ones do.

    Args:
      what: the field that named the model.
      model: as found.
      wanted: modules by component.
    """
    found = modules_of(model.task)
    for component, module in wanted.items():
        if component not in found:
            raise UserError(f"{what}: has no {component}. Legal: a model with one.")
        got, expected = module_settings(found[component]), module_settings(module)
        for field in sorted(got.keys() | expected.keys()):
            if got.get(field) != expected.get(field):
                raise UserError(
                    f"{what}: its {component} has {field}={got.get(field)}, the run's "
                    f"{expected.get(field)}. Legal: a model with the same fields."
                )
