"""The files of `ldm-jax sample`: images with what made them inside, a record, archives."""

import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm_jax.core.checks import UserError

RECORD = "samples.json"
INTERMEDIATE = "intermediate"
_GRID_IMAGES = 256
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


class SampleFolder:
    """A folder of numbered images that knows what it holds.

    Its record, `samples.json`, is written first and says what every image is made of. A later call
    that makes the same images finds them and draws only what is not there yet, be it more of them;
    another call replaces what the record names, and nothing else.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]):
        """Takes over the folder.

        Args:
          path: made if it is not there.
          settings: of all images.
          rows: of each image, beside its file and index.

        Raises:
          UserError: a file of ours is in the way that no record names.
        """
        self._path = path
        self._rows = [{"file": self._name(k), "index": k, **row} for k, row in enumerate(rows)]
        self._settings = {**settings, "num_images": len(rows)}
        path.mkdir(parents=True, exist_ok=True)
        self._make_room()
        record = json.dumps({**self._settings, "images": self._rows}, indent=2) + "\n"
        file = path / RECORD
        if not file.is_file() or file.read_text() != record:
            _write(file, record.encode())

    def __len__(self) -> int:
        return len(self._rows)

    def has(self, numbers: Iterable[int]) -> bool:
        """Returns whether all of these images are there, and whole."""
        return all(_is_whole(self._path / self._name(k)) for k in numbers)

    def save(self, number: int, image_u8: np.ndarray) -> None:
        """Writes one image [H, W, 1 or 3] as PNG, with what made it under the key 'parameters'."""
        info = PngInfo()
        info.add_text("parameters", json.dumps({**self._settings, **self._rows[number]}))
        save_whole_png(self._path / self._name(number), image_u8, info)

    def save_intermediate(self, number: int, row: int, image_u8: np.ndarray) -> None:
        """Writes what the image was expected to be after so many rows of the sampler's table."""
        folder = self._path / INTERMEDIATE
        folder.mkdir(exist_ok=True)
        save_whole_png(folder / f"{number:05d}_{row:04d}.png", image_u8)

    def save_grid(self, grid: Any) -> None:
        """Writes `grid.png` of the first images; `grid` makes one image of many."""
        shown = [self._read(k) for k in range(min(len(self), _GRID_IMAGES))]
        save_whole_png(self._path / "grid.png", grid(np.stack(shown)))

    def save_npz(self) -> Path:
        """Writes all images as ADM's evaluation reads them: `arr_0`, uint8 [n, H, W, C], one .npz.

        One image at a time is in memory, however many there are.
        """
        shape = (len(self), *self._read(0).shape)
        path = self._path / _archive(shape)
        partial = path.with_suffix(".partial")
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with (
            zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
            archive.open("arr_0.npy", "w", force_zip64=True) as array,
        ):
            np.lib.format.write_array_header_1_0(array, header)
            for k in range(len(self)):
                array.write(self._read(k).tobytes())
        os.replace(partial, path)
        return path

    def _read(self, number: int) -> np.ndarray:
        with Image.open(self._path / self._name(number)) as image:
            pixels = np.asarray(image)
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def _make_room(self) -> None:
        """Removes what an earlier call left, but for images that ours would equal."""
        before = self._earlier()
        if before is None:
            for row in self._rows:
                if (self._path / row["file"]).exists():
                    raise UserError(
                        f"{self._path}: holds {row['file']}, which no {RECORD} names. Legal: an "
                        "empty folder, or that of an earlier call."
                    )
            return
        same = _identity(before) == _identity(self._settings)
        ours = {row["file"]: row for row in self._rows} if same else {}
        stale = [row for row in before["images"] if ours.get(row["file"]) != row]
        if stale:
            print(f"note: {len(stale)} images of another call in {self._path} are replaced")
        for row in stale:
            (self._path / Path(row["file"]).name).unlink(missing_ok=True)
            for file in (self._path / INTERMEDIATE).glob(f"{Path(row['file']).stem}_*.png"):
                file.unlink()
        if stale or len(before["images"]) != len(self._rows):
            (self._path / "grid.png").unlink(missing_ok=True)
            for file in self._path.glob(_archive((len(before["images"]), "*"))):
                file.unlink()

    def _earlier(self) -> dict[str, Any] | None:
        """Returns the record that is there; None without a whole one."""
        try:
            found = json.loads((self._path / RECORD).read_text())
            named = all(isinstance(row["file"], str) for row in found["images"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if named and isinstance(found.get("sample"), dict) else None

    @staticmethod
    def _name(number: int) -> str:
        return f"{number:05d}.png"


def _archive(shape: Sequence[Any]) -> str:
    return f"{'x'.join(map(str, shape))}-samples.npz"


def _identity(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what pixels depend on: no paths, whose contents are hashed, and no sizes of work."""
    free = ("images", "num_images", "checkpoint")
    found = {key: value for key, value in settings.items() if key not in free}
    for name in ("conditions", "image", "mask", "regions"):
        if name in found:
            found[name] = found[name]["sha256"]
    work = ("per_device_batch", "decode_batch", "grid_images")
    found["sample"] = {k: v for k, v in found["sample"].items() if k not in work}
    return json.loads(json.dumps(found))


def _is_whole(path: Path) -> bool:
    """Returns whether a PNG is there to its last chunk."""
    try:
        with path.open("rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False


def save_whole_png(path: Path, image_u8: np.ndarray, info: PngInfo | None = None) -> None:
    """Writes one uint8 image [H, W, 1 or 3], so that a reader finds all of it or none."""
    image = Image.fromarray(image_u8[..., 0] if image_u8.shape[-1] == 1 else image_u8)
    partial = path.with_suffix(".partial")
    image.save(partial, format="PNG", pnginfo=info)
    os.replace(partial, path)


def read_image(flag: str, path: str, channels: int) -> np.ndarray:
    """Returns an image file as uint8 [H, W, C].

    Raises:
      UserError: no such file, or none that Pillow can read.
    """
    try:
        with Image.open(Path(path).expanduser()) as image:
            pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{flag}={path}: cannot be read as an image ({error}).") from error
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _write(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
