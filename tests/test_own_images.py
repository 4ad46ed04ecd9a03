"""Images of one's own: folders of files, and files of arrays, of any size and number of classes."""

import hashlib
import io
import os
import pickle
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import settings
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image
from shapes import make_folder
from torchvision import datasets

from ffbp.build import build
from ffbp.cli.words import with_quoted_path
from ffbp.data import FolderData, MemoryData, NpzData
from ffbp.data.pictures import decode
from ffbp.errors import ConfigError, DataError

THREE = ["bars", "circle", "cross"]


def data_of(*overrides: str) -> MemoryData:
    return build("data", settings(*overrides)["data"], seed=0)


FOLDER, NPZ = settings("data=folder")["data"], settings("data=npz")["data"]  # once: to compose them takes a while


def folder_data(path: Path, *, seed: int = 0, **changes: Any) -> FolderData:
    return build("data", FOLDER | {"path": str(path), "batch_size": 2} | changes, seed=seed)


def save(path: Path, pixels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Path:
    """Ten pictures of each of three classes, 12 x 20 pixels in colours."""
    return make_folder(tmp_path_factory.mktemp("pictures") / "shapes", 10, (20, 12), classes=3)


# -- folders


def test_a_folder_is_read_whole_and_divided_by_class(shapes):
    data = folder_data(shapes)
    assert data.class_names == THREE
    assert data.image_shape == (3, 12, 20)
    assert [len(part.labels) for part in (data.train, data.val, data.test)] == [21, 3, 6]
    assert data.test.labels.bincount().tolist() == [2, 2, 2]
    assert data.val.labels.bincount().tolist() == [1, 1, 1]
    there = {
        (k, np.asarray(Image.open(path)).tobytes())
        for k, name in enumerate(THREE)
        for path in (shapes / name).iterdir()
    }
    found = [
        (int(label), image.permute(1, 2, 0).numpy().tobytes())
        for part in (data.train, data.val, data.test)
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    assert len(found) == 30
    assert set(found) == there
    other_split, again = folder_data(shapes, split_seed=1, seed=1), folder_data(shapes)
    assert torch.equal(other_split.test.images, data.test.images)  # which never changes
    assert not torch.equal(other_split.val.images, data.val.images)
    assert torch.equal(again.train.images, data.train.images)
    assert again.fingerprint == data.fingerprint
    line = data.describe()
    assert line.startswith(
        "30 images of 12 x 20 pixels, in colours, in 3 classes (bars, circle, cross): 21 for training,"
    )


def test_train_and_test_folders_classes_by_number_deep_files_and_what_is_left_out(tmp_path):
    for part, classes in (("Train", ("2", "10", "1")), ("test", ("10", "2"))):
        for name in classes:
            save(tmp_path / part / name / "deep" / "er" / "b.png", np.full((4, 5), int(name)))
            save(tmp_path / part / name / "a.PNG", np.full((4, 5, 3), int(name) + 100))
    for junk in (
        "Train/1/.hidden.png",
        "Train/1/notes.txt",
        "Train/.git/x.png",
        "Train/__MACOSX/1/._a.png",
        "readme.md",
    ):
        (tmp_path / junk).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / junk).write_text("no picture")
    os.mkfifo(tmp_path / "test" / "2" / "pipe.png")
    (tmp_path / "Train" / "1" / "loop").symlink_to(tmp_path)
    data = folder_data(tmp_path, val_size=0)
    assert data.class_names == ["1", "2", "10"]
    assert data.train.images[:, 0, 0, 0].tolist() == [101, 1, 102, 2, 110, 10]  # grey, though half are saved in colours
    assert data.train.images.shape == (6, 1, 4, 5)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test.labels.tolist() == [1, 1, 2, 2]
    assert data.describe().endswith("6 for training, 4 for the test; 7 other files left out")


def test_a_class_may_have_any_name(tmp_path):
    for name in (b"a\xff", b"b\nc", b" ", "ü, [x]: 'y'".encode(), b"con"):
        for number in range(3):
            save(tmp_path / os.fsdecode(name) / f"{number}.png", np.zeros((4, 5)))
    data = folder_data(tmp_path, val_size=0, test_size=5)
    assert data.class_names == ["' '", "a\\udcff", "b c", "con", "ü, [x]: 'y'"]
    assert data.describe().isprintable()
    "".join(data.class_names).encode()  # as a checkpoint has to


def test_sizes_and_channels_that_are_asked_for(tmp_path):
    generator = np.random.default_rng(0)
    for name, height, width in (("a", 6, 8), ("b", 10, 4), ("c", 7, 7)):
        for number in range(3):
            save(tmp_path / name / f"{number}.png", generator.integers(0, 256, (height, width, 3)))
    with pytest.raises(DataError, match=r"a/0\.png: 6 x 8 pixels, but .*b/0\.png: 10 x 4\..*'data\.size=\[6,8\]'"):
        folder_data(tmp_path)
    for size, height, width in (([5, 9], 5, 9), (6, 6, 6)):
        data = folder_data(tmp_path, size=size, channels=1, val_size=0, test_size=3)
        assert data.train.images.shape == (6, 1, height, width)
    image = Image.open(tmp_path / "a" / "0.png").convert("L").resize((6, 6), Image.Resampling.BILINEAR)
    assert any(np.array_equal(found[0], image) for part in (data.train, data.test) for found in part.images)


RAMP = np.linspace(0, 255, 12 * 9).round().astype(np.uint8).reshape(12, 9)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    image.save(file := io.BytesIO(), kind, **options)
    return file.getvalue()


def test_a_picture_is_read_as_it_looks():
    grey, nothing = Image.fromarray(RAMP), Image.new("L", (9, 12))
    turned = Image.Exif()
    turned[0x112] = 6  # to be turned clockwise
    white_ink = Image.merge("RGBA", [Image.new("L", (9, 12), 255)] * 3 + [grey])
    black_ink = Image.merge("RGBA", [nothing] * 3 + [grey])
    red = Image.merge("RGB", [grey, nothing, nothing])
    cases = [
        (encoded(grey), RAMP),
        (encoded(grey.convert("RGB")), RAMP),
        (encoded(grey.convert("P")), RAMP),
        (encoded(grey.convert("LA")), RAMP),
        (encoded(grey.convert("CMYK"), "TIFF"), RAMP),
        (encoded(grey, exif=turned), np.rot90(RAMP, -1)),
        (encoded(Image.fromarray(RAMP.astype(np.uint16) * 257)), RAMP),
        (encoded(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF"), RAMP),
        (encoded(grey, "WEBP", lossless=True), RAMP),
        (encoded(black_ink), 255 - RAMP),  # on white
        (encoded(white_ink), RAMP),  # nothing would show on white: on black
        (encoded(red), np.asarray(red)),
        (encoded(grey, save_all=True, append_images=[nothing], kind="GIF"), RAMP),
    ]
    for number, (content, expected) in enumerate(cases):
        assert np.array_equal(decode(content), expected), number
    assert decode(encoded(red), channels=1).shape == (12, 9)
    assert decode(encoded(grey), channels=3).shape == (12, 9, 3)


def spoiled(shapes: Path, path: Path) -> Path:
    shutil.copytree(shapes, path)
    return path


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (shutil.rmtree, "no such folder"),
    "a file": (lambda p: (shutil.rmtree(p), p.touch()), "not a folder.*data=npz"),
    "empty": (lambda p: (shutil.rmtree(p), p.mkdir()), "contains no images|no images"),
    "loose": (lambda p: [(f.rename(p / f"{f.parent.name}{f.name}")) for f in p.glob("*/*")], "in no class folder"),
    "an empty class": (lambda p: (p / "zebra").mkdir(), "zebra: contains no images"),
    "one class": (lambda p: [shutil.rmtree(p / name) for name in THREE[1:]], "one class, bars; at least two"),
    "one image": (lambda p: [f.unlink() for f in (p / "circle").glob("000[1-9]*")], "one image of class circle"),
    "no test folder": (
        lambda p: [(p / a).rename(p / b) for a, b in (("bars", "train"), ("cross", "val"))],
        "rename val",
    ),
    "only in test": (
        lambda p: [(shutil.move(p / "bars", p / "train" / "bars"), shutil.move(p / "cross", p / "test" / "cross"))],
        "test folder that the training folder lacks: cross",
    ),
    "another size": (
        lambda p: save(p / "circle" / "0003.png", np.zeros((12, 21))),
        "12 x 20 .*0003.*12 x 21.*data.size",
    ),
    "training alone": (
        lambda p: shutil.copytree(p, p / "train"),
        "train contains folders of its own, and there is no test folder",
    ),
    "truncated": (
        lambda p: (p / "cross" / "0001.png").write_bytes(b"\x89PNG\r\n"),
        r"0001\.png: cannot be read as an image",
    ),
    "a text": (lambda p: (p / "cross" / "0001.png").write_text("hello"), r"0001\.png: cannot be read as an image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_cannot_be_used_gets_one_line(name, shapes, tmp_path):
    spoil, says = REFUSED[name]
    folder = spoiled(shapes, tmp_path / "ü (1), it's #2")
    for part in ("train", "test") if name == "only in test" else ():
        (folder / part).mkdir()
    spoil(folder)
    with pytest.raises(DataError, match=says) as refused:
        folder_data(folder)
    assert "\n" not in str(refused.value)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"path": None}, "data=folder data.path=<folder>"),
        ({"path": 7}, "data.path=7: a text"),
        ({"size": 0}, "size=0: 1 or more"),
        ({"size": [1, 2, 3]}, "data.size"),
        ({"channels": 2}, "data.channels=2: 1 or 3"),
        ({"test_size": 2}, "data.test_size=2: 3 to 27"),
        ({"test_size": 1.5}, "data.test_size=1.5"),
        ({"test_size": 0.95}, "data.test_size=0.95: 3 to 27"),
        ({"val_size": 2}, "data.val_size=2: 0, or 3 to 21"),
        ({"val_size": 1.5}, "data.val_size=1.5: a whole number"),
        ({"batch_size": 50}, "1 to 21 expected"),
    ],
)
def test_settings_that_do_not_fit_a_folder(changes, says, shapes):
    with pytest.raises(ConfigError, match=says):
        build("data", FOLDER | {"path": str(shapes)} | changes, seed=0)


@pytest.mark.parametrize(
    "path",
    [
        "my pictures",
        "~/ü",
        "a (1)",
        "a'b",
        "a\\'b",
        "x=y",
        "[1]",
        "#1",
        "a&b!",
        "C:\\x",
        "./7",
        "2026_01_15",
        "1e3",
        "0.10",
        "True",
    ],
)
def test_any_path_can_be_typed(path):
    parsed = OverridesParser.create().parse_override(with_quoted_path(f"data.path={path}"))
    assert parsed.value() == str(Path(path).expanduser() if path.startswith("~") else path)
    assert with_quoted_path(with_quoted_path(f"data.path={path}")) == with_quoted_path(f"data.path={path}")


# -- arrays

ARRAYS = {
    "train_images": np.arange(9 * 4 * 5 * 3, dtype=np.uint8).reshape(9, 4, 5, 3),
    "train_labels": np.arange(9, dtype=np.uint8).reshape(9, 1) % 3,
    "test_images": np.full((4, 4, 5, 3), 7, dtype=np.uint8),
    "test_labels": np.array([2, 1, 0, 0], dtype=np.int64),
}


def npz_data(path: Path) -> NpzData:
    return build("data", NPZ | {"path": str(path), "batch_size": 2, "val_size": 3}, seed=0)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_are_read_as_they_are(write, tmp_path):
    write(tmp_path / "x.npz", **ARRAYS, val_images=np.zeros(3))
    data = npz_data(tmp_path / "x.npz")
    assert torch.equal(data.test.images, torch.from_numpy(ARRAYS["test_images"]).permute(0, 3, 1, 2))
    assert data.test.labels.tolist() == [2, 1, 0, 0]
    both = {image.permute(1, 2, 0).numpy().tobytes() for part in (data.train, data.val) for image in part.images}
    assert both == {image.tobytes() for image in ARRAYS["train_images"]}
    assert data.class_names == ["0", "1", "2"]
    assert data.describe().endswith("6 for training, 3 for validation, 4 for the test; val_images left out")
    write(tmp_path / "grey.npz", **{name: a[..., 0] if "images" in name else a for name, a in ARRAYS.items()})
    assert npz_data(tmp_path / "grey.npz").image_shape == (1, 4, 5)


class Trap:
    def __reduce__(self) -> Any:
        return (Path("was_run").touch, ())


WRONG = {
    "missing": ({"test_labels": None}, "no array test_labels"),
    "floats": ({"train_images": np.zeros((9, 4, 5))}, "train_images: images of uint8 expected, float64"),
    "wide": ({"train_images": np.zeros((9, 4, 5), dtype=np.int16)}, "train_images: uint8 expected, int16"),
    "pickled": ({"train_labels": np.array([Trap()] * 9)}, "whole numbers expected, object"),
    "channels first": ({"train_images": np.zeros((9, 3, 4, 5), dtype=np.uint8)}, "1 or 3 channels"),
    "flat": ({"train_images": np.zeros((9, 20), dtype=np.uint8)}, "shape .N, H, W.*found"),
    "none": ({"test_images": np.zeros((0, 4, 5, 3), dtype=np.uint8), "test_labels": np.zeros(0, int)}, "test_images"),
    "other sizes": ({"test_images": np.zeros((4, 5, 5, 3), dtype=np.uint8)}, "of one size"),
    "too few labels": ({"train_labels": np.arange(8) % 3}, "9 labels expected"),
    "negative": ({"train_labels": np.arange(9) % 3 - 1}, "from 0 on expected, -1 to 1"),
    "a gap": ({"train_labels": np.arange(9) % 3 * 2}, "no image of class 1"),
    "huge": ({"train_labels": np.arange(9) * 2**40}, "from 0 on"),
    "one class": ({"train_labels": np.zeros(9, int), "test_labels": np.zeros(4, int)}, "one class"),
    "only in test": ({"test_labels": np.array([0, 1, 2, 3])}, "class 3 has no training image"),
}


@pytest.mark.parametrize("name", WRONG)
def test_arrays_that_cannot_be_used_get_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    changed, says = WRONG[name]
    arrays = {key: array for key, array in (ARRAYS | changed).items() if array is not None}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=rf"x\.npz: .*{says}"):
        npz_data(tmp_path / "x.npz")
    assert not (tmp_path / "was_run").exists()


def header(shape: str) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


def test_a_file_that_is_damaged_or_lies_is_refused_in_little_memory(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, **ARRAYS)
    whole = path.read_bytes()
    lies = [
        header("(1000000000, 1000, 1000)") + bytes(100),
        header("(-1, 2, 2)"),
        header("(__import__('os'),)"),
        b"\x80\4.",
    ]
    for content in [b"", b"text", whole[:-30], whole[: len(whole) // 2], whole.replace(b"NUMPY", b"NUMPI"), *lies]:
        path.write_bytes(content)
        if content in lies:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in ARRAYS:
                    archive.writestr(f"{name}.npy", content)
        tracemalloc.start()
        with pytest.raises(DataError, match=r"x\.npz: "):
            npz_data(path)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        tracemalloc.stop()
    path.unlink()
    os.mkfifo(path)
    for wrong, says in ((path, "not a file"), (tmp_path, "data=folder"), (tmp_path / "y.npz", "no such file")):
        with pytest.raises(DataError, match=says):
            npz_data(wrong)


# -- CIFAR-10


@pytest.fixture
def cifar(tmp_path, monkeypatch) -> Path:
    """A small set in the same files, whose checksums stand in for the real ones."""
    folder = tmp_path / datasets.CIFAR10.base_folder
    folder.mkdir()

    def write(name: str, content: Any) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    def part(first: int) -> dict[str, Any]:
        pixels = np.arange(first, first + 20).astype(np.uint8).reshape(20, 1) * np.ones((1, 3072), np.uint8)
        return {"data": pixels, "labels": [k % 10 for k in range(20)]}

    batches = [[f"data_batch_{k}", write(f"data_batch_{k}", part(20 * k))] for k in range(1, 6)]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", batches)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", write("test_batch", part(200))]])
    md5 = write("batches.meta", {"label_names": ["airplane", "automobile", *"birdcatde"][:10]})
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": md5})
    return folder


def test_cifar10_is_read_as_torchvision_lays_it_out(cifar):
    words = ("data=cifar10", f"paths.data_dir={cifar.parent}", "data.val_size=0", "data.batch_size=10")
    data = data_of(*words)
    assert data.train.images.shape == (100, 3, 32, 32)
    assert data.train.images[:, 2, 31, 31].tolist() == list(range(20, 120))
    assert data.test.images[:, 0, 0, 0].tolist() == list(range(200, 220))
    assert data.test.labels.tolist() == [k % 10 for k in range(20)]
    assert data.class_names[:2] == ["airplane", "automobile"]
    (cifar / "data_batch_3").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="cifar-10-batches-py: CIFAR-10 is missing or damaged"):
        data_of(*words)  # a damaged file is neither unpickled nor replaced
    shutil.rmtree(cifar)
    with pytest.raises(DataError, match="missing or damaged"):
        data_of(*words, "data.download=false")


def test_cifar10_is_fetched_and_unpacked_where_it_is_absent(cifar, tmp_path, monkeypatch):
    archive = shutil.make_archive(tmp_path / "served", "gztar", cifar.parent, cifar.name)
    served = tmp_path / "server" / datasets.CIFAR10.filename
    served.parent.mkdir()
    Path(archive).rename(served)
    monkeypatch.setattr(datasets.CIFAR10, "url", served.as_uri())
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(served.read_bytes()).hexdigest())
    words = ("data=cifar10", f"paths.data_dir={tmp_path / 'new'}", "data.val_size=0", "data.batch_size=10")
    assert data_of(*words).train.images.shape == (100, 3, 32, 32)
    monkeypatch.setattr(datasets.CIFAR10, "url", "file:///nowhere/x")
    assert data_of(*words).classes == 10  # it is there
    with pytest.raises(DataError, match="the download failed"):
        data_of(*words, "paths.data_dir=" + str(tmp_path / "other"))
