"""A run of sampling that can be stopped, looked at and steered between its steps."""

import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ldm_jax.core.checks import UserError
from ldm_jax.core.types import Array, Conditioning, PyTree
from ldm_jax.parallel.sharding import on_host
from ldm_jax.pipeline.canvas import known_latents, paste
from ldm_jax.pipeline.checks import check_whole
from ldm_jax.pipeline.request import Inputs, Plan, Request
from ldm_jax.samplers.editing import noised, slerp
from ldm_jax.tasks.guided import Controls
from ldm_jax.train.sampling import Programs, check_finite


class Generation:
    """Images in the making, one bucket of them.

        generation = pipeline.start("a red circle", num_images=4, steps=30)
        while not generation.done:
            generation.advance(5)
            show(generation.preview())
        images = generation.images()

    The result is to the bit that of `pipeline(...)` with the same arguments, however the rows are
    divided, and no division compiles anything.

    Attributes:
      request: what is being made, padded to the bucket.
      plan: levels and the sampler's table.
      count: images asked for.
      last: whether these are the last images of the call.
      row: rows of the table that are done.
      total: rows of the table: model evaluations.
    """

    def __init__(
        self,
        programs: Programs,
        weights: tuple[PyTree, PyTree, PyTree],
        request: Request,
        plan: Plan,
        *,
        count: int,
        last: bool = True,
        as_uint8: bool = True,
        remake: Callable[..., Request] | None = None,
    ):
        """Computes nothing yet; `Pipeline.start` makes one.

        Args:
          programs: that run it.
          weights: parameters of the model, frozen ones, and those of the guide.
          request: what is wanted, a row for every place in the bucket.
          plan: how it is carried out.
          count: rows of the request that are wanted; the others fill the bucket.
          last: whether it is the last bucket of its run.
          as_uint8: the type of images.
          remake: returns the request with some arguments changed.
        """
        self._programs, self._as_uint8, self._remake = programs, as_uint8, remake
        self._params, self._frozen, self._guide_params = weights
        self.request, self.plan, self.count, self.last = request, plan, count, last
        self.row, self.total = 0, len(plan.rows)
        self._begun = False
        self._changed: dict[str, Any] = {}
        self._decoded: tuple[Array, Array] | None = None

    def _begin(self) -> None:
        """Encodes prompts and image, and draws the noise, unless that is done."""
        if self._begun:
            return
        self._begun = True
        programs, request = self._programs, self.request
        self._table = programs.put_table(self.plan.rows)
        self._seeds, self._indices = programs.put_rows((request.seeds, request.indices))
        self._known = self._encoded(request)
        self._controls = self._steered(request)
        self._state = programs.begin(self._start(request))

    @property
    def numbers(self) -> np.ndarray:
        """The numbers of the images, [n]."""
        return self.request.indices[: self.count]

    @property
    def done(self) -> bool:
        """Whether all rows are done."""
        return self.row == self.total

    def advance(self, rows: int | None = None) -> None:
        """Runs so many rows of the table, by default all that are left."""
        if rows is not None:
            check_whole("rows", rows)
        self._begin()
        stop = self.total if rows is None else min(self.row + rows, self.total)
        self._state = self._programs.advance(
            self._params,
            self._frozen,
            self._guide_params,
            self._controls,
            self._state,
            self._table,
            self._seeds,
            self._indices,
            np.int32(self.row),
            np.int32(stop),
        )
        self.row = stop

    def fork(self) -> "Generation":
        """Returns a second run that stands where this one does.

        From here on the two can be advanced and changed apart; one that is kept is a place to come
        back to. It has latents of its own, and shares weights, programs and conditions.
        """
        self._begin()
        other = copy.copy(self)
        # Advancing gives the memory of a state away.
        other._state = jax.tree.map(jnp.copy, self._state)
        return other

    def preview(self) -> np.ndarray:
        """Returns the images [n, H, W, C] that the model expects now: its last predicted x0."""
        return self.images() if self.done else self.expected()

    def expected(self) -> np.ndarray:
        """Returns the images [n, H, W, C] of the x0 that the last row predicted."""
        self._begin()
        return self._shown(*self._programs.decode(self._as_uint8, self._frozen, self._state.x0))[0]

    def noisy(self) -> np.ndarray:
        """Returns the images [n, H, W, C] that the latents decode to as they are now."""
        self._begin()
        return self._shown(*self._programs.decode(self._as_uint8, self._frozen, self._state.z))[0]

    def finish(self) -> None:
        """Sends what is left to the devices, and does not wait for it."""
        if self._decoded is None:
            if not self.done:
                self.advance()
            self._decoded = self._programs.decode(self._as_uint8, self._frozen, self._state.z)

    def images(self) -> np.ndarray:
        """Returns the images [n, H, W, C], after the rows that are left.

        Raises:
          UserError: an image holds a value that is not a number.
        """
        self.finish()
        assert self._decoded is not None
        images, finite = self._shown(*self._decoded)
        check_finite(finite, self.numbers)
        return images

    def latents(self) -> np.ndarray:
        """Returns the latents [n, h, w, c] as they are now, all of them on every process."""
        self._begin()
        return on_host(self._state.z)[: self.count]

    def change(self, **arguments: Any) -> None:
        """Steers what is left of the run.

        Values change without compiling. What was absent before, such as a first region, a mask or
        guidance, needs a program of its own. What earlier changes set stays as it is.

        Args:
          **arguments: `prompts`, and those of `pipeline.arguments.STEERING`, as for a call.

        Raises:
          UserError: another argument, or an illegal value; then nothing has changed.
        """
        if self._remake is None:
            raise UserError("change: this run cannot be steered.")
        if self.done:
            raise UserError("change: the run is done. Legal: before its last row.")
        masked = self.request.mask is not None or arguments.get("mask") is not None
        if arguments.get("image") is not None and not masked:
            raise UserError("image: has no effect on a run under way without a mask.")
        self._begin()
        changed = {**self._changed, **arguments}
        request, before = self._remake(**changed), self.request
        if request.scale is None and before.scale is not None:
            # Guidance of scale 1 keeps the program.
            ones = np.ones(len(request), np.float32)
            request = dataclasses.replace(
                request, scale=ones, interval=before.interval, rescale=before.rescale
            )
        if "image" in arguments:
            self._known = self._encoded(request)
        self._controls = self._steered(request)
        self.request, self._changed = request, changed

    def _shown(self, images: Array, finite: Array) -> tuple[np.ndarray, np.ndarray]:
        """Returns decoded images on the host, without what fills the bucket."""
        found = np.asarray(images)[: self.count]
        if self.request.mask is not None and self.request.image is not None:
            original, masks = self.request.image[: self.count], self.request.mask[: self.count]
            found = paste(found, original, masks)
        return found, np.asarray(finite)[: self.count]

    def _encoded(self, request: Request) -> Array | None:
        """Returns the scaled latents of the image that is started from, if there is one."""
        if request.image is None or not request.keeps:
            return None
        pixels = request.image.astype(np.float32) / 127.5 - 1
        return self._programs.encode(self._frozen, self._programs.put_rows(pixels))

    def _start(self, request: Request) -> Array:
        """Returns z at the first level: noise, or the image and noise."""
        put, levels = self._programs.put_rows, self.plan.levels
        shape = self._programs.task.first_stage.latent_shape(*self.plan.image_shape)
        if request.latents is not None:
            noise = put(request.latents.astype(np.float32))
        else:
            noise = self._programs.noise(shape, self._seeds, self._indices)
        if request.variation is not None:
            other, weight = put(request.variation)
            noise = _slerp(noise, self._programs.noise(shape, other, self._indices), weight)
        if self._known is None or not request.keeps:
            return noise
        if not self.plan.noisy:
            return self._known
        known, mask = self._known, self._controls.mask
        if mask is not None and self.plan.whole:
            known = known * mask  # nothing of what is painted over
        return _noised(levels.alpha_bar[0], known, noise)

    def _steered(self, request: Request) -> Controls:
        """Returns the controls, on the devices."""
        put, rows = self._programs.put_rows, len(request)
        own = self._condition(request.inputs)
        if request.toward is not None:
            inputs, weight = request.toward
            far, weight = self._condition(inputs), put(weight)
            own = jax.tree.map(lambda a, b: _slerp(a, b, weight), own, far)
        null = None
        if request.scale is not None:
            if request.negative is not None:
                null = self._condition(request.negative)
            else:
                null = self._programs.null(rows, self._params, self._frozen)
        known = mask = None
        if request.mask is not None and request.keeps:
            factor = self._programs.task.first_stage.model.downsampling_factor
            known, mask = self._known, put(known_latents(request.mask, factor))
        fields = ("weights", "scale", "interval", "rescale", "threshold", "guide")
        return Controls(
            conditionings=(own, *[self._condition(inputs) for inputs in request.regions]),
            null=null,
            known=known,
            mask=mask,
            **{name: put(getattr(request, name)) for name in fields},
        )

    def _condition(self, inputs: Inputs) -> Conditioning:
        return self._programs.condition(self._params, self._frozen, self._programs.put_rows(inputs))


@dataclasses.dataclass
class Runs:
    """The buckets of one call, one `Generation` after the other, each not yet drawn.

    Attributes:
      num_images: of all buckets.
      image_shape: (H, W) in pixels.
      generations: made when they are asked for.
    """

    num_images: int
    image_shape: tuple[int, int]
    generations: Iterator[Generation]

    def __iter__(self) -> Iterator[Generation]:
        return self.generations

    def __next__(self) -> Generation:
        return next(self.generations)


def finished(generations: Iterable[Generation]) -> Iterator[Generation]:
    """Yields runs one after the other, each when the next is on the devices too.

    So these go on while the host saves images.
    """
    before = None
    for generation in generations:
        generation.finish()
        if before is not None:
            yield before
        before = generation
    if before is not None:
        yield before


@jax.jit
def _slerp(a: Array, b: Array, weight: Array) -> Array:
    return slerp(a, b, weight)


@jax.jit
def _noised(alpha_bar: Array, x0: Array, noise: Array) -> Array:
    return noised(alpha_bar, x0, noise)
