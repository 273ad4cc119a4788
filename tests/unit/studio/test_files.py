"""What a browser sends is bounded before it is decoded, and what is sent back can be read."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ldm_jax.core.checks import UserError
from ldm_jax.studio.files import (
    KEY,
    MAX_UPLOAD,
    as_data_url,
    fitted,
    link,
    png,
    read_array,
    read_data_url,
    read_parameters,
    read_upload,
)

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image, kind="PNG", **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def bomb(width, height):
    """Returns a PNG whose head promises so many pixels, and whose body is a few bytes."""

    def chunk(name, data):
        whole = name + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_uploads_become_pixels():
    np.testing.assert_array_equal(read_upload(encoded(Image.fromarray(IMAGE)), 3), IMAGE)
    assert read_upload(encoded(Image.fromarray(IMAGE)), 1).shape == (6, 9, 1)
    turned = Image.fromarray(IMAGE).getexif()
    turned[0x0112] = 6
    upright = read_upload(encoded(Image.fromarray(IMAGE), "JPEG", exif=turned), 3)
    assert upright.shape == (9, 6, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a",
        encoded(Image.fromarray(IMAGE), "GIF"),
        encoded(Image.fromarray(IMAGE), "TIFF"),
        encoded(Image.fromarray(IMAGE))[:60],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        bomb(5000, 5000),
        bomb(60_000, 60_000),
        bytes(MAX_UPLOAD + 1),
    ],
    ids=["empty", "gif", "whole gif", "tiff", "cut", "eps", "svg", "bomb", "big bomb", "bytes"],
)
def test_other_uploads_are_refused_with_a_sentence(content):
    with pytest.raises(UserError) as error:
        read_upload(content, 3)
    assert str(error.value).startswith("upload: ")
    assert "\n" not in str(error.value)


def test_an_image_is_cut_to_the_size_around_its_middle():
    assert fitted(IMAGE, (6, 9)) is IMAGE
    found = fitted(np.repeat(IMAGE, 4, axis=1), (12, 12))
    assert found.shape == (12, 12, 3)
    assert fitted(IMAGE[..., :1], (3, 3)).shape == (3, 3, 1)


def test_parameters_go_through_a_png():
    record = {"prompt": "a – b ✓", "numbers": [1, 2.5], "long": "x" * 200_000}
    content = png(IMAGE, record)
    assert read_parameters(content) == record
    np.testing.assert_array_equal(read_upload(content, 3), IMAGE)
    assert len(content) < 20_000  # they are compressed
    noise = {"long": np.random.default_rng(0).bytes(1_000_000).hex()}
    assert read_parameters(png(IMAGE, noise)) == noise  # and longer than one chunk may be


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (png(IMAGE), "holds no parameters"),
        (encoded(Image.fromarray(IMAGE), "JPEG"), "in PNGs that the studio wrote"),
        (png(IMAGE, {"a": 1})[:120], "upload: "),
    ],
)
def test_pngs_of_others_are_refused(content, said):
    with pytest.raises(UserError, match=said):
        read_parameters(content)


def test_broken_parameters_are_refused():
    from PIL.PngImagePlugin import PngInfo

    for text in ("{", "[1]", "[" * 50_000):
        info = PngInfo()
        info.add_itxt(f"{KEY}.0", text)
        with pytest.raises(UserError, match="broken"):
            read_parameters(encoded(Image.fromarray(IMAGE), pnginfo=info))


def test_text_that_unpacks_to_gigabytes_is_refused():
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(f"{KEY}.0", " " * 50_000_000, zip=True)
    with pytest.raises(UserError, match="upload: "):
        read_parameters(encoded(Image.fromarray(IMAGE), pnginfo=info))


def test_what_the_easel_paints_is_a_png_of_the_size():
    mask = IMAGE[..., 0]
    np.testing.assert_array_equal(read_data_url(as_data_url(mask), (6, 9)), mask)
    for text in (None, "x", "data:text/html;base64,AA==", "data:image/png;base64,?", "file:///x"):
        with pytest.raises(UserError, match=r"mask: |upload: "):
            read_data_url(text, (6, 9))
    assert read_data_url(as_data_url(mask), (12, 18)).shape == (12, 18)
    with pytest.raises(UserError, match="Legal: up to 4096 a side"):
        read_data_url(as_data_url(np.zeros((1, 5000), np.uint8)), (6, 9))


def test_arrays_have_the_shape_that_is_read():
    file = io.BytesIO()
    np.save(file, np.ones((2, 3), np.float32))
    assert read_array(file.getvalue(), (3,)).shape == (2, 3)
    assert read_array(file.getvalue(), (2, 3)).shape == (1, 2, 3)
    with pytest.raises(UserError, match="array of numbers, of shape"):
        read_array(file.getvalue(), (4,))
    liar = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        liar, {"descr": "<f8", "fortran_order": False, "shape": (10**13, 3)}
    )
    with pytest.raises(UserError, match="promises more than it holds"):
        read_array(liar.getvalue(), (3,))
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match=r"not a \.npy file of numbers"):
        read_array(pickled.getvalue(), (1,))


def test_a_link_holds_its_file():
    assert link("a.png", b"abc", "image/png") == (
        '<a class="save" download="a.png" href="data:image/png;base64,YWJj">a.png</a>'
    )
