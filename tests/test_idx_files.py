"""Files of MNIST and its like: read, checked, fetched from a mirror."""

import contextlib
import gzip
import hashlib
import json
import os
import shutil
import threading
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MNIST, needs_mnist

from ffbp.data import sources
from ffbp.errors import DataError


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


def test_a_run_is_tested_again_on_the_images_of_the_folder_that_it_names(kmnist, warm):
    short = ("data.val_size=10", "data.batch_size=10", "model.widths=[5]", "trainer.max_epochs=1", "hydra.run.dir=run")
    done = warm("algo=bp", "model=mlp", "data=kmnist", f"paths.data_dir={kmnist}", *short)
    assert done.wait() == 0, done.stderr
    elsewhere = {"FFBP_DATA_DIR": "nowhere"}
    again = warm("run=run", script="evaluate.py", **elsewhere)
    assert again.wait() == 0, again.stderr
    known = json.loads((warm.folder / "run" / "metrics.json").read_text())
    assert json.loads(again.stdout)["test/acc"] == known["test/acc"]
    kmnist.joinpath("KMNIST").rename(kmnist / "moved")
    gone = warm("run=run", script="evaluate.py", **elsewhere)  # and is not filled anew
    assert (gone.wait(), gone.stderr.count("\n")) == (3, 1)
    assert not (kmnist / "KMNIST").exists()
    assert warm("run=run", f"paths.data_dir={kmnist}", script="evaluate.py").wait() == 3


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
