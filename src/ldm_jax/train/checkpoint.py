"""What a run keeps on disk, through Orbax: asynchronous, atomic, sharded.

workdir/config.json                     the configuration as resolved
workdir/frozen/                         first stage and latent scale, written once; in its
                                        metadata what the scale was measured on
workdir/checkpoints/<step>/params       trained parameters
                          /ema_params   their average: all that sampling needs
                          /optimizer    step, optimizer state, other collections
                          /data         position of the data iterator
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError
from ldm_jax.core.defaults import fill_defaults
from ldm_jax.core.types import PyTree
from ldm_jax.interop.mapping import flatten
from ldm_jax.interop.tensors import TensorInfo
from ldm_jax.train.state import TrainState

# Fields below `task` and `data` that do not change what a run computes: where things lie, how they
# are read, and by which of several equal programs.
MAY_CHANGE = (
    *(
        "workdir",
        "path",
        "conditioner_weights",
        "embeddings",
        "database",
        "latent_cache",
        "num_threads",
        "prefetch",
        "max_bad_fraction",
    ),
    *("remat", "attention_impl"),
)
# Fields elsewhere that say what the stored numbers are.
_FIXED = ("seed", "train.ema_conditioner")


class SaveError(UserError):
    """A checkpoint could not be written; those before it are whole."""


class Checkpoints:
    """The checkpoints of one run: the newest, and milestones that are never deleted.

    Args:
      workdir: of the run.
      keep: how many of the newest.
      keep_every: checkpoints at multiples of this step stay as long as every call on this workdir
        gives the same number; None: none do.
    """

    def __init__(self, workdir: str | Path, keep: int = 2, keep_every: int | None = None):
        self._workdir = Path(workdir).absolute()
        self._manager = ocp.CheckpointManager(
            self._workdir / "checkpoints",
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                keep_period=keep_every,
                cleanup_tmp_directories=True,
                # In the background, a folder that cannot be made is waited for for 20 minutes.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            ),
        )

    def latest_step(self) -> int | None:
        """Returns the newest complete checkpoint's step, or None."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data_state: dict) -> None:
        """Starts writing a checkpoint; a kill while it is written leaves the one before it.

        Raises:
          SaveError: this one, or the one before it, could not be written.
        """
        if step == self.latest_step():
            return
        with self._loud():
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    ema_params=ocp.args.StandardSave(state.ema_params),
                    optimizer=ocp.args.StandardSave(_rest(state)),
                    data=ocp.args.JsonSave(data_state),
                ),
                # Orbax would else ask JAX's preemption service, whose count of steps is `signals`'.
                force=True,
            )

    def restore(self, step: int, abstract: TrainState) -> tuple[TrainState, dict]:
        """Returns the state at `step`, laid out as `abstract`, and the data position.

        Raises:
          UserError: the checkpoint's arrays do not fit the configuration.
        """
        try:
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(abstract.params),
                    ema_params=ocp.args.StandardRestore(abstract.ema_params),
                    optimizer=ocp.args.StandardRestore(_rest(abstract)),
                    data=ocp.args.JsonRestore(),
                ),
            )
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{self._workdir}: checkpoint {step} does not fit this configuration "
                f"({_first_line(error)}). Use the one it was trained with, or a new --workdir."
            ) from error
        return TrainState(
            params=found.params, ema_params=found.ema_params, **found.optimizer
        ), found.data

    def look(self) -> None:
        """Raises SaveError if the writer threads have failed since; waits for nothing."""
        with self._loud():
            self._manager.check_for_errors()

    def wait(self) -> None:
        """Blocks until everything is on disk.

        Raises:
          SaveError: it could not be written.
        """
        with self._loud():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, then releases the writer threads.

        Raises:
          SaveError: it could not be written.
        """
        with self._loud():
            self._manager.close()  # which waits as well

    @contextlib.contextmanager
    def _loud(self) -> Iterator[None]:
        """Makes one line of whatever the file system, TensorStore or a writer thread raise."""
        try:
            yield
        except Exception as error:
            # The step that failed is half-written, under another name, so it is none of these.
            kept = complete_steps(self._workdir)
            last = f"the newest whole one is {kept[-1]}" if kept else "there is none yet"
            raise SaveError(
                f"{self._workdir}/checkpoints: a checkpoint could not be written "
                f"({type(error).__name__}: {_first_line(error)}); {last}. Legal: a folder that "
                "can be written to, with room; then the same command goes on from there."
            ) from error


def _rest(state: TrainState) -> dict[str, Any]:
    # Orbax refuses empty trees, so collections that a task does not have are stored as {}.
    return {"step": state.step, "opt_state": state.opt_state, "mutable": state.mutable}


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def save_frozen(
    workdir: str | Path, frozen: PyTree, record: Mapping[str, Any] | None = None
) -> None:
    """Writes what training reads but never changes; once, and atomically.

    Args:
      workdir: of the run.
      frozen: arrays.
      record: JSON that belongs to them, such as what the scale of latents was measured on.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        target = Path(workdir).absolute() / "frozen"
        checkpointer.save(target, frozen, custom_metadata=dict(record or {}))


def read_frozen_record(workdir: str | Path) -> dict[str, Any]:
    """Returns the record of `save_frozen`; {} for a run from before there was one.

    Raises:
      UserError: the file that holds it is gone or damaged.
    """
    folder = Path(workdir).absolute() / "frozen"
    try:
        # Orbax takes a lost file for one without a record, which would disable what it is for.
        found = json.loads((folder / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
        return dict(found or {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}/_CHECKPOINT_METADATA: gone or damaged ({_first_line(error)}). Legal: put it "
            "back, or train in a new --workdir."
        ) from error


def has_frozen(workdir: str | Path) -> bool:
    """Returns whether `save_frozen` completed in this workdir."""
    return (Path(workdir) / "frozen").is_dir()


def restore_frozen(workdir: str | Path, abstract: PyTree) -> PyTree:
    """Returns the frozen tree, laid out as `abstract`."""
    if not has_frozen(workdir):
        raise UserError(
            f"{workdir}: its frozen networks, the folder frozen, are gone. Legal: put it back, or "
            "train in a new --workdir."
        )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(Path(workdir).absolute() / "frozen", abstract)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{workdir}/frozen: damaged, or not of this configuration ({_first_line(error)})."
        ) from error


def restore_params(
    workdir: str | Path, abstract: PyTree, *, ema: bool = True
) -> tuple[PyTree, int]:
    """Returns (parameters, step) of the newest checkpoint in `workdir`.

    Raises:
      UserError: no workdir, or no complete checkpoint in it, or one that does not fit.
    """
    root = Path(workdir).absolute()
    if not (root / "checkpoints").is_dir():
        raise UserError(
            f"{workdir}: no checkpoints here; expected the --workdir of a training run."
        )
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(root / "checkpoints", options=options) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"{workdir}: no complete checkpoint yet; train for longer first.")
        item = "ema_params" if ema else "params"
        try:
            found = manager.restore(
                step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)})
            )
        except (ValueError, KeyError) as error:
            raise UserError(
                f"{workdir}: checkpoint {step} does not fit the model ({_first_line(error)})."
            ) from error
    return found[item], step


def is_workdir(path: str | Path) -> bool:
    """Returns whether a folder is a training run's, even one that has only begun or is damaged."""
    root = Path(path)
    if (root / "checkpoints").is_dir() or has_frozen(root):
        return True
    # Folders of weights have a config.json too, ours and those of diffusers.
    has_config = (root / "config.json").is_file()
    return has_config and not any(root.glob("*.safetensors")) and not any(root.glob("*.bin"))


def read_item(workdir: str | Path, item: str, key: str, abstract: PyTree) -> PyTree:
    """Returns one sub-tree of an item of a run as NumPy arrays of the types on disk.

    Args:
      workdir: of the run.
      item: 'frozen', or 'params' or 'ema_params' of the newest checkpoint.
      key: the sub-tree, such as 'unet'.
      abstract: its shapes.

    Raises:
      UserError: it is not there, or has another shape.
    """
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), abstract)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            found = checkpointer.restore(
                _item_path(workdir, item),
                args=ocp.args.PyTreeRestore(
                    item={key: jax.tree.map(lambda _: 0, abstract)},
                    restore_args={key: restore_args},
                    partial_restore=True,
                ),
            )[key]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{workdir}: {item}/{key} is not to be read ({_first_line(error)})."
        ) from error
    for got, expected in zip(*map(jax.tree.leaves, (found, abstract)), strict=True):
        if got.shape != expected.shape:
            raise UserError(f"{workdir}: {item}/{key} has {got.shape}, expected {expected.shape}.")
    return found


def read_item_infos(workdir: str | Path, item: str, key: str) -> dict[str, TensorInfo]:
    """Returns shapes and types on disk of one sub-tree of an item, by path; see `read_item`."""
    with ocp.StandardCheckpointer() as checkpointer:
        metadata: Any = checkpointer.metadata(_item_path(workdir, item))
    leaves = flatten(metadata.item_metadata.tree[key])
    return {path: TensorInfo(tuple(x.shape), np.dtype(x.dtype)) for path, x in leaves.items()}


def _item_path(workdir: str | Path, item: str) -> Path:
    root = Path(workdir).absolute()
    if item == "frozen":
        return root / item
    steps = complete_steps(root)
    complete = [step for step in steps if (root / "checkpoints" / str(step) / item).is_dir()]
    if not complete:
        raise UserError(f"{workdir}: no complete checkpoint yet; train for longer first.")
    return root / "checkpoints" / str(max(complete)) / item


def complete_steps(workdir: str | Path) -> list[int]:
    """Returns the steps of all whole checkpoints of a run, the newest last."""
    # Orbax gives a checkpoint its name when it is whole; before, the name has a suffix.
    folders = (Path(workdir) / "checkpoints").glob("[0-9]*")
    return sorted(int(path.name) for path in folders if path.name.isdigit() and path.is_dir())


def has_begun(workdir: str | Path) -> bool:
    """Returns whether something was trained or prepared here, which a configuration must fit."""
    return any((Path(workdir) / "checkpoints").glob("[0-9]*")) or has_frozen(workdir)


def write_config(workdir: str | Path, config: ConfigDict) -> None:
    """Writes the configuration, once it agrees with the one that the workdir already holds.

    Raises:
      UserError: `seed`, `task`, `data` or `train.ema_conditioner` differ from the run that the
        workdir holds.
    """
    path = Path(workdir) / "config.json"
    if has_begun(workdir):
        check_same_run(workdir, config)
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(config.to_json_best_effort(indent=2) + "\n")
        temporary.replace(path)


def read_config(workdir: str | Path) -> ConfigDict:
    """Returns the configuration of the run in `workdir`, with fields of later versions filled in.

    Raises:
      UserError: there is none, or the file was damaged.
    """
    path = Path(workdir) / "config.json"
    if not path.is_file():
        raise UserError(f"{path}: not found; expected the --workdir of a training run.")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:  # no JSON, or no text at all
        raise UserError(_damaged(path, str(error))) from error
    keys = found if isinstance(found, dict) else ()
    missing = [key for key in ("seed", "task", "data", "train", "sample") if key not in keys]
    if missing:
        raise UserError(_damaged(path, f"no {', '.join(missing)}"))
    return fill_defaults(ConfigDict(_tuples(found)))


def _damaged(path: Path, why: str) -> str:
    return f"{path}: damaged ({why}); expected what `ldm-jax train` wrote there."


def check_same_run(workdir: str | Path, config: ConfigDict) -> None:
    """Raises UserError where `task`, `data` or `_FIXED` differ from those of the run there."""
    path, old = Path(workdir) / "config.json", read_config(workdir)
    was, now = (_flat(_tuples(json.loads(c.to_json_best_effort()))) for c in (old, config))
    for key in sorted(was.keys() | now.keys()):
        fixed = key.startswith(("task.", "data.")) or key in _FIXED
        movable = key.rpartition(".")[2] in MAY_CHANGE
        if fixed and not movable and was.get(key) != now.get(key):
            raise UserError(
                f"config.{key}={now.get(key)!r}, but {path} was trained with {was.get(key)!r}. "
                "Use that value, or a new --workdir."
            )


def _flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _tuples(value: Any) -> Any:
    """JSON knows no tuples; configurations have no lists."""
    if isinstance(value, dict):
        return {key: _tuples(v) for key, v in value.items()}
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
