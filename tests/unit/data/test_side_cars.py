"""Maps, masks and boxes beside an image, and what is wrong with them."""

import io
import json
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.data.file_source import BadExample
from ldm_jax.data.folder import Folder
from ldm_jax.data.side_cars import as_mask, decode_map, pad_all_boxes, parse_boxes

NUMBERS = np.arange(24, dtype=np.uint8).reshape(4, 6)
MASK = (NUMBERS % 5 == 0).astype(np.uint8)


def stored(image, format_="PNG"):
    file = io.BytesIO()
    image.save(file, format_)
    file.seek(0)
    return file


def palette(numbers, colours=None):
    image = Image.fromarray(numbers).convert("P")
    image.putpalette(colours or np.random.default_rng(0).integers(0, 256, 768).tolist())
    image.putdata(numbers.reshape(-1).tolist())
    return image


def few_bit_png(rows, bits):
    """Returns a grey PNG of 8 / bits columns per byte, which Pillow can read but not write."""

    def chunk(kind, content):
        whole = kind + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    width = len(rows[0]) * 8 // bits
    header = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", content), chunk(b"IEND", b"")]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_a_map_is_the_numbers_in_the_file_not_their_colours():
    np.testing.assert_array_equal(decode_map(stored(palette(NUMBERS))), NUMBERS)
    np.testing.assert_array_equal(decode_map(stored(Image.fromarray(NUMBERS))), NUMBERS)
    np.testing.assert_array_equal(decode_map(stored(Image.fromarray(MASK > 0))), MASK)
    as_colours = np.repeat(NUMBERS[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(decode_map(stored(Image.fromarray(as_colours))), NUMBERS)
    wide = Image.fromarray(NUMBERS.astype(np.uint16))
    np.testing.assert_array_equal(decode_map(stored(wide)), NUMBERS)
    assert decode_map(stored(wide)).dtype == np.uint8


def test_greys_of_few_bits_are_not_stretched():
    np.testing.assert_array_equal(decode_map(few_bit_png([[0x0F, 0x72]], 4)), [[0, 15, 7, 2]])
    np.testing.assert_array_equal(decode_map(few_bit_png([[0b00011011]], 2)), [[0, 1, 2, 3]])


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (2, 2), (1, 2, 3)),
        Image.new("RGBA", (2, 2)),
        Image.fromarray(np.full((2, 2), 256, np.uint16)),
    ],
)
def test_colours_are_no_map(image):
    with pytest.raises(BadExample, match=r"a map of mode \S+, expected palette or grey with numb"):
        decode_map(stored(image))


def test_masks():
    for value in (1, 255, 7):
        np.testing.assert_array_equal(as_mask(MASK * np.uint8(value)), MASK)
    np.testing.assert_array_equal(as_mask(np.zeros((2, 2), np.uint8)), np.zeros((2, 2)))
    np.testing.assert_array_equal(as_mask(np.full((2, 2), 255, np.uint8)), np.ones((2, 2)))
    with pytest.raises(BadExample, match=r"^a mask of the values 0, 1, 2, 3, …, expected 0 and on"):
        as_mask(NUMBERS)
    with pytest.raises(BadExample, match=r"^a mask of the values 1, 2, expected 0 and one other$"):
        as_mask(np.array([[1, 2]], np.uint8))


def test_boxes():
    rows = [[0, 0.25, 1, 0.5, 3], [0.1, 0, 0.2, 1, 0]]
    boxes = parse_boxes(rows)
    assert boxes.dtype == np.float32
    np.testing.assert_array_equal(boxes, np.array(rows, np.float32))
    padded = pad_all_boxes([boxes, parse_boxes(None), parse_boxes(rows[:1])])
    assert [each.shape for each in padded] == [(2, 5)] * 3
    np.testing.assert_array_equal(padded[1], np.full((2, 5), -1))
    np.testing.assert_array_equal(padded[2][0], boxes[0])
    assert pad_all_boxes([parse_boxes([])])[0].shape == (1, 5)


@pytest.mark.parametrize(
    "value",
    [
        [[0, 0, 1, 1]],
        [[0.5, 0, 0.5, 1, 0]],
        [[0, 0, 1.5, 1, 0]],
        [[0, 0, 10, 20, 0]],
        [[0, 0, 1, 1, 0.5]],
        [[0, 0, 1, 1, -1]],
        [[0, 0, 1, 1, float("nan")]],
        [[0, 0, 1, 1, float("inf")]],
        [[0, 0, 1, 1, 2**24]],
        [[0, 0, 1, 1, 10**20]],
        [[0, 0, 1, 1, "cat"]],
        [[0, 0, 1, True, 1]],
        ["box"],
    ],
)
def test_what_is_no_box(value):
    text = f"the box {json.dumps(value[0])}, expected [x0, y0, x1, y1, class] with 0 <= x0 < x1"
    with pytest.raises(BadExample, match=re.escape(text)):
        parse_boxes(value)


def test_a_class_beyond_all_floats_is_no_box():
    with pytest.raises(
        BadExample, match=r"the box \[0, 0, 1, 1, 10{43}…, expected .* below 2\^24$"
    ):
        parse_boxes([[0, 0, 1, 1, 10**400]])


def test_boxes_are_a_list():
    with pytest.raises(BadExample, match=r'boxes are \{"x": 1\}, expected a list'):
        parse_boxes({"x": 1})


@pytest.fixture
def folder(tmp_path):
    """Three images with maps and masks by name."""
    for k in range(3):
        Image.new("RGB", (6, 4), (k, k, k)).save(tmp_path / f"{k}.jpg")
        palette(NUMBERS + np.uint8(k)).save(tmp_path / f"{k}.segmentation.png")
        Image.fromarray(MASK * np.uint8(255)).save(tmp_path / f"{k}.mask.png")
    return tmp_path


def write_rows(folder, rows):
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_maps_beside_the_images_of_a_folder(folder):
    source = Folder(str(folder))
    assert len(source) == 3  # the maps are no images
    for k in range(3):
        assert list(source[k]) == ["image", "segmentation", "mask"]
        np.testing.assert_array_equal(source[k]["segmentation"], NUMBERS + k)
        np.testing.assert_array_equal(source[k]["mask"], MASK)
        assert source[k]["mask"].dtype == source[k]["segmentation"].dtype == np.uint8
    assert list(Folder(str(folder), side_cars=("mask",))[0]) == ["image", "mask"]
    plain = Folder(str(folder), side_cars=())
    assert list(plain[0]) == ["image"]
    assert len(plain) == 3
    assert len({plain.fingerprint(), source.fingerprint()}) == 2
    assert repr(plain).endswith("max_bad_fraction=0.01, side_cars=())")


def test_maps_beside_the_images_that_metadata_names(folder):
    write_rows(folder, [{"file_name": f"{k}.jpg", "text": "x"} for k in (2, 0)])
    source = Folder(str(folder))
    np.testing.assert_array_equal(source[0]["segmentation"], NUMBERS + 2)


def test_columns_name_maps_and_boxes(folder):
    (folder / "maps").mkdir()
    palette(NUMBERS * np.uint8(2)).save(folder / "maps" / "x.png")
    row = {"segmentation": "maps/x.png", "mask": "0.mask.png"}
    boxes = [[0, 0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1, 2]]
    write_rows(
        folder, [{"file_name": "0.jpg", **row, "boxes": boxes}, {"file_name": "1.jpg", **row}]
    )
    first, second = (Folder(str(folder))[k] for k in (0, 1))
    np.testing.assert_array_equal(first["segmentation"], NUMBERS * 2)
    np.testing.assert_array_equal(second["mask"], MASK)
    np.testing.assert_array_equal(first["boxes"], boxes)
    np.testing.assert_array_equal(second["boxes"], np.full((2, 5), -1))


def refused(folder, **arguments):
    with pytest.raises(UserError) as error:
        Folder(str(folder), **arguments)
    return str(error.value)


def test_columns_that_are_wrong(folder):
    file = folder / "metadata.jsonl"
    write_rows(folder, [{"file_name": "0.jpg", "mask": "0.mask.png"}, {"file_name": "1.jpg"}])
    assert refused(folder) == (
        f"{file}: row 2 has no mask, a file name, as others have. Legal: one in every row, or "
        "data.source.side_cars without mask."
    )
    assert len(Folder(str(folder), side_cars=("segmentation",))) == 2
    write_rows(folder, [{"file_name": "0.jpg", "boxes": [[0, 0, 40, 50, 1]]}])
    assert refused(folder) == (
        f"{file}: row 1: the box [0, 0, 40, 50, 1], expected [x0, y0, x1, y1, class] with 0 <= x0 "
        "< x1 <= 1, 0 <= y0 < y1 <= 1 and a whole class, 0 or more, below 2^24. Legal: such "
        "rows, or data.source.side_cars without boxes."
    )
    assert refused(folder, side_cars=("masks",)) == (
        "data.source.side_cars: got 'masks'; did you mean 'mask'? Legal: segmentation, mask, boxes."
    )


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/x.png", "."])
def test_columns_name_no_file_outside_the_folder(folder, name):
    write_rows(folder, [{"file_name": "0.jpg", "mask": "0.mask.png"}] * 2)
    rows = [{"file_name": "0.jpg", "segmentation": "0.segmentation.png"}] * 2
    write_rows(folder, [*rows, {"file_name": "1.jpg", "segmentation": name}])
    assert refused(folder) == (
        f"{folder / 'metadata.jsonl'}: row 3: segmentation is '{name}'. Legal: a file in the "
        "folder or below it, by its path from there, without '..'."
    )
    assert len(Folder(str(folder), side_cars=("mask",))) == 3


def test_side_cars_that_are_asked_for_must_be_there(folder):
    for k in range(3):
        (folder / f"{k}.mask.png").unlink()
    assert refused(folder, side_cars=("mask",)) == (
        f"data.source.side_cars: no mask in {folder}. Expected files such as 0.mask.png, or the "
        "column mask in metadata.jsonl."
    )
    assert refused(folder, side_cars=("boxes",)) == (
        f"data.source.side_cars: no boxes in {folder}. Expected the column boxes in metadata.jsonl."
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda file: file.unlink(), "1.mask.png: missing"),
        (lambda file: file.write_bytes(b"no"), "1.mask.png: UnidentifiedImageError: cannot ident"),
        (
            lambda file: Image.fromarray(MASK[:3]).save(file),
            "1.mask.png: 6 × 3 pixels, but the image has 6 × 4",
        ),
        (
            lambda file: Image.fromarray(NUMBERS).save(file),
            "1.mask.png: a mask of the values 0, 1, 2, 3, …, expected 0 and one other",
        ),
        (
            lambda file: Image.new("RGBA", (6, 4)).save(file),
            "1.mask.png: a map of mode RGBA, expected palette or grey with numbers 0 to 255",
        ),
    ],
)
def test_an_image_with_a_bad_map_is_quarantined(folder, spoil, reason):
    spoil(folder / "1.mask.png")
    source = Folder(str(folder), max_bad_fraction=0.5)
    np.testing.assert_array_equal(source[1]["segmentation"], NUMBERS + 2)
    assert list(source.quarantine) == [str(folder / "1.jpg")]
    assert source.quarantine[str(folder / "1.jpg")].startswith(reason)
    message = rf"1 of 3 images \(33.3%\) .*1\.jpg \({re.escape(reason)}.*max_bad_fraction=0.01"
    with pytest.raises(UserError, match=message):
        Folder(str(folder))[1]


def test_maps_without_an_image_are_told(folder, caplog):
    (folder / "2.jpg").unlink()
    with caplog.at_level("WARNING"):
        assert len(Folder(str(folder))) == 2
    assert "2 maps have no image beside them, such as" in caplog.text
