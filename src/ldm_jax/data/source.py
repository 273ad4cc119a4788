"""What a data source is."""

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Source(Protocol):
    """Random access to examples; safe under several reading threads.

    Example `i` is always the same example. It is a dict with

      image:         uint8 [H, W, C], C in 1 (grey), 2 (grey, alpha), 3 (RGB), 4 (RGBA).
      text:          str, optional, a caption.
      class:         int, optional, an index into `class_names` where these are known.
      boxes:         float32 [n, 5], optional: x0, y0, x1, y1 in [0, 1] and the class; unused rows
                     are -1 throughout.
      segmentation:  uint8 [H, W], optional, class per pixel.
      mask:          uint8 [H, W], optional, 1 where the image is to be filled in, 0 elsewhere.

    All examples of a source have the same keys, and `boxes` of the same shape. `repr(source)`
    depends on the arguments alone. A source of files that may be broken is a
    `ldm_jax.data.file_source.FileSource`, which says what then happens.

    A source may also have `size(index) -> (height, width)`, the shape of that example's image
    without decoding it, for aspect-ratio buckets.
    """

    class_names: tuple[str, ...] | None

    def __len__(self) -> int:
        """Returns the number of examples."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns example `index`, 0 <= index < len(self)."""
        ...
