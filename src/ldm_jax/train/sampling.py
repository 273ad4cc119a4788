"""Compiled sampling over a mesh, in buckets of a fixed size per device.

The parts of a run are programs of their own: the text is encoded once, noise drawn, rows of the
sampler's table applied, latents decoded. The table, its bounds, seeds, prompts, guidance scale and
masks are inputs, so that one program per shape serves every sampler, number of steps and seed.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from ldm_jax.core.axes import BATCH_AXES
from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, Conditioning, PyTree
from ldm_jax.parallel.compilation import compiler_options
from ldm_jax.parallel.mesh import batch_shards
from ldm_jax.parallel.sharding import put_rows, put_whole, replicated
from ldm_jax.samplers.base import (
    Rows,
    State,
    advance,
    image_keys,
    initial_noise,
    initial_state,
    padded,
)
from ldm_jax.tasks.base import to_uint8_images
from ldm_jax.tasks.first_stage import Frozen
from ldm_jax.tasks.guided import Controls, Options, make_predict
from ldm_jax.tasks.latent_diffusion import LatentDiffusionTask
from ldm_jax.train.assemble import SampleSettings

SampleFn = Callable[..., np.ndarray]
# Rows that a program's table holds at least: four evaluations at each of 1,000 timesteps.
CAPACITY = 4096


class Programs:
    """The compiled parts of sampling from one model on one mesh.

    Each runs once per device over whole weights and its own rows, so that no mesh changes a bit.
    Arguments and results are global arrays whose rows are split over data × fsdp; `decode` gathers
    its images, so that every process can read them. jit keeps one program per shape.
    """

    def __init__(
        self,
        task: LatentDiffusionTask,
        mesh: Mesh,
        options: Options | None = None,
        *,
        decode_batch: int = 4,
    ):
        """Builds the programs; they are compiled when they are called.

        Args:
          task: of the model.
          mesh: where to run.
          options: what `advance` is made for.
          decode_batch: images that a device encodes or decodes at once.
        """
        options = Options() if options is None else options
        stage, tile = task.first_stage, options.tile
        self.mesh, self.task, self.options = mesh, task, options
        whole, rows = P(), P(BATCH_AXES)
        # Loops start from constants, which JAX would not let become what varies over devices.
        parts = functools.partial(jax.shard_map, mesh=mesh, check_vma=False)
        jit = functools.partial(jax.jit, compiler_options=compiler_options(mesh))

        def run(params, frozen, guide_params, controls, state, table, seeds, indices, start, stop):
            predict = make_predict(task, params, frozen, controls, options, guide_params)
            return advance(predict, state, table, image_keys(seeds, indices), start, stop)

        def by_pieces(function: Callable[[Array], Array], x: Array) -> Array:
            pieces = x.reshape(-1, math.gcd(decode_batch, len(x)), *x.shape[1:])
            found = jax.lax.map(function, pieces)
            return found.reshape(len(x), *found.shape[2:])

        def decode(frozen: Frozen, z: Array, as_uint8: bool) -> tuple[Array, Array]:
            images = by_pieces(lambda z: stage.decode(frozen, z, tile), z)
            finite = jnp.all(jnp.isfinite(images), axis=(1, 2, 3))
            return to_uint8_images(images) if as_uint8 else images, finite

        def encode(frozen: Frozen, images: Array) -> Array:
            return by_pieces(lambda x: stage.encode_mode(frozen, x, tile), images)

        condition = functools.partial(task.condition, encode=encode)
        self.condition: Callable[..., Conditioning] = jit(
            parts(condition, in_specs=(whole, whole, rows), out_specs=rows)
        )
        self.advance: Callable[..., State] = jit(
            parts(
                run,
                in_specs=(whole, whole, whole, *[rows] * 2, whole, *[rows] * 2, *[whole] * 2),
                out_specs=rows,
            ),
            donate_argnums=4,
        )
        self.encode: Callable[..., Array] = jit(
            parts(encode, in_specs=(whole, rows), out_specs=rows)
        )
        self.begin: Callable[..., State] = jit(parts(initial_state, in_specs=rows, out_specs=rows))

        # What is static comes first.
        def null_static(count: int, params: PyTree, frozen: Frozen) -> Conditioning:
            each = count // batch_shards(mesh)
            return parts(
                lambda params, frozen: task.null_condition(params, frozen, each),
                in_specs=(whole, whole),
                out_specs=rows,
            )(params, frozen)

        def noise_static(shape: tuple[int, ...], seeds: Array, indices: Array) -> Array:
            draw = functools.partial(initial_noise, shape=shape)
            return parts(draw, in_specs=rows, out_specs=rows)(seeds, indices)

        def decode_static(as_uint8: bool, frozen: Frozen, z: Array) -> tuple[Array, Array]:
            images = functools.partial(decode, as_uint8=as_uint8)
            return parts(images, in_specs=(whole, rows), out_specs=rows)(frozen, z)

        self.null: Callable[..., Conditioning] = jit(null_static, static_argnums=0)
        self.noise: Callable[..., Array] = jit(noise_static, static_argnums=0)
        self.decode: Callable[..., tuple[Array, Array]] = jit(
            decode_static, static_argnums=0, out_shardings=replicated(mesh)
        )

    def put_rows(self, rows: PyTree) -> PyTree:
        """Returns host arrays of a bucket, a row per image, on the devices."""
        return put_rows(self.mesh, rows)

    def put_table(self, rows: Rows) -> Rows:
        """Returns a sampler's table on the devices, at a length that most tables share."""
        return put_whole(program_table(rows), replicated(self.mesh))


def program_table(rows: Rows) -> Rows:
    """Returns a sampler's table as programs take it: float32, and zeros up to a common length."""
    capacity = max(CAPACITY, 1 << (len(rows) - 1).bit_length())
    table = jax.tree.map(lambda x: x.astype(np.float32), padded(rows, capacity))
    return table.replace(index=table.index.astype(np.int32))


def bucket_size(count: int, shards: int, per_device_batch: int) -> int:
    """Returns the images of one program run, for `count` of them: a multiple of `shards`.

    The next power of two per device, up to `per_device_batch`: few programs, little padding.
    """
    each = -(-count // shards)
    return shards * min(1 << (each - 1).bit_length(), per_device_batch)


def buckets(count: int, size: int) -> list[np.ndarray]:
    """Returns the image numbers of each bucket; the last is filled up with its last image."""
    numbers = np.minimum(np.arange(-(-count // size) * size), count - 1)
    return np.split(numbers, len(numbers) // size)


def check_finite(finite: Array | np.ndarray, indices: np.ndarray) -> None:
    """Raises UserError naming the first image that holds a value that is not a number."""
    if not np.all(finite):
        raise UserError(
            f"image {indices[np.argmin(finite)]}: not a number. Legal: a smaller "
            "sample.guidance_scale, or parameters that have not diverged."
        )


def make_sample_fn(
    task: LatentDiffusionTask,
    settings: SampleSettings,
    mesh: Mesh,
    *,
    per_device_batch: int,
    decode_batch: int = 4,
    image_shape: tuple[int, int] | None = None,
    finite: bool = True,
    as_uint8: bool = True,
) -> SampleFn:
    """Returns `draw(params, frozen, batch, seed, indices) -> images [n, H, W, C]`, by buckets.

    Every bucket has `per_device_batch` images per device, whatever n and the mesh are, so that
    image k comes out the same to the bit.

    Args:
      task: of the model.
      settings: sampler's table and guidance scale; the scale 1.0 costs half.
      mesh: where to run.
      per_device_batch: images per device and program run.
      decode_batch: images that a device decodes at once.
      image_shape: (H, W) in pixels, by default the training size.
      finite: raise UserError for an image that is not finite, instead of a black one.
      as_uint8: images of 0 .. 255; otherwise float32, about [-1, 1] and not clipped.
    """
    programs = Programs(task, mesh, decode_batch=decode_batch)
    size = per_device_batch * batch_shards(mesh)
    shape = task.first_stage.latent_shape(*(image_shape or [task.image_size] * 2))

    def draw_bucket(params, frozen, batch, seeds, indices) -> tuple[Array, Array]:
        conditioning = programs.condition(params, frozen, batch)
        controls = Controls((conditioning,))
        if settings.guidance_scale != 1.0:
            null = programs.null(size, params, frozen)
            scale = programs.put_rows(np.full(size, settings.guidance_scale, np.float32))
            controls = Controls((conditioning,), null=null, scale=scale)
        state = programs.begin(programs.noise(shape, seeds, indices))
        table, stop = programs.put_table(settings.rows), np.int32(len(settings.rows))
        state = programs.advance(
            params, frozen, None, controls, state, table, seeds, indices, np.int32(0), stop
        )
        return programs.decode(as_uint8, frozen, state.z)

    def draw(
        params: PyTree,
        frozen: PyTree,
        batch: Mapping[str, np.ndarray],
        seed: int,
        indices: Sequence[int] | np.ndarray,
    ) -> np.ndarray:
        indices, images = np.asarray(indices, np.int32), []
        for rows in buckets(len(indices), size):
            mine = jax.tree.map(lambda x, r=rows: np.asarray(x)[r], dict(batch))
            seeds = np.full(size, seed, np.uint32)
            inputs, seeds, numbers = programs.put_rows((mine, seeds, indices[rows]))
            out, ok = draw_bucket(params, frozen, inputs, seeds, numbers)
            if finite:
                check_finite(ok, indices[rows])
            images.append(np.asarray(out))
        return np.concatenate(images)[: len(indices)]

    return draw
