"""Two processes that share each batch end with the weights of one."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from same_run import assert_same_run, no_times, start

import ffbp
from ffbp.data import Batches
from ffbp.data.sources import digits
from ffbp.lifecycle.checkpoint import read_checkpoint
from ffbp.report.mistakes import read_answers

SHARED = ["data=digits", "model=mlp", "model.widths=[32,16]", "logger=none", "algo.optimizer.name=momentum"]
# not Adam, which makes large steps of gradients that are nothing but rounding
SHARED += ["algo.optimizer.lr=0.05"]
TWO = ["trainer.accelerator=cpu", "trainer.devices=2"]


def assert_same_weights(one: Path, two: Path) -> None:
    weights = [ffbp.load(run).state_dict() for run in (one, two)]
    for name in [name for name in weights[0] if "_means" not in name]:  # each process has sums of its own
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-6)


def assert_same_measures(one: Path, two: Path) -> None:
    rows = [no_times(list(csv.DictReader((run / "metrics.csv").open()))) for run in (one, two)]
    for first, second in zip(*rows, strict=True):
        assert {name: float(value) for name, value in second.items()} == pytest.approx(
            {name: float(value) for name, value in first.items()}, rel=1e-4
        )
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (one, two)]
    for name in ("test/loss", "test/acc", "val/acc"):
        assert metrics[1][name] == pytest.approx(metrics[0][name], rel=1e-4)
    first, second = (read_answers(run / "predictions.npz") for run in (one, two))
    assert second.labels.tolist() == first.labels.tolist()
    # they are kept rounded to five bits, so that the last bits of two sums may make a step of one of those
    assert second.scores.astype(float) == pytest.approx(first.scores.astype(float), rel=2**-5, abs=0.02)


RESTS = ["data.batch_size=103", "data.eval_batch_size=199"]  # each leaves a batch of one image
CASES = {  # and whether the strategy is named or chosen for two devices
    "bp": (["trainer.accumulate_grad_batches=5", "trainer.gradient_clip_val=0.5", *RESTS], "ddp"),
    "bp, batch norm": (["model.batch_norm=true", "callbacks=alignment"], "auto"),
    "ff": (RESTS, "ddp"),
    "random_features": (RESTS, "auto"),
    "feedback, batch norm": (["model.batch_norm=true", "data.batch_size=5", "trainer.limit_train_batches=2"], "auto"),
    "feedback": (["trainer.accumulate_grad_batches=5", "algo.optimizer.lr=0.005", *RESTS], "auto"),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(case, warm):
    changes, strategy = CASES[case]
    words = [f"algo={case.split(',')[0]}", *SHARED, "data.shift=1", "trainer.max_epochs=2", *changes]
    one = warm(*words, "trainer=cpu", "hydra.run.dir=one")
    two = warm(*words, *TWO, f"trainer.strategy={strategy}", "hydra.run.dir=two")
    assert one.wait() == 0, one.stderr
    assert two.wait() == 0, two.stderr
    assert_same_weights(warm.folder / "one", warm.folder / "two")
    assert_same_measures(warm.folder / "one", warm.folder / "two")


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_every_process_has_an_image_of_every_batch_and_every_image_counts_once(processes):
    images, labels = digits()[0].images[:13], torch.arange(13)
    draw = partial(Batches, images, labels, batch_size=4, shuffle=True, shift=1)
    whole, shares = draw(), [draw(rank=rank, world_size=processes) for rank in range(processes)]
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        counted = [part for part in parts if part.counted]
        assert torch.equal(torch.cat([part.labels for part in counted]), batch.labels)
        assert torch.equal(torch.cat([part.images for part in counted]), batch.images)
        assert torch.equal(torch.cat([part.draws.uniform(3) for part in counted]), batch.draws.uniform(3))
        assert sum(part.loss_weight for part in parts) == pytest.approx(processes)
        for part in (part for part in parts if not part.counted):
            assert part.loss_weight == 0
            assert torch.equal(part.images, batch.images[:1])
            assert len(part.draws.uniform(3)) == 1


def test_a_sweep_over_processes_is_refused(command):
    refused = command("-m", "seed=0,1", "data=digits", "trainer=ddp", "trainer.accelerator=cpu")
    assert refused.returncode == 2
    assert "one by one" in refused.stderr


def test_layers_in_turn_over_two_processes_that_torchrun_started_equal_one(command, tmp_path):
    words = ["algo=ff", "algo.order=sequential", "trainer.max_epochs=2", *SHARED, *RESTS]
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


def test_two_processes_save_at_a_signal_end_where_one_dies_and_come_to_the_same_bits(tmp_path, warm_process):
    words = ["algo=ff", "data.batch_size=20", "checkpoint.every_n_steps=10", "trainer.max_epochs=4", *SHARED, *TWO]
    whole = warm_process.start(*words, "hydra.run.dir=whole", cwd=tmp_path)
    cut, last = tmp_path / "cut", tmp_path / "cut" / "checkpoints" / "last.ckpt"
    process = start(tmp_path, *words, "hydra.run.dir=cut")
    while not (cut / "metrics.csv").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert errors.count("resume=cut") == 1
    stopped_at = read_checkpoint(last)["global_step"]

    resumed = start(tmp_path, "resume=cut")
    while (step := read_checkpoint(last)["global_step"]) == stopped_at or step % 62 == 0:  # killed within an epoch
        assert resumed.poll() is None, resumed.stderr.read()
        time.sleep(0.01)
    [other] = subprocess.run(["pgrep", "-P", str(resumed.pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(other), signal.SIGKILL)
    _, errors = resumed.communicate(timeout=60)
    assert resumed.returncode != 0, errors

    again = warm_process.start("resume=cut", cwd=tmp_path)
    assert again.wait() == 0, again.stderr
    assert whole.wait() == 0, whole.stderr
    assert_same_run(tmp_path / "whole", cut)
