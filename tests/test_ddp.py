"""Two processes that share each batch end with the weights of one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from same_run import start

import ffbp
from ffbp.lifecycle.checkpoint import read_checkpoint


@pytest.mark.parametrize("algo", ["bp", "ff", "random_features", "feedback"])
def test_two_processes_equal_one(algo, warm):
    words = [f"algo={algo}", "model=mlp", "model.widths=[32,16]", "data=digits", "data.shift=1", "trainer.max_epochs=2"]
    # not Adam, which makes large steps of gradients that are nothing but rounding
    words += ["algo.optimizer.name=momentum", f"algo.optimizer.lr={0.005 if algo == 'feedback' else 0.05}"]
    one = warm(*words, "trainer=cpu", "hydra.run.dir=one")
    two = warm(*words, "trainer=ddp", "trainer.accelerator=cpu", "hydra.run.dir=two")
    assert one.wait() == 0, one.stderr
    assert two.wait() == 0, two.stderr
    weights = [ffbp.load(warm.folder / name).stack.state_dict() for name in ("one", "two")]
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-6)


SHARED = ["data=digits", "model=mlp", "model.widths=[32,16]", "logger=none", "algo.optimizer.name=momentum"]
SHARED += ["algo.optimizer.lr=0.05"]
TWO = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]


def assert_same_weights(one: Path, two: Path) -> None:
    weights = [ffbp.load(run).state_dict() for run in (one, two)]
    for name in [name for name in weights[0] if "_means" not in name]:  # each process has sums of its own
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-6)


def test_layers_in_turn_over_two_processes_that_torchrun_started_equal_one(command, tmp_path):
    words = ["algo=ff", "algo.order=sequential", "trainer.max_epochs=2", *SHARED]
    words += ["algo.peer_normalization=hinton", "algo.peer_weight=3"]  # whose means are of all images
    one = command(*words, "trainer=cpu", "hydra.run.dir=one")
    assert one.returncode == 0, one.stderr
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29571"]
    two = subprocess.run(
        [*torchrun, str(ROOT / "train.py"), *words, *TWO, "hydra.run.dir=two"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert two.returncode == 0, two.stderr
    assert "unused" not in two.stderr
    assert_same_weights(tmp_path / "one", tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_a_signal_to_two_processes_saves_and_a_dead_one_ends_the_run(tmp_path):
    words = ["algo=ff", "trainer.max_epochs=1000", *SHARED, *TWO, "hydra.run.dir=run"]
    process = start(tmp_path, *words)
    while not (tmp_path / "run" / "metrics.csv").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.count("resume=run") == 1
    stopped_at = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"]

    resumed = start(tmp_path, "resume=run")
    while read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == stopped_at:
        assert resumed.poll() is None, resumed.stderr.read()
        time.sleep(0.01)
    [other] = subprocess.run(["pgrep", "-P", str(resumed.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(other), signal.SIGKILL)
    _, errors = resumed.communicate(timeout=60)
    assert resumed.returncode != 0, errors
