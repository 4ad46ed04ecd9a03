"""Images: where they come from, how they are split, and in what order they arrive."""

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import threading
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MNIST, batches, needs_mnist, settings
from PIL import Image

from ffbp.build import build
from ffbp.data import Batches, ImageData, sources
from ffbp.data.batches import ShiftedImages
from ffbp.data.draws import Draws
from ffbp.errors import ConfigError, DataError
from ffbp.evaluation import read_images


def image_data(*overrides: str) -> ImageData:
    chosen = settings(*overrides)
    return build("data", chosen["data"], seed=chosen["seed"])


def fingerprints(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    content = header + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def kmnist(tmp_path: Path) -> Path:
    """A small set of the same layout whose plain files have no published checksums."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        folder = tmp_path / "KMNIST" / "raw"
        write_idx(folder / f"{part}-images-idx3-ubyte", generator.integers(0, 256, (count, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte", np.arange(count) % 10)
    return tmp_path


def test_digits_are_1437_and_360_images_of_28_pixels_with_a_border_of_zeros():
    train, test = sources.digits()
    assert train.images.shape == (1437, 1, 28, 28)
    assert test.images.shape == (360, 1, 28, 28)
    assert train.images.dtype == torch.uint8
    assert train.images.max() == 255
    assert train.images[:, :, :2].max() == 0
    assert torch.bincount(test.labels).min() >= 34


def test_training_validation_and_test_images_are_disjoint():
    data = image_data()
    parts = [data.train, data.val, data.test]
    assert [len(part.labels) for part in parts] == [1237, 200, 360]
    prints = [fingerprints(part.images) for part in parts]
    everything, _ = sources.digits()
    assert prints[0] | prints[1] == fingerprints(everything.images)
    assert not prints[0] & prints[1]
    assert not (prints[0] | prints[1]) & prints[2]


@needs_mnist
def test_mnist_is_split_55000_5000_10000_stratified_and_disjoint():
    data = image_data("data=mnist", "data.download=false")
    assert [len(part.labels) for part in (data.train, data.val, data.test)] == [55_000, 5_000, 10_000]
    shares = [torch.bincount(part.labels, minlength=10) / len(part.labels) for part in (data.train, data.val)]
    torch.testing.assert_close(shares[0], shares[1], atol=2e-4, rtol=0)
    prints = [fingerprints(part.images) for part in (data.train, data.val, data.test)]
    assert not prints[0] & prints[1]
    assert not prints[0] & prints[2]
    assert not prints[1] & prints[2]


def test_the_split_depends_on_split_seed_alone():
    first, other_seed, other_split = image_data(), image_data("seed=1"), image_data("data.split_seed=1")
    assert torch.equal(first.val.images, other_seed.val.images)
    assert not torch.equal(first.val.images, other_split.val.images)


def test_without_validation_all_images_are_trained_on():
    data = image_data("data.val_size=0")
    assert data.val is None
    assert len(data.train.labels) == 1437


@pytest.mark.parametrize("wrong", ["data.val_size=9", "data.val_size=1430", "data.batch_size=1238", "data.shift=28"])
def test_sizes_that_do_not_fit_the_data_are_refused(wrong):
    with pytest.raises(ConfigError, match=wrong.split("=")[0]):
        image_data(wrong)


def test_shifted_images_equal_a_slow_shift():
    images = torch.randint(0, 256, (5, 2, 6, 7), dtype=torch.uint8)
    index, shift = torch.tensor([4, 0, 3, 4]), torch.tensor([[2, 2], [-2, 1], [0, -2], [-2, -2]])
    shifted = ShiftedImages(images, 2).take(index, shift)
    expected = torch.zeros(4, 2, 6, 7)
    for row, (which, (down, right)) in enumerate(zip(index.tolist(), shift.tolist(), strict=True)):
        for y in range(6):
            for x in range(7):
                if 0 <= y - down < 6 and 0 <= x - right < 7:
                    expected[row, :, y, x] = images[which, :, y - down, x - right] / 255
    assert torch.equal(shifted, expected)
    assert torch.equal(ShiftedImages(images, 0).take(index), images[index] / 255)


def test_an_epoch_brings_every_image_once_in_an_order_of_its_seed_and_number():
    loader = batches()
    orders = {}
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        loader.seed = seed
        loader.set_epoch(epoch)
        orders[seed, epoch] = torch.cat([batch.images for batch in loader])
    assert len(fingerprints(orders[0, 0])) == len(fingerprints(loader.images.take(torch.arange(200))))
    loader.seed = 0
    loader.set_epoch(0)
    assert torch.equal(torch.cat([batch.images for batch in loader]), orders[0, 0])
    assert not torch.equal(orders[0, 0], orders[0, 1])
    assert not torch.equal(orders[0, 0], orders[1, 0])


def test_a_loader_goes_on_where_its_state_stood_with_the_same_draws():
    train, _ = sources.digits()
    whole = Batches(train.images, train.labels, batch_size=100, shuffle=True, shift=2)
    resumed = Batches(train.images, train.labels, batch_size=100, shuffle=True, shift=2)
    expected, state = [], None
    for number, batch in enumerate(whole):
        expected.append((batch.images, batch.draws.uniform(3)))
        state = whole.state_dict() if number == 6 else state
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(rest) == 15 - 7
    for batch, (images, draws) in zip(rest, expected[7:], strict=True):
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.draws.uniform(3), draws)


def test_processes_share_a_batch_and_its_draws():
    train, _ = sources.digits()
    whole = Batches(train.images[:105], train.labels[:105], batch_size=50, shuffle=True, shift=1)
    shares = [
        Batches(train.images[:105], train.labels[:105], batch_size=50, shuffle=True, shift=1, rank=rank, world_size=2)
        for rank in (0, 1)
    ]
    for batch, first, second in zip(whole, *shares, strict=True):
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))
        both = torch.cat([first.draws.uniform(4), second.draws.uniform(4)])
        assert torch.equal(batch.draws.uniform(4), both)
        assert (first.loss_weight + second.loss_weight) / 2 == pytest.approx(1.0)


def test_draws_differ_between_batches_epochs_and_seeds():
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    drawn = [Draws(key, 4, slice(0, 4), torch.device("cpu")).uniform(8) for key in keys]
    for a in range(4):
        for b in range(a):
            assert not torch.equal(drawn[a], drawn[b])


def test_plain_and_packed_files_read_alike_and_nothing_is_written(kmnist):
    plain = sources.idx_set("kmnist", kmnist)
    folder = kmnist / "KMNIST" / "raw"
    for path in list(folder.iterdir()):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    before = sorted(folder.iterdir())
    with pytest.raises(DataError, match="MD5"):  # of the packed files the checksums are known, and these are others
        sources.idx_set("kmnist", kmnist)
    original = sources.IDX_SETS["kmnist"].resources
    sums = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in before]
    sources.IDX_SETS["kmnist"].resources = sums
    try:
        packed = sources.idx_set("kmnist", kmnist)
    finally:
        sources.IDX_SETS["kmnist"].resources = original
    for a, b in zip(plain, packed, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "bytes after the header expected"),
        (lambda path: path.write_bytes(b""), "a header of"),
        (lambda path: path.write_bytes(path.read_bytes()[:9]), "a header of|after the header"),
        (lambda path: path.write_bytes(b"\0\0\x08\x02" + path.read_bytes()[4:]), "magic number"),
    ],
)
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_damaged_file_is_named_and_left_alone(kmnist, name, damage, message):
    path = kmnist / "KMNIST" / "raw" / name
    damage(path)
    left = path.read_bytes() if path.exists() else None
    with pytest.raises(DataError, match=message) as refused:
        sources.idx_set("kmnist", kmnist)
    assert name in str(refused.value)
    assert (path.read_bytes() if path.exists() else None) == left


def test_labels_that_do_not_match_are_refused(kmnist):
    path = kmnist / "KMNIST" / "raw" / "train-labels-idx1-ubyte"
    write_idx(path, np.arange(59) % 10)
    with pytest.raises(DataError, match="60 train images but 59 labels"):
        sources.idx_set("kmnist", kmnist)
    write_idx(path, np.full(60, 10))
    with pytest.raises(DataError, match="10 found"):
        sources.idx_set("kmnist", kmnist)


def test_a_file_of_absurd_size_is_refused_and_not_unpacked(kmnist, monkeypatch):
    folder = kmnist / "KMNIST" / "raw"
    for sizes in ([2**32 - 1] * 3, [2**31, 28, 28], [0, 28, 28], [0, 2**32 - 1, 2**32 - 1]):
        header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in sizes)
        (folder / "train-images-idx3-ubyte").write_bytes(header + bytes(100))
        with pytest.raises(DataError, match="train-images"):
            sources.idx_set("kmnist", kmnist)
    header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (60, 28, 28))
    bomb = gzip.compress(header + bytes(50_000_000))
    (folder / "train-images-idx3-ubyte").unlink()
    (folder / "train-images-idx3-ubyte.gz").write_bytes(bomb)
    known = [("train-images-idx3-ubyte.gz", hashlib.md5(bomb).hexdigest())]
    monkeypatch.setattr(sources.IDX_SETS["kmnist"], "resources", known)
    tracemalloc.start()
    with pytest.raises(DataError, match="47040 bytes after the header expected, more found"):
        sources.idx_set("kmnist", kmnist)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    monkeypatch.setattr(sources, "LARGEST", 1000)
    with pytest.raises(DataError, match="at most 1000 bytes"):
        sources.idx_set("kmnist", kmnist)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_not_waited_for(make, kmnist):
    path = kmnist / "KMNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.unlink()
    make(path)
    with pytest.raises(DataError, match="no such file"):
        sources.idx_set("kmnist", kmnist)


@needs_mnist
def test_one_flipped_bit_of_mnist_is_found(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    shutil.copytree(MNIST, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    path = folder / "t10k-labels-idx1-ubyte"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="MD5"):
        sources.idx_set("mnist", tmp_path)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A server on this machine that serves tmp_path."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_download_fetches_what_is_missing_from_the_first_mirror_that_has_it(kmnist, tmp_path, mirror, monkeypatch):
    served, wanted = tmp_path / "served", tmp_path / "wanted"
    resources = []
    for path in sorted((kmnist / "KMNIST" / "raw").iterdir()):
        packed = served / f"{path.name}.gz"
        packed.parent.mkdir(exist_ok=True)
        packed.write_bytes(gzip.compress(path.read_bytes()))
        resources.append((packed.name, hashlib.md5(packed.read_bytes()).hexdigest()))
    monkeypatch.setattr(sources.IDX_SETS["kmnist"], "resources", resources)
    monkeypatch.setattr(sources.IDX_SETS["kmnist"], "mirrors", [f"{mirror}/gone/", f"{mirror}/served/"])
    sources.download("kmnist", wanted)
    assert torch.equal(sources.idx_set("kmnist", wanted)[0].images, sources.idx_set("kmnist", kmnist)[0].images)

    (served / resources[0][0]).write_bytes(b"something else")
    (wanted / "KMNIST" / "raw" / resources[0][0]).unlink()
    with pytest.raises(DataError, match="from every mirror"):
        sources.download("kmnist", wanted)
    assert not list(wanted.glob("**/*.part"))


class Unwilling(BaseHTTPRequestHandler):
    """Answers in a way that would keep a patient reader for ever."""

    way = "silent"

    def do_GET(self):
        if self.way == "silent":
            time.sleep(1)
            return
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b"x" * (1 if self.way == "trickling" else 100_000))
                time.sleep(0.01)

    def log_message(self, *words):
        pass


@pytest.mark.parametrize(
    ("way", "says"), [("silent", "timed out"), ("trickling", "bytes a second"), ("endless", "more than")]
)
def test_a_mirror_that_hangs_is_given_up(way, says, tmp_path, monkeypatch):
    monkeypatch.setattr(Unwilling, "way", way)
    monkeypatch.setattr(sources, "PATIENCE", 0.3)
    monkeypatch.setattr(sources, "LARGEST", 1_000_000)
    with ThreadingHTTPServer(("127.0.0.1", 0), Unwilling) as server:
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(sources.IDX_SETS["kmnist"], "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        with pytest.raises(DataError, match=f"missing, and the download failed from every mirror .*{says}"):
            sources.download("kmnist", tmp_path)
        server.shutdown()
    assert not list(tmp_path.glob("**/*ubyte*"))


# -- images of one's own

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
