"""Pictures that somebody brings, as `evaluate.py images=` reads them."""

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ffbp.errors import DataError
from ffbp.evaluation import read_images

RAMP = np.linspace(0, 255, 28 * 28).round().reshape(28, 28).astype(np.uint8)


def as_ink(colour: int) -> Image.Image:
    """The ramp as the opacity of ink on nothing."""
    grey = Image.new("L", (28, 28), colour)
    return Image.merge("RGBA", (grey, grey, grey, Image.fromarray(RAMP)))


PICTURES = {
    "eight bits.png": Image.fromarray(RAMP),
    "sixteen bits.png": Image.fromarray(RAMP.astype(np.uint16) * 257),
    "thirty-two bits.tif": Image.fromarray(RAMP.astype(np.int32) * 257),
    "floats.tif": Image.fromarray(RAMP.astype(np.float32) / 255),
    "grey and opaque.png": Image.fromarray(RAMP).convert("LA"),
    "coloured.png": Image.fromarray(RAMP).convert("RGB"),
    "palette.png": Image.fromarray(RAMP).convert("P"),
    "for print.tif": Image.fromarray(RAMP).convert("CMYK"),
    "white ink.png": as_ink(255),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_any_mode_is_read_as_it_looks(name, tmp_path):
    PICTURES[name].save(tmp_path / name)
    images = read_images([tmp_path / name], (1, 28, 28)).images
    assert np.array_equal(images[0, 0], RAMP)


def test_pictures_on_transparent_paper_turned_animated_and_black_and_white(tmp_path):
    as_ink(0).save(tmp_path / "black ink.png")
    images = read_images([tmp_path / "black ink.png"], (3, 28, 28), invert=True).images
    assert all(np.array_equal(channel, RAMP) for channel in images[0])
    with pytest.raises(DataError, match="nothing shows on black"):
        read_images([tmp_path / "black ink.png"], (1, 28, 28), invert=False)
    turned = Image.Exif()
    turned[0x112] = 3
    Image.fromarray(RAMP).save(tmp_path / "turned.png", exif=turned)
    Image.fromarray(RAMP).save(tmp_path / "two.gif", save_all=True, append_images=[Image.new("L", (28, 28))])
    Image.fromarray(RAMP).convert("1").save(tmp_path / "one bit.png")
    names = [tmp_path / name for name in ("turned.png", "two.gif", "one bit.png")]
    images = read_images(names, (1, 28, 28)).images
    assert np.array_equal(images[0, 0], RAMP[::-1, ::-1])
    assert np.array_equal(images[1, 0], RAMP)
    assert set(images[2].unique().tolist()) == {0, 255}


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(RAMP).save(path)
    whole = path.read_bytes()
    assert whole[37:41] == b"IDAT"
    size = whole[:16] + (60_000).to_bytes(4, "big") * 2 + whole[24:29]
    bomb = size + zlib.crc32(size[12:]).to_bytes(4, "big") + whole[33:]
    floats = io.BytesIO()
    Image.fromarray(RAMP.astype(np.float32)).save(floats, "TIFF")
    broken = [whole[:33] + b"\0\0\0\1zzzz" + whole[33:], whole[:37] + b"I\0AT" + whole[41:], whole[:60], b"", bomb]
    for content in [*broken, floats.getvalue(), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"x\.png: cannot be read as an image"):
            read_images([path], (1, 28, 28), invert=False)
    path.unlink()
    os.mkfifo(path)
    for wrong in (path, tmp_path / "none.png", Path("/dev/zero")):
        with pytest.raises(DataError, match="cannot be read as an image"):
            read_images([wrong], (1, 28, 28), invert=False)
