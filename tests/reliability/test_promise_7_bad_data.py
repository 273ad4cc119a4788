"""Promise 7: bad data never stop a run, never shift its batches, and are named with the reason.

Readers of single formats are tested in `tests/unit/data/`; here a run meets all kinds at once.
"""

import dataclasses
import io
import json
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm_jax.cli.main import main
from ldm_jax.core.config import build
from ldm_jax.data import SOURCES
from ldm_jax.data.folder import Folder
from ldm_jax.data.pipeline import make_stream
from ldm_jax.train.checkpoint import complete_steps

TINY = str(Path(__file__).parents[1] / "e2e" / "tiny.py")
COUNT, SIZE = 1200, 16  # so many that the odd ones stay below the default of max_bad_fraction


def colours(number):
    """Returns four quarters, [16, 16, 3], by which an image is told from all others."""
    corners = np.array([[number % 256, number // 256], [200, 90]], np.uint8)
    return np.repeat(np.kron(corners, np.ones((8, 8), np.uint8))[:, :, None], 3, axis=2)


def encoded(image, kind="PNG", **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def good(number):
    return encoded(Image.fromarray(colours(number)))


def bomb():
    """Returns a few bytes that say they are a PNG of 25,000 × 20,000 pixels."""

    def chunk(kind, data):
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", 25_000, 20_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    )


def animated(number, kind):
    """Returns a film whose first frame is the image of that number."""
    frames = [Image.fromarray(colours(n)) for n in (number, 7, 9)]
    how = {"lossless": True} if kind == "WEBP" else {}
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **how)


@dataclasses.dataclass(frozen=True)
class Odd:
    """A file among good ones, and how its quarantine begins; None: it is used."""

    suffix: str
    content: bytes
    reason: str | None = None


NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
ODD = {
    100: Odd(".jpg", encoded(Image.fromarray(NOISE), "JPEG")[:2000], "OSError: image file is trun"),
    101: Odd(".png", encoded(Image.fromarray(NOISE))[:2000], "OSError: image file is truncated"),
    102: Odd(".png", b"", "UnidentifiedImageError: cannot identify image file"),
    103: Odd(".png", encoded(Image.new("RGB", (1, 1))), "1x1 pixels"),
    104: Odd(".png", bomb(), "DecompressionBombError: Image size (500000000 pixels) exceeds"),
    105: Odd(".png", b"<html>404</html>", "UnidentifiedImageError: cannot identify image file"),
    200: Odd(".gif", animated(200, "GIF")),
    201: Odd(".webp", animated(201, "WEBP")),
    202: Odd(".png", animated(202, "PNG")),
    203: Odd(".jpg", encoded(Image.fromarray(colours(203)).convert("CMYK"), "JPEG", quality=100)),
}
BAD = {number: odd.reason for number, odd in ODD.items() if odd.reason is not None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for number in range(COUNT):
        odd = ODD.get(number, Odd(".png", b""))
        content = odd.content if number in ODD else good(number)
        (root / f"{number:04d}{odd.suffix}").write_bytes(content)
    return root


def train(capfd, task, workdir, source, **settings):
    """Returns the lines on standard error that are ours, of a run that must succeed."""
    capfd.readouterr()
    command = ["train", "--config", f"{TINY}:{task}", "--workdir", str(workdir)]
    command += [f"--config.data.source.{key}={value}" for key, value in source.items()]
    command += [f"--config.{key}={value}" for key, value in settings.items()]
    status = main([*command, "--config.sample.grid_images=0"])
    lines = capfd.readouterr().err.splitlines()
    assert status == 0, lines
    return [line for line in lines if line.startswith("ldm-jax: ")]


def quarantine(workdir):
    rows = [json.loads(row) for row in (workdir / "quarantine.jsonl").read_text().splitlines()]
    return {Path(row["file"]).name: row["reason"] for row in rows}


def test_a_run_through_every_kind_of_bad_file(folder, tmp_path, capfd):
    """A whole epoch is read, with default settings; the second half is another process's."""
    source = {"name": "folder", "path": folder}
    settings = {"train.batch_size": 120, "train.checkpoint_every": 5, "train.log_every": 5}
    lines = []
    for steps in (5, 10):
        more = {"train.steps": steps, "train.sample_every": steps}
        lines += train(capfd, "autoencoder", tmp_path / "run", source, **settings, **more)
    assert complete_steps(tmp_path / "run")[-1] == COUNT // 120
    names = {f"{number:04d}{ODD[number].suffix}": why for number, why in BAD.items()}
    found = quarantine(tmp_path / "run")
    assert set(found) == set(names)
    for name, why in names.items():
        assert found[name].startswith(why)
        assert any(f"quarantined {folder / name}: {why}" in line for line in lines)
    assert "files were quarantined; see " in lines[-1]
    assert lines[-1].endswith(str(tmp_path / "run" / "quarantine.jsonl"))


def test_the_stream_stays_in_place(folder):
    """Every batch is as without bad files but for what stands in: the next good one."""
    source = Folder(str(folder))
    stream = make_stream(source, batch_size=100, image_size=SIZE, seed=3, num_epochs=1)
    expected = make_stream(Good(), batch_size=100, image_size=SIZE, seed=3, num_epochs=1)
    batches = 0
    for batch, wanted in zip(stream, expected, strict=True):
        stands_in = [max(BAD) + 1 if n in BAD else n for n in expected.indices]
        np.testing.assert_array_equal(stream.indices, stands_in)
        for row, number in enumerate(expected.indices):
            exact = colours(max(BAD) + 1) if number in BAD else wanted["image"][row]
            close = 4 if number == 203 else 0  # a JPEG
            np.testing.assert_allclose(batch["image"][row].astype(int), exact, atol=close)
        batches += 1
    assert batches == COUNT // 100
    assert len(source.quarantine) == len(BAD)


class Good:
    """The same images, none of them broken."""

    class_names = None

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return {"image": colours(index)}


def test_wrong_labels(tmp_path, capfd):
    """A class beyond the model's table, one that is no number, and none at all."""
    labels = {3: "24", 5: "cat", 7: None, 8: "-1"}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(480):
            _add(tar, f"{number:03d}.png", good(number))
            label = labels.get(number, str(number % 24))
            if label is not None:
                _add(tar, f"{number:03d}.cls", label.encode())
    source = {"name": "webdataset", "path": tmp_path / "a.tar"}
    settings = {
        "task.first_stage.model.name": "identity",
        "task.model.out_channels": 3,
        "train.batch_size": 120,
        "train.steps": 4,
        "train.checkpoint_every": 4,
        "train.sample_every": 4,
    }
    train(capfd, "class", tmp_path / "run", source, **settings)
    assert quarantine(tmp_path / "run") == {
        "003": "class 24, but the model has a table of 24",
        "005": "class 'cat', expected a whole number",
        "007": "no class among its members .png",
        "008": "class '-1', expected a whole number",
    }


def _add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def test_rows_without_a_label(tmp_path):
    rows = [{"file_name": f"{n}.png", "kind": "ab"[n % 2]} for n in range(4)]
    del rows[2]["kind"]
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(good(number))
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"name": "folder", "path": str(tmp_path), "class_column": "kind"}
    source = build("source", SOURCES, {**settings, "max_bad_fraction": 0.25})
    assert [(source[n].get("index", n), source[n]["class"]) for n in range(4)] == [
        *((0, 0), (1, 1), (3, 1), (3, 1))
    ]
    assert source.quarantine == {str(tmp_path / "2.png"): "no 'kind' in its row of metadata.jsonl"}
