"""Compiled sampling over a mesh, in buckets of a fixed size per device."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ldm_jax.core.axes import BATCH_AXES
from ldm_jax.core.checks import UserError
from ldm_jax.core.types import PyTree
from ldm_jax.parallel.mesh import batch_shards
from ldm_jax.parallel.sharding import put_rows, replicated
from ldm_jax.tasks.base import to_uint8_images
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.assemble import SampleSettings

SampleFn = Callable[..., np.ndarray]


def make_sample_fn(
    task: LatentDiffusionTask,
    settings: SampleSettings,
    mesh: Mesh,
    *,
    per_device_batch: int,
    image_shape: tuple[int, int] | None = None,
    check_finite: bool = True,
    as_uint8: bool = True,
) -> SampleFn:
    """Returns `draw(params, frozen, batch, seed, indices, progress, z_T) -> images [n, H, W, C]`.

    The loop over noise levels is one compiled program for a bucket of images: `per_device_batch`
    for each of the mesh's data × fsdp parts. The last bucket is padded and cut. A bucket has the
    same shape on every device whatever n and the mesh are, so image k comes out the same to the
    bit.

    Args:
      task: of the model.
      settings: sampler, steps and guidance scale; the scale 1.0 costs half.
      mesh: where to run.
      per_device_batch: images per device and program run.
      image_shape: (H, W) in pixels, by default the training size.
      check_finite: raise UserError for an image that is not finite, instead of a black one.
      as_uint8: images of 0 .. 255; otherwise float32, about [-1, 1] and not clipped.

    `progress`, if given, is called with the number of images finished, after each bucket. `z_T`,
    if given, is the noise [n, h, w, c] to start from.
    """
    bucket = per_device_batch * batch_shards(mesh)

    def draw_bucket(params, frozen, batch, z_T, seed, indices):
        images = task.sample(
            params,
            frozen,
            batch,
            indices,
            seed=seed,
            sampler=settings.sampler,
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            image_shape=image_shape,
            z_T=z_T,
        )
        shown = to_uint8_images(images) if as_uint8 else images
        return shown, jnp.all(jnp.isfinite(images), axis=(1, 2, 3))

    # One program per device, over whole weights and its own rows, so that no mesh changes a bit;
    # then gathered, so that every process can read the whole bucket.
    rows = P(BATCH_AXES)
    draw_parts = jax.shard_map(
        draw_bucket, mesh=mesh, in_specs=(P(), P(), rows, rows, P(), rows), out_specs=(rows, rows)
    )
    compiled = jax.jit(draw_parts, out_shardings=replicated(mesh))

    def draw(
        params: PyTree,
        frozen: PyTree,
        batch: Mapping[str, np.ndarray],
        seed: int,
        indices: Sequence[int] | np.ndarray,
        progress: Callable[[int], object] | None = None,
        z_T: np.ndarray | None = None,
    ) -> np.ndarray:
        indices = np.asarray(indices, np.int32)
        images = []
        if progress is not None:
            progress(0)  # the first bucket compiles: let a bar show that it has begun
        for start in range(0, len(indices), bucket):
            rows = np.arange(start, min(start + bucket, len(indices)))
            padded = np.concatenate([rows, np.full(bucket - len(rows), rows[-1])])
            mine = jax.tree.map(lambda x, p=padded: np.asarray(x)[p], (dict(batch), z_T, indices))
            inputs, noise, numbers = put_rows(mesh, mine)
            with jax.set_mesh(mesh):
                out, finite = compiled(params, frozen, inputs, noise, np.uint32(seed), numbers)
            if check_finite and not np.all(finite):
                raise UserError(
                    f"image {indices[padded][np.argmin(finite)]}: not a number. Legal: a smaller "
                    "sample.guidance_scale, or parameters that have not diverged."
                )
            images.append(np.asarray(out)[: len(rows)])
            if progress is not None:
                progress(len(rows))
        return np.concatenate(images)

    return draw
