"""The variational bound of a diffusion model on held-out images, on a mesh."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from ldm_jax.core.axes import BATCH_AXES
from ldm_jax.core.checks import UserError, check_positive
from ldm_jax.core.types import PyTree
from ldm_jax.evaluation.likelihood import Profile
from ldm_jax.evaluation.rate_distortion import Curve, cumulative_rate
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.mesh import batch_shards
from ldm_jax.parallel.sharding import put_rows, put_whole, replicated
from ldm_jax.tasks.first_stage import Frozen
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train import assemble_data
from ldm_jax.train.cache_key import cached_routes
from ldm_jax.train.likelihood_rows import PROFILE, measure_rows, of_pixels
from ldm_jax.train.sampling import buckets

# Positions in a source -> the images (or moments) there, and what the conditioner reads.
Load = Callable[[np.ndarray], Mapping[str, np.ndarray]]
_LEVELS = 127.5  # of 0 to 255, per unit of [-1, 1]


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """What was measured, in bits per dimension of z: of a pixel's channel, or of the latent's.

    Attributes:
      of: 'pixels', or 'latents', whose bound is that of a density; see `evaluation.likelihood`.
      variance: of the reverse process.
      bits: [n], the bound of each image.
      prior: L_T, the mean over the images, as are the next three.
      terms: [T].
      x0_mse: [T], of pixels in [-1, 1], or of scaled latents.
      eps_mse: [T].
      curve: rate and distortion of progressive decoding at all timesteps.
      decoded: of latents, the same at the chosen timesteps as seen through the decoder.
      decoded_floor: with it, the distortion of the first stage alone, in levels.
      encoding_bits: [n], the rate of latents that have a Gaussian posterior: the bound less the
        posterior's entropy. Times `latent_share`, it is per dimension of the image.
      latent_share: dimensions of the latent over those of the image.
    """

    of: str
    variance: str
    bits: np.ndarray
    prior: float
    terms: np.ndarray
    x0_mse: np.ndarray
    eps_mse: np.ndarray
    curve: Curve
    decoded: Curve | None
    decoded_floor: float | None
    encoding_bits: np.ndarray | None
    latent_share: float


def make_loader(config: ConfigDict, task: LatentDiffusionTask, source: Any, tokenizer: Any) -> Load:
    """Returns the loader of a source's examples, preprocessed as `config.data` says.

    Args:
      config: of the run.
      task: of the run.
      source: of the examples, such as those held out.
      tokenizer: of the captions, if any.
    """
    seen = "moments" if "moments" in source[0] else "image"
    keys = tuple(dict.fromkeys((seen, *(cached_routes(config) or task.condition_entries))))
    limits = task.input_limits()

    def load(indices: np.ndarray) -> dict[str, np.ndarray]:
        found = assemble_data.build_examples(config, source, tokenizer, indices, keys, limits)
        return {name: found[name] for name in keys}

    return load


def make_likelihood(
    task: LatentDiffusionTask, mesh: Mesh, *, decode_at: Sequence[int] = (), **settings: Any
) -> Callable[..., Likelihood]:
    """Returns `measure(params, frozen, load, indices, seed=0, progress=None) -> Likelihood`.

    Args:
      task: of the model.
      mesh: where to run.
      decode_at: timesteps whose predicted latents are decoded and held against the image.
      **settings: see `make_profiles`, which has the arguments of `measure` too.
    """
    profiles = make_profiles(task, mesh, decode_at=decode_at, **settings)
    variance = settings.get("variance") or usual_variance(task)

    def measure(*arguments: Any, **named: Any) -> Likelihood:
        return summarize(task, profiles(*arguments, **named), variance, decode_at)

    return measure


def usual_variance(task: LatentDiffusionTask) -> str:
    """Returns the reverse variance that a model has: 'learned', or the 'posterior' one."""
    return "learned" if task.learn_variance else "posterior"


def make_profiles(
    task: LatentDiffusionTask,
    mesh: Mesh,
    *,
    variance: str | None = None,
    clip_pixels: bool = True,
    decode_at: Sequence[int] = (),
    per_device_batch: int = 8,
) -> Callable[..., dict[str, np.ndarray]]:
    """Returns `profiles(params, frozen, load, indices, seed=0, progress=None)`, a row an image.

    They are the fields of `Profile`, and what else `measure_rows` tells. `indices` are positions
    for `load`, and numbers of the examples: what is found of example k depends on (seed, k) alone,
    to the bit, since every program run has `per_device_batch` of them per device. `progress` is
    told (images done, images in all). Conditions are the images' own and nothing is guided: a
    guided prediction is of no distribution that has a bound.

    Args:
      task: of the model.
      mesh: where to run.
      variance: see `bound_profile`; by default `usual_variance`.
      clip_pixels: keep predicted pixels in [-1, 1], where the image is, as Ho et al. do; it raises
        no term but, at times, the one at t = 0. Latents are not clipped.
      decode_at: timesteps whose predicted latents are decoded and held against the image.
      per_device_batch: images per device and program run.

    Raises:
      UserError: illegal arguments, some when they are met; a bound that is not a number.
    """
    check_positive("likelihood per_device_batch", [per_device_batch])
    if of_pixels(task) and decode_at:
        raise UserError(
            "likelihood decode_at: this model diffuses pixels, and its curve is of pixels at all "
            "timesteps. Legal: none."
        )
    measure_part = functools.partial(
        measure_rows,
        task,
        variance=variance or usual_variance(task),
        clip_pixels=clip_pixels,
        decode_at=tuple(decode_at),
    )
    whole, rows = P(), P(BATCH_AXES)
    # As in sampling, each device runs over whole weights and its own rows: no mesh changes a bit.
    split = jax.shard_map(
        measure_part,
        mesh=mesh,
        in_specs=(whole, whole, rows, whole, rows),
        out_specs=rows,
        check_vma=False,
    )
    compiled = jax.jit(
        split, out_shardings=replicated(mesh), compiler_options=compiler_options(mesh)
    )
    size = per_device_batch * batch_shards(mesh)

    def profiles(
        params: PyTree,
        frozen: Frozen,
        load: Load,
        indices: Sequence[int] | np.ndarray,
        seed: int = 0,
        progress: Callable[[int, int], object] | None = None,
    ) -> dict[str, np.ndarray]:
        indices = np.asarray(indices, np.int32)
        check_positive("likelihood images", [len(indices)])
        at = put_whole(np.uint32(seed), replicated(mesh))
        parts: list[dict[str, np.ndarray]] = []
        for positions in buckets(len(indices), size):
            numbers, start = indices[positions], int(positions[0])
            batch, placed = put_rows(mesh, (dict(load(numbers)), numbers))
            done = compiled(params, frozen, batch, at, placed)
            parts.append({k: np.asarray(x)[: len(indices) - start] for k, x in done.items()})
            _check_finite(parts[-1], numbers)
            if progress is not None:
                progress(min(start + size, len(indices)), len(indices))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return profiles


def _check_finite(found: Mapping[str, np.ndarray], numbers: np.ndarray) -> None:
    finite = np.isfinite(found["prior"]) & np.isfinite(found["terms"]).all(axis=1)
    if not finite.all():
        raise UserError(
            f"likelihood: the bound of example {numbers[np.argmin(finite)]} is not a number. "
            "Legal: parameters that have not diverged."
        )


def summarize(
    task: LatentDiffusionTask,
    found: Mapping[str, np.ndarray],
    variance: str,
    decode_at: Sequence[int] = (),
) -> Likelihood:
    """Returns the means over all images, taken in one go, whatever the buckets were.

    Args:
      task: of the model.
      found: of `make_profiles`.
      variance: as there.
      decode_at: as there.
    """
    chosen = np.asarray(decode_at, np.int32)
    mean = {k: np.asarray(np.mean(x, axis=0, dtype=np.float64)) for k, x in found.items()}
    fields: dict[str, Any] = {name: found[name] for name in PROFILE}
    bits = Profile(**fields).bits()
    rate, distortion = cumulative_rate(float(mean["prior"]), mean["terms"]), np.sqrt(mean["x0_mse"])
    of, unit, factor = (
        ("pixels", "levels", _LEVELS) if of_pixels(task) else ("latents", "latents", 1.0)
    )
    decoded = floor = None
    if len(chosen):
        decoded = Curve(chosen, rate[chosen], _LEVELS * np.sqrt(mean["decoded"]), "levels")
        floor = _LEVELS * float(np.sqrt(mean["floor"]))
    stage = task.first_stage.model
    pixels = stage.downsampling_factor**2 * stage.image_channels
    return Likelihood(
        of=of,
        variance=variance,
        bits=bits,
        prior=float(mean["prior"]),
        terms=mean["terms"],
        x0_mse=mean["x0_mse"],
        eps_mse=mean["eps_mse"],
        curve=Curve(np.arange(len(rate)), rate, factor * distortion, unit),
        decoded=decoded,
        decoded_floor=floor,
        encoding_bits=bits - found["entropy"] if "entropy" in found else None,
        latent_share=stage.latent_channels / pixels,
    )
