"""Spoiled settings, metrics, IDX files and pictures."""

import gzip
import io
import json
import shutil
from pathlib import Path
from random import Random

import yaml
from mutations import IN_SETTINGS, IN_TEXT, mutate_bytes, mutate_tree
from PIL import Image

from ffbp.data.sources import digits


def spoil_yaml(text: str, dice: Random) -> bytes:
    """Spoil a YAML file."""
    kind = dice.random()
    if kind < 0.25:
        return mutate_bytes(text.encode(), dice)
    if kind < 0.4:
        lines = text.splitlines()
        lines.insert(dice.randrange(len(lines) + 1), dice.choice(LINES))
        return "\n".join(lines).encode("utf-8", "surrogatepass")
    if kind < 0.45:
        return dice.choice((b"", bytes(99), text.encode("utf-16"), dice.randbytes(300), b"[" * 5000, LAUGHS.encode()))
    spoiled = mutate_tree(yaml.safe_load(text), dice, IN_SETTINGS)
    if isinstance(spoiled, dict):
        spoiled["y"] = "env"  # which some of the lookups need
    return yaml.dump(spoiled, sort_keys=False).encode()


LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]\n" for k in range(1, 9)
)
LINES = [
    "!!python/object/apply:os.system ['touch ../outside/new']",
    "x: !!python/name:os.system",
    "x: *nothing",
    "x: &a [*a]",
]
LINES += [
    "\t",
    "---",
    "...",
    "seed: 1",
    "<<: {a: 1}",
    "? x",
    "x: !!binary x",
    "- x",
    "x: 0x1F",
    "x: 12:30:45",
    "%YAML 9.9",
]
LINES += [
    "x: !!set {a}",
    "x: 2026-99-99",
    "'",
    '"',
    "x: " + "9" * 5000,
    "x: " + "[" * 300 + "]" * 300,
    "\ud800",
    "null: 1",
]


def spoil_json(text: str, dice: Random) -> bytes:
    """Spoil a JSON file."""
    kind = dice.random()
    if kind < 0.4:
        return mutate_bytes(text.encode(), dice)
    if kind < 0.5:
        others = (b"", b"[", b"[" * 100_000, b"null", b"[]", b"1", b'"x"', b"{}", dice.randbytes(99), b'{"a": 1e999}')
        return dice.choice((*others, b"1" * 10_000, text.encode("utf-16"), text.encode() * 2))
    return json.dumps(mutate_tree(json.loads(text), dice, IN_TEXT)).encode()


def spoil_csv(text: str, dice: Random) -> bytes:
    """Spoil a CSV file."""
    if dice.random() < 0.5:
        return mutate_bytes(text.encode(), dice)
    rows = [line.split(",") for line in text.splitlines()]
    values = ("", "x", "nan", "inf", "-1", "1e999", '"', "\0", "1" * 5000, "'", "a\nb", "\r", "é", "<b>", "1,2")
    for _ in range(dice.choice((1, 2, 5))):
        row = dice.choice(rows)
        row[dice.randrange(len(row))] = dice.choice(values)
    return "\n".join(map(",".join, rows[: dice.choice((None, None, 1, 0))])).encode()


def write_small_set(folder: Path) -> None:
    """A data set of 80 and 20 digits, as IDX files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for part, (images, labels), count in zip(("train", "t10k"), digits(), (80, 20), strict=True):
        sizes = [number.to_bytes(4, "big") for number in (count, 28, 28)]
        for kind, tensor, first in (("images-idx3", images, b"".join(sizes)), ("labels-idx1", labels, sizes[0])):
            magic = bytes((0, 0, 8, int(kind[-1])))
            (folder / f"{part}-{kind}-ubyte").write_bytes(magic + first + tensor[:count].byte().numpy().tobytes())


def spoil_idx(data: bytes, dice: Random) -> bytes:
    """Spoil an IDX file, mostly its header."""
    kind = dice.random()
    if kind < 0.5:
        place = dice.randrange(0, 16, 4)
        value = dice.choice((0, 1, 27, 29, 2**31 - 1, 2**31, 2**32 - 1, dice.randrange(100)))
        return data[:place] + value.to_bytes(4, "big") + data[place + 4 :]
    return mutate_bytes(data, dice) if kind < 0.95 else dice.choice((b"", bytes(2**20), gzip.compress(data)))


PICTURES = [("png", "L"), ("png", "I;16"), ("png", "RGBA"), ("png", "P"), ("png", "1"), ("jpeg", "L"), ("jpeg", "CMYK")]
PICTURES += [
    ("gif", "P"),
    ("bmp", "RGB"),
    ("tiff", "L"),
    ("tiff", "F"),
    ("tiff", "RGB"),
    ("tiff", "I;16"),
    ("png", "LA"),
]


def spoil_picture(dice: Random) -> tuple[str, bytes]:
    """A suffix, and a picture spoiled in its bytes, its header or its size."""
    kind, mode = dice.choice(PICTURES)
    side = dice.choice((28, 28, 28, 1, 3, 400, 9000 if mode == "1" else 8))
    buffer = io.BytesIO()
    options = {"compression": dice.choice((None, "tiff_lzw", "tiff_deflate", "packbits"))} if kind == "tiff" else {}
    Image.new(mode, (side, dice.choice((28, side)))).save(buffer, kind, **options)
    data = buffer.getvalue()
    if dice.random() < 0.3:  # sizes stand near the start, in TIFF near the end too
        place = dice.randrange(min(len(data), 60)) * dice.choice((1, 1, -1))
        data = data[:place] + dice.choice((b"\xff\xff", b"\x7f\xff\xff\xff", bytes(2), b"\0\1\0\0")) + data[place + 2 :]
    return dice.choice((kind, kind, kind, "png", "tif", "txt")), mutate_bytes(data, dice)
