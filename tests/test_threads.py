"""What a run computes with and what it shows: one number of threads from start to end, a line for each epoch."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress

import pytest
import torch
import yaml
from conftest import ROOT, fresh, settings

from ffbp.errors import ConfigError, ResourceError
from ffbp.lifecycle import train as run
from ffbp.lifecycle.threads import automatic_threads, check_threads, wait_briefly
from ffbp.settings import check_settings

SMALL = ("algo=bp", "model=mlp", "model.widths=[8]")


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("model", "batch", "cores", "threads"),
    [
        (("model=mlp", "model.widths=[128]"), 400, 8, 1),  # 784 * 128 * 400 = 40.1 million
        (("model=mlp", "model.widths=[128]"), 800, 8, 2),
        (("model=mlp", "model.widths=[8]"), 100, 8, 1),
        (("model=mlp", "model.widths=[1000,1000,1000]"), 100, 64, 7),  # 2.784 million for an image
        (("model=mlp", "model.widths=[1000,1000,1000]"), 100, 2, 2),
        (("model=conv", "model.channels=[4]", "model.kernel_sizes=[3]", "model.strides=[1]"), 500, 64, 1),
    ],
)
def test_a_thread_for_each_40_million_multiply_adds_and_no_more_than_cores(model, batch, cores, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    stack = fresh("algo=bp", *model).stack
    assert automatic_threads(stack, batch, cores) == threads


def test_products_with_planes_of_labels_are_counted(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    one_layer = ("model=conv", "model.channels=[4]", "model.kernel_sizes=[3]", "model.strides=[1]")
    stack = fresh("algo=ff", *one_layer, "algo.label_embedding=channels").stack
    assert automatic_threads(stack, 500, 64) == 4  # 11 * 9 * 4 * 784 * 500 = 155 million


def test_counting_changes_neither_the_network_nor_the_random_numbers(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    stack = fresh("algo=bp", "model=cnn", "model.batch_norm=true").stack
    before, drawn = {name: value.clone() for name, value in stack.state_dict().items()}, torch.get_rng_state()
    automatic_threads(stack, 100, 8)
    assert all(torch.equal(value, before[name]) for name, value in stack.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert stack.training


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("3,2", 3), ("", 1), ("0", 1), ("many", 1)])
def test_what_the_user_said_to_openmp_wins_over_auto(said, threads, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert automatic_threads(fresh(*SMALL).stack, 50, 2) == threads


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", True, 1025])
def test_numbers_of_threads_that_cannot_be(value):
    with pytest.raises(ConfigError, match=f"threads={value}: auto, or a whole number from 1"):
        check_settings(settings(*SMALL) | {"threads": value})


def test_more_threads_than_cores_are_refused():
    check_threads(2, 2)
    with pytest.raises(ResourceError, match="threads=3: 1 to 2 expected"):
        check_threads(3, 2)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_how_threads_wait_is_the_users_to_say(name, monkeypatch):
    for each in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "ACTIVE")
    wait_briefly()
    assert [each for each in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if each in os.environ] == [name]


def test_a_resumed_run_keeps_its_number_whatever_the_environment_says(warm):
    words = [*SMALL, "data=digits", "logger=none", "trainer.max_epochs=1", "hydra.run.dir=run"]
    started = warm(*words, OMP_NUM_THREADS="1")
    assert started.wait() == 0, started.stderr
    kept = warm.folder / "run" / ".hydra" / "config.yaml"
    assert yaml.safe_load(kept.read_text())["threads"] == 1
    resumed = warm("resume=run", "trainer.max_epochs=2", OMP_NUM_THREADS="2")
    assert resumed.wait() == 0, resumed.stderr
    assert "1 thread\n" in resumed.stdout
    assert json.loads((warm.folder / "run" / "metrics.json").read_text())["threads"] == 1
    other = warm("resume=run", "trainer.max_epochs=3", "threads=2")
    assert other.wait() == 4
    assert "threads is 1 there, 2 here" in other.stderr

    kept.write_text(re.sub("threads: 1\n", "", kept.read_text()))  # of an earlier version, which let PyTorch choose
    older = warm("resume=run", "trainer.max_epochs=3")
    assert older.wait() == 0, older.stderr
    assert yaml.safe_load(kept.read_text())["threads"] is None


def test_each_process_and_each_job_has_its_share_of_the_cores(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    wide = settings("algo=bp", "model=mlp", "model.widths=[2000,2000]")
    assert run.prepare(wide, tmp_path, cores=4).settings["threads"] == 4
    assert run.prepare(wide | {"threads": 1}, tmp_path, cores=4).settings["threads"] == 1
    assert torch.get_num_threads() == 1
    wide["trainer"] |= {"devices": 2, "strategy": "ddp"}
    assert run.prepare(wide, tmp_path, cores=4).settings["threads"] == 2
    assert os.environ["OMP_NUM_THREADS"] == "2"  # for the processes that this one will start
    with pytest.raises(ResourceError, match="1 to 2 expected"):
        run.prepare(wide | {"threads": 3}, tmp_path, cores=4)


def test_a_sweep_goes_on_with_the_threads_of_its_jobs(warm):
    words = ["-m", *SMALL, "data=digits", "logger=none", "trainer.max_epochs=8", "checkpoint.every_n_steps=2"]
    words += ["hydra.sweep.dir=sweep", "seed=0"]
    cut = warm(*words, OMP_NUM_THREADS="1")
    while not (last := list(warm.folder.glob("sweep/*/checkpoints/last.ckpt"))):
        assert cut.poll() is None, cut.stderr
        time.sleep(0.01)
    cut.send_signal(signal.SIGTERM)
    assert cut.wait() == 143
    again = warm(*words, OMP_NUM_THREADS="2")
    assert again.wait() == 0, again.stderr
    assert json.loads((last[0].parents[1] / "metrics.json").read_text())["threads"] == 1


def test_a_terminal_keeps_a_line_for_each_epoch_and_counts_them_from_one(tmp_path):
    words = [*SMALL, "data=digits", "logger=none", "trainer.max_epochs=2", "hydra.run.dir=run"]
    leader, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, str(ROOT / "train.py"), *words]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    said = b""
    with suppress(OSError):  # which reading raises once the terminal is closed
        while chunk := os.read(leader, 65536):
            said += chunk
    assert process.wait() == 0, said
    lines = shown_in(said.decode())
    counts = "1,237 for training, 200 for validation, 360 for the test; batches of 50"
    data = f"digits: 1,797 images of 28 x 28 pixels, grey, in 10 classes: {counts}"
    start = ["bp on mlp, 6,370 parameters", data]
    assert lines[:2] == start
    epochs = [line for line in lines if line.startswith("epoch")]
    pattern = r"epoch {}/2  train loss \d\.\d{{4}} acc 0\.\d{{4}}  val loss \d\.\d{{4}} acc 0\.\d{{4}}  \d+\.\d s"
    assert len(epochs) == 2
    assert all(re.fullmatch(pattern.format(number), line) for number, line in enumerate(epochs, 1))
    assert len(lines) == 8  # data, device, settings, directory; epochs; the test
    assert re.search(r"epoch 1/2  +\d+ % \|", said.decode())  # the bar, which is gone at the end
    assert max(map(len, lines)) <= 80 or len(lines[3]) > 80  # what was typed may be long


def shown_in(output: str) -> list[str]:
    """The lines that are left once every carriage return has let the next text write over the line."""
    lines = []
    for line in output.replace("\r\n", "\n").split("\n"):
        left = ""
        for part in line.split("\r"):
            left = part + left[len(part) :]
        lines.append(left.rstrip())
    return [line for line in lines if line]
