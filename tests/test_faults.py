"""Kills during a save, damaged files, full disks, no memory, no numbers, and runs of earlier versions."""

import csv
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from conftest import ROOT, settings

import ffbp
from ffbp.data.sources import digits, idx_set
from ffbp.errors import CheckpointError, DataError, NumericError, ResourceError
from ffbp.lifecycle import checkpoint, upgrades
from ffbp.lifecycle import train as run
from ffbp.lifecycle.checkpoint import FORMAT, read_checkpoint, write_checkpoint
from ffbp.lifecycle.directory import nearby_runs, previous_of
from ffbp.lifecycle.load import usable_checkpoint

FIXTURES = Path(__file__).parent / "fixtures" / "format_1"
EARLIER = [
    FIXTURES / "bp",
    FIXTURES / "ff",
    FIXTURES.with_name("format_2") / "ff",
    FIXTURES.with_name("format_3") / "ff",
    FIXTURES.with_name("format_4") / "ff",
]
SMALL = ["data=digits", "algo=bp", "model=mlp", "model.widths=[8]", "logger=none", "trainer=cpu"]


# -- kills


SLOW_SAVES = """
import os, sys, time
from pathlib import Path
import torch
from ffbp.lifecycle import checkpoint
class Slow:
    def __init__(self, file): self.file = file
    def __getattr__(self, name): return getattr(self.file, name)
    def __enter__(self): return self
    def __exit__(self, *error): self.file.close()
    def write(self, data):
        for start in range(0, len(data), 4000):
            self.file.write(data[start:start + 4000])
            time.sleep(0.002)
whole = Path.open
def slow_open(self, mode="r", *a, **k):
    return Slow(whole(self, mode, *a, **k)) if mode == "wb" else whole(self, mode, *a, **k)
Path.open = slow_open
for name in ("fsync", "replace", "link"):
    def slow(*a, _do=getattr(os, name), **k):
        time.sleep(0.005); _do(*a, **k); time.sleep(0.005)
    setattr(os, name, slow)
path, number = Path(sys.argv[1]), 0
while True:
    number += 1
    weights = torch.full((20_000,), float(number))
    checkpoint.write_checkpoint(path, {"ffbp": {"format": 1}, "weights": weights, "n": number})
    print(number, flush=True)
"""


def test_a_kill_during_a_slow_save_leaves_a_whole_checkpoint_20_of_20_times(tmp_path):
    dice, torn = random.Random(0), 0
    path = tmp_path / "last.ckpt"
    forks = []
    for _ in range(20):
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            sys.stdout = os.fdopen(writing, "w")
            sys.argv = ["", str(path)]
            exec(SLOW_SAVES, {})  # until it is killed
        os.close(writing)
        with os.fdopen(reading) as said:
            forks += [said.readline(), said.readline()]
            time.sleep(dice.uniform(0, 0.3))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            finished = [int(line) for line in said.read().split()] or [int(forks[-1])]
        torn += any(tmp_path.glob(".*.new"))
        content = read_checkpoint(path)
        assert content["n"] in (finished[-1], finished[-1] + 1)  # renamed, and killed before it said so
        assert torch.equal(content["weights"], torch.full((20_000,), float(content["n"])))
        assert read_checkpoint(previous_of(path))["n"] in (content["n"] - 1, content["n"])
    assert torn >= 10  # the kills did fall into saves


def test_a_second_ctrl_c_stops_at_once(warm):
    slow = ["model.widths=[6000]", "data.batch_size=1237", "trainer.max_epochs=500"]
    process = warm(*SMALL[:3], "logger=none", "trainer=cpu", *slow, "hydra.run.dir=run")
    last = warm.folder / "run" / "checkpoints" / "last.ckpt"
    while not last.exists():
        time.sleep(0.01)
    process.kill(signal.SIGINT)
    time.sleep(0.1)
    if process.poll() is None:  # not stopped by the first one yet
        process.kill(signal.SIGINT)
    assert process.wait(60) == 130, process.stderr
    assert "Traceback" not in process.stderr
    assert json.loads((warm.folder / "run" / "status.json").read_text())["state"] == "interrupted"


def test_a_run_killed_before_its_first_save_begins_again(warm):
    process = warm(*SMALL, "trainer.max_epochs=2", "hydra.run.dir=run")
    while not (warm.folder / "run" / "status.json").exists():
        time.sleep(0.0005)
    process.kill()
    process.wait()
    shutil.rmtree(warm.folder / "run" / "checkpoints", ignore_errors=True)
    (warm.folder / "run" / "metrics.csv").unlink(missing_ok=True)
    again = warm("resume=run")
    assert again.wait() == 0, again.stderr
    assert "starting from the beginning" in again.stderr
    assert json.loads((warm.folder / "run" / "status.json").read_text())["state"] == "finished"


# -- damage


def damaged(whole: bytes) -> list[bytes]:
    """Cut at ten lengths, and one bit turned at twenty random places."""
    dice = random.Random(3)
    cut = [whole[: len(whole) * part // 10] for part in range(10)]
    flips = [dice.randrange(len(whole)) for _ in range(20)]
    return cut + [whole[:at] + bytes([whole[at] ^ 1 << dice.randrange(8)]) + whole[at + 1 :] for at in flips]


def test_a_damaged_checkpoint_is_refused_by_name_or_replaced_by_the_one_before(tmp_path, capsys):
    directory = tmp_path / "run"
    shutil.copytree(FIXTURES / "ff", directory)
    last = directory / "checkpoints" / "last.ckpt"
    whole = last.read_bytes()
    for content in damaged(whole):
        last.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"last\.ckpt"):
            ffbp.load(last)
        with pytest.raises(CheckpointError, match=r"last\.ckpt"):
            usable_checkpoint(last)
        previous_of(last).write_bytes(whole)
        assert usable_checkpoint(last) == previous_of(last)
        assert "last.ckpt" in capsys.readouterr().err
        previous_of(last).unlink()


def test_a_damaged_idx_file_is_refused_by_name(tmp_path):
    """A flip among the pixels of a set without known checksums is the one damage that nothing can tell."""
    folder = tmp_path / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 40), ("t10k", 20)):
        sizes = b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + sizes + bytes(count * 784))
        labels = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + bytes(n % 10 for n in range(count))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    idx_set("kmnist", tmp_path)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        header = 16 if "images" in path.name else 8
        cut = [whole[: len(whole) * part // 10] for part in range(10)]
        flipped = [
            whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for at in range(header) for bit in (0, 5)
        ]
        for content in cut + flipped:
            path.write_bytes(content)
            with pytest.raises(DataError, match=r"KMNIST/raw"):
                idx_set("kmnist", tmp_path)
        path.write_bytes(whole)


def test_a_flip_anywhere_in_a_file_of_known_checksum_is_refused(tmp_path, monkeypatch):
    from ffbp.data import sources

    path = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    path.parent.mkdir(parents=True)
    whole = bytes([0, 0, 8, 1]) + (500).to_bytes(4, "big") + bytes(n % 10 for n in range(500))
    import hashlib

    monkeypatch.setitem(sources.MNIST_MD5, path.name, hashlib.md5(whole).hexdigest())
    path.write_bytes(whole)
    assert len(sources._read_idx("mnist", tmp_path, path.name, magic=0x801)) == 500
    for content in damaged(whole):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f"{path.name}: MD5"):
            sources._read_idx("mnist", tmp_path, path.name, magic=0x801)


# -- earlier versions


each_earlier = pytest.mark.parametrize("earlier", EARLIER, ids=lambda run: f"{run.parent.name} {run.name}")


@each_earlier
def test_a_run_of_an_earlier_version_answers_as_it_did(earlier):
    model = ffbp.load(earlier / "checkpoints" / "last.ckpt")
    _, test = digits()
    answers = json.loads((earlier / "predictions.json").read_text())
    assert model.predict(test.images[: len(answers)]).tolist() == answers


@each_earlier
def test_a_run_of_an_earlier_version_goes_on(earlier, warm):
    shutil.copytree(earlier, warm.folder / "run")
    checkpoints = warm.folder / "run" / "checkpoints"
    shutil.copy(checkpoints / "last.ckpt", checkpoints / "best.ckpt")  # a run has both, and the fixture one
    done = warm("resume=run", "trainer.max_epochs=9")
    assert done.wait() == 0, done.stderr
    with (warm.folder / "run" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(9))
    assert json.loads((warm.folder / "run" / "metrics.json").read_text())["epochs"] == 9


def test_an_epoch_that_format_2_broke_off_keeps_its_sums(tmp_path):
    content = read_checkpoint(FIXTURES.with_name("format_2") / "ff" / "checkpoints" / "last.ckpt")
    del content["train_means"]
    content["state_dict"]["train_means.sums"] = torch.arange(11.0, dtype=torch.double)
    write_checkpoint(tmp_path / "last.ckpt", content)
    read, measures = read_checkpoint(tmp_path / "last.ckpt")["train_means"]
    assert (read[0], read[1].tolist(), read[2]) == (["train/loss", "train/acc"], [0, 1], 10)  # 10 images
    assert measures[0][:2] == ["ff/layer_0/loss", "ff/layer_0/goodness_pos"]
    assert measures[0][-1] == "ff/layer_1/separation"
    assert (measures[1].tolist(), measures[2]) == ([2, 3, 4, 5, 6, 7, 8, 9], 10)


def test_a_setting_that_came_later_is_filled_in_as_it_was(monkeypatch):
    added = {"ffbp.algorithms.Backprop": {"schedule": "filled in", "new": 3}}
    monkeypatch.setattr(upgrades, "SETTINGS_ADDED_LATER", added)
    old = {"algo": {"_target_": "ffbp.algorithms.Backprop", "schedule": "constant"}, "seed": 0}
    new = upgrades.upgrade_settings(old)
    assert new["algo"] == {"_target_": "ffbp.algorithms.Backprop", "schedule": "constant", "new": 3}
    assert new["seed"] == 0
    assert "new" not in old["algo"]


@pytest.mark.parametrize(
    ("model", "goodness_per", "normalization_per"),
    [("cnn", "layer", "position"), ("cnn", "position", None), ("mlp", "layer", None)],
)
def test_maps_of_an_earlier_run_are_normalised_as_they_were(model, goodness_per, normalization_per):
    algo = {"_target_": "ffbp.algorithms.ForwardForward", "label_embedding": None, "goodness_per": goodness_per}
    for old in (algo, algo | {"normalization_per": "position"}):
        new = upgrades.upgrade_settings({"algo": old, "model": {"_target_": f"ffbp.models.{model}"}})["algo"]
        assert new["normalization_per"] == normalization_per  # None: that of goodness_per


def test_a_later_format_is_refused(tmp_path):
    content = read_checkpoint(FIXTURES / "bp" / "checkpoints" / "last.ckpt")
    write_checkpoint(tmp_path / "new.ckpt", content | {"ffbp": content["ffbp"] | {"format": FORMAT + 1}})
    with pytest.raises(CheckpointError, match=f"format {FORMAT + 1}, and this program reads up to {FORMAT}"):
        ffbp.load(tmp_path / "new.ckpt")


# -- names


def test_a_mistyped_run_is_answered_with_the_runs_of_logs_and_no_search_of_the_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run_of in ("logs/ff/a", "logs/sweeps/b/0_seed=0", "elsewhere/c"):
        (tmp_path / run_of / "checkpoints").mkdir(parents=True)
        (tmp_path / run_of / "checkpoints" / "last.ckpt").touch()
    known = " Runs nearby: logs/ff/a, logs/sweeps/b/0_seed=0."
    assert nearby_runs(Path("nowhere")) == nearby_runs(Path("/nowhere")) == known
    assert nearby_runs(tmp_path / "logs" / "ff" / "typo") == f" Runs nearby: {tmp_path}/logs/ff/a."


# -- numbers


class Poison(pl.Callback):
    """Make what is named infinite or not a number in the second epoch."""

    def __init__(self, layer: int, value: float) -> None:
        self.layer, self.value = layer, value

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 3:
            with torch.no_grad():
                pl_module.stack.blocks[self.layer].affine.weight[0] = self.value


@pytest.mark.parametrize("anomaly", [False, True])
@pytest.mark.parametrize("algo", ["bp", "ff"])
def test_no_number_is_named_with_its_layer_and_the_last_good_checkpoint(algo, anomaly, tmp_path):
    chosen = settings(f"algo={algo}", "model=mlp", "model.widths=[8,8]", "trainer.max_epochs=3")
    chosen["trainer"]["detect_anomaly"] = anomaly
    poison = {"_target_": f"{__name__}.Poison", "layer": 1, "value": float("nan")}
    with pytest.raises(NumericError) as stopped:
        run.train(chosen | {"callbacks": {"poison": poison}}, tmp_path / "run", bar=False)
    message = str(stopped.value)
    assert str(tmp_path / "run" / "checkpoints" / "last.ckpt") in message
    assert "\n" not in message
    if anomaly:
        assert "returned nan values" in message or "step" in message
    else:
        assert "layer 1" in message
        assert "step 50" in message
        assert ("ff/layer_1/goodness_pos" in message) == (algo == "ff")
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 25


@pytest.mark.parametrize("algo", ["bp", "ff"])
def test_anomaly_detection_changes_nothing_where_all_is_well(algo, tmp_path):
    chosen = settings(f"algo={algo}", "model=mlp", "model.widths=[8,8]", "trainer.max_epochs=1")
    run.train(chosen, tmp_path / "plain", bar=False)
    chosen["trainer"]["detect_anomaly"] = True
    run.train(chosen, tmp_path / "watched", bar=False)
    weights = [ffbp.load(tmp_path / name).state_dict() for name in ("plain", "watched")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# -- the machine


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: 9 bytes."),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_out_of_memory_names_the_batch_size_and_half_of_it(error, tmp_path, monkeypatch):
    def fail(self, batch, batch_idx):
        raise error

    monkeypatch.setattr("ffbp.algorithms.Backprop.training_step", fail)
    with pytest.raises(ResourceError, match=r"data\.batch_size=50; try 25"):
        run.train(settings("algo=bp", "model=mlp"), tmp_path, bar=False)


def test_a_real_allocation_that_fails(warm):
    done = warm(*SMALL[:4], "logger=none", "trainer=cpu", "model.widths=[100000000000]")
    assert done.wait() == 6
    assert "out of memory" in done.stderr
    assert done.stderr.count("\n") == 1


def limited(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A run that can write no file above 30,000 bytes, which is how a full disk looks."""
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)),
        timeout=300,
    )


def test_a_full_disk_is_said_and_what_was_saved_is_kept(tmp_path):
    refused = limited(tmp_path, *SMALL[:3], "logger=none", "trainer=cpu", "hydra.run.dir=run")
    assert refused.returncode == 6, refused.stderr
    assert refused.stderr.count("\n") == 1
    assert "run/checkpoints/best.ckpt: cannot be written" in refused.stderr
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "failed"
    assert not list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


def test_nothing_of_the_environment_is_in_what_a_run_shows(warm):
    done = warm(*SMALL, "trainer.max_epochs=1", "hydra.run.dir=run", SECRET="hush-hush")
    assert done.wait() == 0, done.stderr
    assert warm("runs=.", script="compare.py").wait() == 0
    shown = [
        warm.folder / "run" / "metrics.json",
        warm.folder / "run" / "metrics.csv",
        warm.folder / "compare/index.html",
    ]
    for path in shown:
        for private in ("hush-hush", str(warm.folder), str(Path.home()) + "/"):
            assert private not in path.read_text()
    content = read_checkpoint(warm.folder / "run" / "checkpoints" / "last.ckpt")
    assert str(warm.folder) not in repr(content["ffbp"])
    assert content["ffbp"]["format"] == checkpoint.FORMAT
