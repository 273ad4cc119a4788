"""Scores of a first stage on images that it was not trained on."""

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ldm_jax.core.checks import UserError, check_in
from ldm_jax.core.types import Array, PyTree
from ldm_jax.evaluation.fid import FeatureStatistics, fid
from ldm_jax.evaluation.reconstruction import SSIM_WINDOW, psnr, ssim
from ldm_jax.interop.inception_weights import load_inception
from ldm_jax.interop.lpips_weights import load_lpips
from ldm_jax.models.inception import FEATURES, Inception
from ldm_jax.models.lpips import LPIPS
from ldm_jax.models.quantizer import nearest_codes, perplexity
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.mesh import batch_shards
from ldm_jax.parallel.sharding import (
    batch_sharding,
    gather_weights,
    put_rows,
    put_whole,
    replicated,
    shardings,
)
from ldm_jax.tasks.adversarial import Perceptual
from ldm_jax.tasks.autoencoder import FirstStageTask
from ldm_jax.tasks.base import Task, to_float_images, to_uint8_images
from ldm_jax.train import assemble_data
from ldm_jax.train.state import TrainState

METRICS = ("psnr", "ssim", "lpips", "rfid")


class Evaluation:
    """Compares images with their reconstructions from the posterior's mode, by the averages.

    Scores are means over images, of reconstructions rounded to 8 bits as a file has them. rFID is
    the Fréchet distance between the Inception features of the images and of the reconstructions.
    Of a quantised stage it also gives how many codes the images take, and their perplexity.

    Args:
      task: of the run.
      metrics: of `METRICS`.
      images: uint8 [n, H, W, c], the same in every process.
      batch_size: images at once, a multiple of the devices that share a batch.
      mesh: of the run.
      abstract: shapes of the state, by which the averages are laid out.
      networks: parameters that the metrics need, under 'lpips' and 'inception'.
    """

    def __init__(
        self,
        task: FirstStageTask,
        metrics: tuple[str, ...],
        images: np.ndarray,
        batch_size: int,
        mesh: Mesh,
        abstract: TrainState,
        networks: Mapping[str, PyTree],
    ):
        self._metrics, self._images, self._mesh = metrics, images, mesh
        self._batch_size = batch_size
        self._networks = put_whole(networks, shardings(mesh, networks))
        self._compare = jax.jit(
            _make_compare(task, metrics),
            in_shardings=(
                shardings(mesh, abstract.ema_params["autoencoder"]),
                shardings(mesh, networks),
                batch_sharding(mesh),
            ),
            out_shardings=replicated(mesh),
            compiler_options=compiler_options(mesh),
        )

    def run(self, state: TrainState) -> dict[str, float]:
        """Returns the scores of the averaged parameters."""
        sums: dict[str, float] = dict.fromkeys((m for m in self._metrics if m != "rfid"), 0.0)
        kinds = ("real", "fake") if "rfid" in self._metrics else ()
        features = {kind: FeatureStatistics(FEATURES) for kind in kinds}
        counts: np.ndarray | None = None
        for start in range(0, len(self._images), self._batch_size):
            rows = self._images[start : start + self._batch_size]
            found = self._compare_rows(state, rows)
            for name in sums:
                sums[name] += float(np.sum(found[name], dtype=np.float64))
            for kind, statistics in features.items():
                statistics.update(found[kind])
            if "counts" in found:
                counts = np.sum(found["counts"], axis=0) + (0 if counts is None else counts)
        scores = {name: total / len(self._images) for name, total in sums.items()}
        if features:
            scores["rfid"] = fid(features["real"], features["fake"])
        if counts is not None:
            shares = jnp.asarray(counts / counts.sum(), jnp.float32)
            scores["code_usage"] = float(np.mean(counts > 0))
            scores["code_perplexity"] = float(perplexity(shares))
        return scores

    def _compare_rows(self, state: TrainState, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what the device finds of a batch, whose missing rows repeat the first."""
        missing = self._batch_size - len(rows)
        padded = np.concatenate([rows, np.repeat(rows[:1], missing, axis=0)])
        batch = put_rows(self._mesh, padded)
        found = self._compare(state.ema_params["autoencoder"], self._networks, batch)
        return {name: np.asarray(value)[: len(rows)] for name, value in found.items()}


def _make_compare(task: FirstStageTask, metrics: tuple[str, ...]) -> Any:
    """Returns (parameters, networks, images) -> what `metrics` need, per image."""

    def compare(params: PyTree, networks: PyTree, images: Array) -> dict[str, Array]:
        params, networks = gather_weights(params), gather_weights(networks)
        x = to_float_images(images)
        found: dict[str, Array] = {}
        reconstructions = to_uint8_images(
            task.reconstruct({"autoencoder": params}, {"image": images})
        )
        x_hat = to_float_images(reconstructions)
        if "psnr" in metrics:
            found["psnr"] = psnr(images, reconstructions)
        if "ssim" in metrics:
            found["ssim"] = ssim(images, reconstructions)
        if "lpips" in metrics:
            distance = LPIPS().apply({"params": networks["lpips"]}, x, x_hat)
            found["lpips"] = cast(Array, distance)
        if "rfid" in metrics:
            inception = Inception().bind({"params": networks["inception"]})
            found["real"] = inception(images).features
            found["fake"] = inception(reconstructions).features
        if "codebook" in params:
            found["counts"] = _code_counts(task, params, x)
        return found

    return compare


def _code_counts(task: FirstStageTask, params: PyTree, x: Array) -> Array:
    """Returns how often each image takes each code, [b, n]."""
    codebook = params["codebook"]
    z = task.model.apply({"params": params}, x, method="encode").latent
    indices = nearest_codes(z, codebook).reshape(len(x), -1)
    return jax.vmap(lambda row: jnp.bincount(row, length=len(codebook)))(indices)


def check_evaluation(config: ConfigDict, task: Task) -> None:
    """Checks `config.evaluation`, the files it names included.

    Raises:
      UserError: an illegal field, or weights that are not there.
    """
    settings = config.evaluation
    for field in ("images", "batch_size"):
        if settings[field] < 1:
            raise UserError(f"config.evaluation.{field}={settings[field]}: legal is 1 or more.")
    if settings.every < 0:
        raise UserError(f"config.evaluation.every={settings.every}: legal is 0 (never) or more.")
    for metric in settings.metrics:
        check_in("config.evaluation.metrics", metric, METRICS)
    if not settings.every:
        return
    if not isinstance(task, FirstStageTask):
        raise UserError(
            "config.evaluation.every: only first stages are evaluated while they train. Legal: 0."
        )
    if not (config.data.get("evaluation_source") or config.data.get("holdout")):
        raise UserError(
            "config.evaluation.every: there is nothing to evaluate on. Legal: "
            "--config.data.holdout=N, --config.data.evaluation_source.name=…, or every=0."
        )
    if "rfid" in settings.metrics:
        _check_rfid(config)
    if "ssim" in settings.metrics and config.data.image_size < SSIM_WINDOW:
        raise UserError(
            f"config.evaluation.metrics: ssim needs images of {SSIM_WINDOW} pixels and more."
        )


def _check_rfid(config: ConfigDict) -> None:
    if not config.train.inception_weights:
        raise UserError(
            "config.train.inception_weights: not given, which rfid needs. Legal: a file of "
            "the Inception network of FID, or metrics without rfid."
        )
    if config.evaluation.images < 2:
        raise UserError("config.evaluation.images: rfid needs 2 images and more.")


def make_evaluation(
    config: ConfigDict,
    task: Task,
    held_out: Any,
    mesh: Mesh,
    abstract: TrainState,
    frozen: PyTree,
) -> Evaluation | None:
    """Returns the evaluation of `config.evaluation`, or None if it is never due.

    Raises:
      UserError: weights that are not there.
    """
    settings = config.evaluation
    if not settings.every or not isinstance(task, FirstStageTask):
        return None
    if "rfid" in settings.metrics and len(held_out) < 2:
        raise UserError("config.data.holdout=1: rfid needs 2 images and more.")
    indices = np.arange(min(settings.images, len(held_out)))
    images = assemble_data.build_examples(config, held_out, None, indices)["image"]
    networks: dict[str, PyTree] = {}
    if "lpips" in settings.metrics:
        given = isinstance(frozen, Perceptual)
        networks["lpips"] = frozen.lpips if given else load_lpips(config.train.lpips_weights)
    if "rfid" in settings.metrics:
        networks["inception"] = load_inception(config.train.inception_weights)
    devices = batch_shards(mesh)
    batch_size = -(-min(settings.batch_size, len(images)) // devices) * devices
    return Evaluation(task, settings.metrics, images, batch_size, mesh, abstract, networks)
