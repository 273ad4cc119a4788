"""Batches: shuffled, repeated, transformed, split over processes, resumable to the example."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ldm_jax.core.checks import UserError, check_divides
from ldm_jax.data.batches import BucketBatches, LocalBatches, Numbered, beyond, stack
from ldm_jax.data.buckets import BucketOrder, assign_buckets, check_buckets
from ldm_jax.data.derived import Derived
from ldm_jax.data.mirrored_captions import check_flip_captions
from ldm_jax.data.source import Source
from ldm_jax.data.tokenizers import Tokenizer
from ldm_jax.data.transforms import WHITE, transform_example

_ANSWERS = ("context", "embedding")  # of a frozen conditioner, from a latent cache
_BATCH_KEYS = (
    *("image", "moments", "class", "tokens", "boxes", "segmentation", "mask"),
    *_ANSWERS,
)
_DEFAULT_KEYS = ("image", "moments", "class", "tokens")


class Stream:
    """An iterator over this process's rows of each global batch, as dicts of NumPy arrays.

    Its state counts global batches, so it may be restored in a run with another number of
    processes; batch size, seed, order and data set size must be the same.

    Attributes:
      batch_size: rows per batch in all processes together.
      local_batch_size: rows per batch here.
      num_examples: of one pass over the data.
      steps_per_epoch: global batches per pass over the data, a float.
      indices: of the batch given last, the numbers of its examples in the whole source; of what
        stands in for a broken file, its own.
    """

    def __init__(
        self,
        batches: LocalBatches | BucketBatches,
        reading: tuple[int, int],
        contract: dict[str, Any],
    ):
        import grain

        num_threads, prefetch = reading
        self._contract = contract
        self._iterator = iter(
            grain.MapDataset.source(batches).to_iter_dataset(
                grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
            )
        )
        self.batch_size = batches.batch_size
        self.local_batch_size = batches.rows
        self.num_examples = contract["num_examples"]
        self.steps_per_epoch = self.num_examples / batches.batch_size
        self.indices = np.zeros(0, np.int64)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        batch, self.indices = next(self._iterator)
        return batch

    def get_state(self) -> dict[str, Any]:
        """Returns the position, for `json.dumps`: what was handed out, not what was prefetched."""
        return {**self._contract, "iterator": self._iterator.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues right after the batch at which `get_state` was called.

        Raises:
          UserError: if the state belongs to another stream of batches.
        """
        for key, expected in self._contract.items():
            if state.get(key) != expected:
                raise UserError(
                    f"data: cannot resume, {key} is {expected!r} and was {state.get(key)!r} in the "
                    "saved state. Legal: the value of the run that is resumed."
                )
        self._iterator.set_state(dict(state["iterator"]))


def make_stream(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    channels: int = 3,
    seed: int = 0,
    shuffle: bool = True,
    tokenizer: Tokenizer | None = None,
    random_crop: bool = False,
    flip_probability: float = 0.0,
    flip_captions: str = "refuse",
    buckets: Sequence[tuple[int, int]] | None = None,
    background: tuple[int, int, int] = WHITE,
    num_threads: int = 8,
    prefetch: int = 16,
    process_index: int = 0,
    process_count: int = 1,
    keys: Sequence[str] | None = None,
    derive: Mapping[str, Derived] | None = None,
    limits: Mapping[str, int] | None = None,
    num_epochs: int | None = None,
) -> Stream:
    """Returns the stream of batches of `source`.

    The global batch at step s depends on the source and on `seed`, `shuffle`, `batch_size`, the
    tokenizer and the transforms alone; process p of n holds its rows p b .. (p + 1) b - 1 for
    b = batch_size / n, and reads no others. Each epoch is shuffled and transformed anew; batches
    run across the border of epochs.

    With `buckets` every batch is of one size, that of the bucket whose aspect ratio is nearest to
    its examples', in an order that `BucketOrder` describes; all the above holds too. The sizes of
    all examples are read first (see `buckets.example_size`), by every process for itself.

    Args:
      source: at least one example; a `LatentCache` gives `moments` in place of images.
      batch_size: of all processes together.
      image_size: side of the square images, uint8 [b, image_size, image_size, channels].
      channels: 3 or 1.
      seed: in [0, 2^32).
      tokenizer: turns the source's text into tokens, int32 [b, length].
      random_crop: a random instead of the central square.
      flip_probability: of mirroring left and right.
      flip_captions: what mirroring does where the batch has captions that say left or right:
        'refuse' leaves those examples as they are, so that captions stay true; 'swap' exchanges the
        words; 'any' mirrors nevertheless. English words only, see `mirrored_captions`.
      buckets: sizes of images, (height, width), in place of `image_size`; see
        `buckets.bucket_sizes`.
      background: RGB behind transparent pixels.
      num_threads: batches prepared at once.
      prefetch: batches prepared ahead; 0 prepares each when it is asked for.
      keys: what goes into a batch, of image, class, tokens, boxes, segmentation, mask and what is
        derived, which hides the source's own entry of its name. Default: image, what is derived,
        and class and tokens where they are there.
      derive: what is made of the cropped examples, by the name of its entry.
      limits: exclusive maxima of entries of whole numbers; an example beyond one, or below 0, is a
        UserError when its batch is drawn.
      num_epochs: None never ends.

    Raises:
      UserError: for arguments that do not fit each other or the source.
    """
    import grain  # costs a second to import

    for name, value in (("num_threads", num_threads), ("prefetch", prefetch)):
        if value < 0:
            raise UserError(f"data.{name}: got {value}. Legal: 0 or more.")
    if not 0 <= flip_probability <= 1:
        raise UserError(f"data.flip_probability: got {flip_probability}. Legal: 0 to 1.")
    check_flip_captions(flip_captions)
    _check_sizes(source, batch_size, process_index, process_count, seed, num_epochs)
    keys = _check_keys(source, tokenizer, keys, derive)
    tokenize = tokenizer if "tokens" in _wanted(keys, derive) else None
    if flip_captions == "swap" and flip_probability and set(_ANSWERS) & set(keys):
        raise UserError(
            "data.flip_captions: got 'swap', but the latent cache holds what the captions gave as "
            "they are. Legal: refuse, any, or a cache without --conditioning."
        )

    def prepare(
        example: dict[str, Any],
        rng: np.random.Generator,
        size: int | tuple[int, int] = image_size,
    ) -> tuple[dict[str, Any], int]:
        whole = transform_example(
            _select(example, keys, derive),
            rng,
            image_size=size,
            channels=channels,
            random_crop=random_crop,
            flip_probability=flip_probability,
            flip_captions=flip_captions,
            background=background,
            tokenize=tokenize,
            derive=derive,
        )
        number = example["index"]
        return _within({key: whole[key] for key in keys}, limits, number), number

    contract: dict[str, Any] = {
        "batch_size": batch_size,
        "seed": seed,
        "shuffle": shuffle,
        "num_examples": len(source),
    }
    reading = min(num_threads, prefetch), prefetch
    if buckets is not None:
        buckets = check_buckets(buckets)
        order = _bucket_order(source, buckets, batch_size, seed, shuffle, num_threads)
        contract["bucket_counts"] = order.counts
        local = batch_size // process_count
        rows = batch_size, process_index * local, local
        numbered = _numbered(source, limits, derive)
        bucketed = BucketBatches(numbered, order, buckets, prepare, seed, rows, num_epochs)
        return Stream(bucketed, reading, contract)
    examples = grain.MapDataset.source(_numbered(source, limits, derive)).seed(seed)
    if shuffle:
        examples = examples.shuffle()
    examples = examples.repeat(num_epochs).random_map(prepare)
    return Stream(
        LocalBatches(examples, batch_size, process_index, process_count), reading, contract
    )


def load_examples(
    source: Source,
    indices: Sequence[int],
    *,
    image_size: int,
    channels: int = 3,
    tokenizer: Tokenizer | None = None,
    background: tuple[int, int, int] = WHITE,
    keys: Sequence[str] | None = None,
    derive: Mapping[str, Derived] | None = None,
    limits: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Returns the chosen examples as one batch, cropped in the middle, never mirrored.

    The keys are those of `make_stream`, and `text`, a list of captions, where the source has it.
    """
    if len(indices) < 1:
        raise UserError("load_examples: got no indices. Legal: at least one.")
    keys = _check_keys(source, tokenizer, keys, derive)
    tokenize = tokenizer if "tokens" in _wanted(keys, derive) else None
    numbered = _numbered(source, limits, derive)
    chosen = [numbered[int(index)] for index in indices]
    prepared = [
        transform_example(
            _select(example, keys, derive),
            np.random.default_rng(int(index)),  # of what is derived: the same every time
            image_size=image_size,
            channels=channels,
            background=background,
            tokenize=tokenize,
            derive=derive,
        )
        for index, example in zip(indices, chosen, strict=True)
    ]
    batch: dict[str, Any] = stack(
        [
            _within({key: x[key] for key in keys}, limits, example["index"])
            for x, example in zip(prepared, chosen, strict=True)
        ]
    )
    if "text" in chosen[0]:
        batch["text"] = [example["text"] for example in chosen]
    return batch


def _within(
    example: dict[str, Any], limits: Mapping[str, int] | None, index: int
) -> dict[str, Any]:
    """Returns an example whose numbers lie below their limits."""
    found = beyond(example, limits or {})
    if found is None:
        return example
    why, limit = found
    raise UserError(f"data: example {index} has {why}. Legal: 0 to {limit - 1}.")


def _numbered(
    source: Source, limits: Mapping[str, int] | None, derive: Mapping[str, Derived] | None
) -> Numbered:
    """Returns the source with its numbers; what is derived hides the entry of the same name."""
    return Numbered(source, {k: v for k, v in (limits or {}).items() if k not in (derive or {})})


def _bucket_order(
    source: Source,
    buckets: Sequence[tuple[int, int]],
    batch_size: int,
    seed: int,
    shuffle: bool,
    num_threads: int,
) -> BucketOrder:
    if "moments" in source[0]:
        raise UserError(
            f"data.buckets: {source!r} holds latents of one size. Legal: training on images."
        )
    assigned = assign_buckets(source, buckets, num_threads)
    return BucketOrder(assigned, len(buckets), batch_size, seed, shuffle)


def _wanted(keys: Sequence[str], derive: Mapping[str, Derived] | None) -> list[str]:
    """Returns what must be there before anything is derived: `keys`, and what that reads."""
    made = derive or {}
    names = [*keys, *(name for make in made.values() for name in make.reads)]
    return [name for name in names if name not in made]


def _select(
    example: dict[str, Any], keys: Sequence[str], derive: Mapping[str, Derived] | None
) -> dict[str, Any]:
    """Returns what is asked of the source.

    Tokens are made of its text, and what was made of it before obeys it when it comes to mirroring.
    """
    wanted = ["text" if key == "tokens" else key for key in _wanted(keys, derive)]
    if "text" in example and set(_ANSWERS) & set(keys):
        wanted.append("text")
    return {key: example[key] for key in wanted}


def _check_sizes(
    source: Source,
    batch_size: int,
    process_index: int,
    process_count: int,
    seed: int,
    num_epochs: int | None,
) -> None:
    if batch_size < 1:
        raise UserError(f"data.batch_size: got {batch_size}. Legal: at least 1.")
    check_divides("process_count", process_count, "data.batch_size", batch_size)
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index: got {process_index}. Legal: 0 .. {process_count - 1}.")
    if not 0 <= seed < 2**32:
        raise UserError(f"data.seed: got {seed}. Legal: 0 .. 2^32 - 1.")
    if num_epochs is not None and num_epochs < 1:
        raise UserError(f"data.num_epochs: got {num_epochs}. Legal: None, or at least 1.")
    if batch_size > len(source):
        raise UserError(
            f"data.batch_size: got {batch_size}, more than the {len(source)} examples of {source!r}"
            f". Legal: at most {len(source)}."
        )


def _check_keys(
    source: Source,
    tokenizer: Tokenizer | None,
    keys: Sequence[str] | None,
    derive: Mapping[str, Derived] | None,
) -> tuple[str, ...]:
    """Returns the keys of a batch, in order, after looking at the first example."""
    available = dict(source[0])
    if tokenizer is not None:
        if "text" not in available:
            raise UserError(
                f"data.tokenizer: {source!r} has no captions; its examples have "
                f"{', '.join(available)}. Legal: no tokenizer, or a source with text."
            )
        available["tokens"] = tokenizer.empty
    for name, make in (derive or {}).items():
        for needed in make.reads:
            if needed not in (*available, "index"):
                raise UserError(
                    f"data.derive.{name}: needs {needed}, which {source!r} lacks. Its examples "
                    f"have {', '.join(available)}."
                )
    more = tuple(derive or ())
    legal = tuple(key for key in _BATCH_KEYS if key in available and key not in more) + more
    if keys is None:
        return tuple(key for key in _DEFAULT_KEYS if key in available and key not in more) + more
    for key in keys:
        if key not in legal:
            hint = " (tokens need a tokenizer)" if key == "tokens" else ""
            raise UserError(
                f"data.keys: got {key!r}{hint} for {source!r}. Legal: {', '.join(legal)}."
            )
    needed = "moments" if "moments" in available else "image"
    if needed not in keys:
        raise UserError(f"data.keys: got {tuple(keys)}. Legal: tuples with {needed}.")
    return tuple(keys)
