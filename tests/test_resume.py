"""A broken-off run goes on to the same bits; a damaged checkpoint is never loaded in silence."""

import csv
import json
import signal
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from conftest import settings
from same_run import assert_same_run, start

from ffbp.errors import ConfigError, NumericError
from ffbp.lifecycle import train as run
from ffbp.lifecycle.checkpoint import SafeCheckpointIO, read_checkpoint, write_checkpoint
from ffbp.lifecycle.directory import RunDirectory, previous_of

LIVELY = ("data.shift=1", "model.input_dropout=0.1", "checkpoint.every_n_steps=4", "trainer.max_epochs=3")
CASES = {
    "bp": ("algo=bp", "model=mlp", "algo.optimizer.name=momentum"),
    "ff": ("algo=ff", "model=mlp", "model.widths=[32,16]"),
    "ff sequential": ("algo=ff", "model=mlp", "model.widths=[32,16]", "algo.order=sequential"),
    "ff readout": ("algo=ff", "model=mlp", "model.widths=[32,16]", "algo.negatives=uniform", "algo.readout_share=0.4"),
    "feedback": ("algo=feedback", "model=mlp", "callbacks=alignment", "callbacks.alignment.every_n_steps=3"),
    "bp, few validations": ("algo=bp", "model=mlp", "trainer.check_val_every_n_epoch=2", "trainer.max_steps=1000"),
    "bp, latest": ("algo=bp", "model=mlp", "trainer.check_val_every_n_epoch=2", "checkpoint.best=latest"),
    "bp, 64 bits": ("algo=bp", "model=mlp", "trainer.precision=64-true", "trainer.accumulate_grad_batches=3"),
}


STOPPED = ("callbacks=early_stop", "+callbacks.early_stop.stopping_threshold=0.0")  # after its first validation


class Broken(Exception):
    """Stands for a power cut."""


class BreakAt(pl.Callback):
    """Break off at a moment: ("batch", step), ("validation", epoch) or ("epoch", epoch)."""

    def __init__(self, moment: str, number: int) -> None:
        self.moment, self.number = moment, number

    def _at(self, moment: str, number: int) -> None:
        if (moment, number) == (self.moment, self.number):
            raise Broken

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self._at("batch", trainer.fit_loop.total_batch_idx)

    def on_validation_start(self, trainer, pl_module):
        self._at("validation", trainer.current_epoch)

    def on_train_epoch_start(self, trainer, pl_module):
        self._at("epoch", trainer.current_epoch)

    def on_test_start(self, trainer, pl_module):
        self._at("test", 0)


def wait_until(process, condition) -> None:
    while not condition():
        assert process.poll() is None, process.stderr
        time.sleep(0.01)


MOMENTS = [("batch", 7), ("epoch", 1), ("batch", 25), ("validation", 1), ("batch", 49), ("validation", 2), ("test", 0)]


@pytest.mark.parametrize(
    ("case", "moment"),
    [("ff", moment) for moment in MOMENTS] + [(case, MOMENTS[k]) for case in CASES if case != "ff" for k in (4, 5)],
)
def test_a_run_broken_off_anywhere_ends_as_if_it_had_not_been(case, moment, tmp_path, monkeypatch):
    chosen = settings(*CASES[case], *LIVELY)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run.train(chosen, whole, bar=False)
    breaking = {"break": {"_target_": f"{__name__}.BreakAt", "moment": moment[0], "number": moment[1]}}
    with pytest.raises(Broken):
        run.train(chosen | {"callbacks": chosen["callbacks"] | breaking}, broken, bar=False)
    torch.manual_seed(12345)  # what the random state was must not matter
    run.train(chosen, broken, resume=True, bar=False)
    assert_same_run(whole, broken)


@pytest.mark.parametrize("words", [("trainer.max_steps=33",), ("trainer.min_epochs=2", *STOPPED)])
def test_a_training_that_ended_early_is_tested_and_not_continued(words, tmp_path):
    chosen = settings(*CASES["bp"], *LIVELY, *words)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    metrics = run.train(chosen, whole, bar=False)
    breaking = {"break": {"_target_": f"{__name__}.BreakAt", "moment": "test", "number": 0}}
    with pytest.raises(Broken):
        run.train(chosen | {"callbacks": chosen["callbacks"] | breaking}, broken, bar=False)
    (broken / "metrics.csv").unlink()  # as if killed just before it was written
    run.train(chosen, broken, resume=True, bar=False)
    assert metrics["epochs"] == 2
    assert_same_run(whole, broken)


def test_a_longer_training_is_written_down_and_keeps_the_metrics_of_the_shorter(warm):
    words = ["algo=bp", "data=digits", "model=mlp", "algo.schedule=constant"]
    whole, grown = (warm.folder / name for name in ("whole", "grown"))
    assert warm(*words, "trainer.max_epochs=40", "hydra.run.dir=whole").wait() == 0
    assert warm(*words, "trainer.max_epochs=2", "hydra.run.dir=grown").wait() == 0
    longer = warm("resume=grown", "trainer.max_epochs=40")
    wait_until(longer, lambda: (grown / "metrics.csv").read_text().count("\n") > 15)
    longer.kill()
    longer.wait()
    assert json.loads((grown / "metrics.json").read_text())["epochs"] == 2
    resumed = warm("resume=grown")
    assert resumed.wait() == 0, resumed.stderr
    assert_same_run(whole, grown)


def test_a_damaged_best_checkpoint_is_replaced(tmp_path):
    chosen = settings(*CASES["bp"], "trainer.max_epochs=4", "algo.schedule=constant")
    run.train(chosen, tmp_path / "whole", bar=False)
    for epochs in (3, 4):  # whichever of them was best: the last one's best is in last.ckpt too
        shorter = chosen | {"trainer": chosen["trainer"] | {"max_epochs": epochs}}
        directory = tmp_path / str(epochs)
        run.train(shorter, directory, bar=False)
        best = directory / "checkpoints" / "best.ckpt"
        best.write_bytes(best.read_bytes()[:-200])
        metrics = run.train(shorter, directory, resume=True, bar=False)
        row = read_checkpoint(best)["callbacks"]["RunRecord"]["best"]
        assert metrics["val/acc"] == row["val/acc"]
        assert best.with_name("best.damaged.ckpt").exists()


def test_a_run_that_the_clock_ends_says_so_and_is_not_resumed(warm):
    words = ["algo=bp", "data=digits", "model=mlp", "algo.schedule=constant", "trainer.max_epochs=-1"]
    timed = warm(*words, "trainer.max_time={seconds: 60}", "hydra.run.dir=timed")
    wait_until(timed, (warm.folder / "timed" / "metrics.csv").exists)
    timed.send_signal(signal.SIGINT)
    assert timed.wait() == 130
    assert "cannot be resumed" in timed.stderr.splitlines()[0]
    assert "It cannot be resumed" in timed.stderr.splitlines()[-1]
    resumed = warm("resume=timed")
    assert resumed.wait() == 4
    assert "trainer.max_time" in resumed.stderr


def test_what_a_kill_has_left_half_written_is_removed_and_nothing_else(tmp_path):
    chosen = settings(*CASES["bp"], "trainer.max_epochs=1")
    run.train(chosen, tmp_path, bar=False)
    left = [tmp_path / ".metrics.csv.new", tmp_path / "checkpoints" / ".best.ckpt.new"]
    mine = tmp_path / ".notes.new"
    for path in (*left, mine):
        path.write_text("half")
    RunDirectory(tmp_path).remove_incomplete()
    assert mine.exists()
    assert not any(path.exists() for path in left)


def test_two_starts_in_one_directory(warm):
    words = ["algo=bp", "data=digits", "model=mlp", "trainer.max_epochs=3", "hydra.run.dir=run"]
    codes = sorted(started.wait() for started in [warm(*words), warm(*words)])
    assert codes == [0, 2]
    assert warm(*words).wait() == 2


@pytest.mark.parametrize("name", ["notes.txt", "metrics.csv", "events.out.tfevents.mine", ".hydra/config.yaml"])
@pytest.mark.parametrize("words", [["algo=bp"], ["algo=ff", "trainer.accumulate_grad_batches=2"]])
def test_a_folder_in_which_something_lies_is_refused_and_left_as_it_is(name, words, warm):
    mine = warm.folder / "mine" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    refused = warm("data=digits", *words, "hydra.run.dir=mine")
    assert refused.wait() == 2
    assert "not empty" in refused.stderr
    assert mine.read_text() == "mine"
    assert len([path for path in (warm.folder / "mine").rglob("*") if path.is_file()]) == 1


@pytest.mark.parametrize("left", [[], [".overrides.yaml.new"], ["overrides.yaml", ".config.yaml.new"]])
def test_a_run_that_was_killed_before_its_settings_were_written_begins_anew(left, tmp_path):
    (tmp_path / ".hydra").mkdir()
    for name in left:
        (tmp_path / ".hydra" / name).write_text("see")
    RunDirectory(tmp_path).require_unused()
    (tmp_path / ".hydra" / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        RunDirectory(tmp_path).require_unused()


def test_killed_and_resumed_from_the_command_line(warm):
    tmp_path = warm.folder
    words = ["algo=ff", "data=digits", "model.widths=[64,32]", *LIVELY, "trainer.max_epochs=20"]
    whole = warm(*words, "hydra.run.dir=whole")
    assert whole.wait(120) == 0
    killed = warm(*words, "hydra.run.dir=killed")
    last = tmp_path / "killed" / "checkpoints" / "last.ckpt"
    wait_until(killed, last.exists)
    time.sleep(0.2)
    killed.kill()
    killed.wait(20)
    assert not (tmp_path / "killed" / "metrics.json").exists()
    before = (tmp_path / "killed" / ".hydra" / "config.yaml").read_bytes()
    resumed = warm("resume=killed")
    assert resumed.wait(120) == 0, resumed.stderr
    assert (tmp_path / "killed" / ".hydra" / "config.yaml").read_bytes() == before
    assert_same_run(tmp_path / "whole", tmp_path / "killed")

    again = warm("resume=killed")
    assert again.wait(60) == 0
    assert "finished" in again.stdout


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(number, code, tmp_path):
    words = ["algo=ff", "data=digits", "trainer.max_epochs=500", "hydra.run.dir=run", "logger=none"]
    process = start(tmp_path, *words)
    wait_until(process, (tmp_path / "run" / "metrics.csv").exists)
    process.send_signal(number)
    assert process.wait(30) == code
    error = process.stderr.read()
    assert "resume=run" in error
    assert "Traceback" not in error
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "interrupted"
    assert read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] > 0


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "last.ckpt"
    write_checkpoint(path, {"ffbp": {"format": 1}, "weights": torch.arange(100.0), "step": 1})
    write_checkpoint(path, {"ffbp": {"format": 1}, "weights": torch.arange(100.0), "step": 2})
    return path


def test_the_checkpoint_before_is_kept(checkpoint):
    assert read_checkpoint(checkpoint)["step"] == 2
    assert read_checkpoint(previous_of(checkpoint))["step"] == 1
    assert not list(checkpoint.parent.glob(".*"))


def test_plain_torch_reads_our_files(checkpoint):
    assert torch.load(checkpoint, weights_only=True)["step"] == 2


@pytest.mark.parametrize("algo", ["bp", "ff"])
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_good_checkpoint(algo, tmp_path):
    chosen = settings(f"algo={algo}", "model=mlp", "trainer.max_epochs=3")
    poison = {"_target_": f"{__name__}.Poison"}
    with pytest.raises(NumericError, match=r"step .* NaN or infinite"):
        run.train(chosen | {"callbacks": {"poison": poison}}, tmp_path, bar=False)
    content = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert all(v.isfinite().all() for v in content["state_dict"].values() if v.is_floating_point())


class Poison(pl.Callback):
    """Make a weight infinite in the second epoch, off the logging steps."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1 and batch_idx == 3:
            with torch.no_grad():
                pl_module.stack.blocks[0].affine.weight[0, 300] = float("inf")


class Spoil(pl.Callback):
    """Make every epoch after the first validate badly."""

    def on_validation_start(self, trainer, pl_module):
        if trainer.current_epoch > 0:
            with torch.no_grad():
                pl_module.stack.blocks[0].affine.weight.zero_()


def test_the_time_is_that_of_all_epochs_where_the_best_is_not_the_last(tmp_path):
    chosen = settings("algo=bp", "model=mlp", "trainer.max_epochs=3")
    chosen["callbacks"] = {"spoil": {"_target_": f"{__name__}.Spoil"}}
    metrics = run.train(chosen, tmp_path, bar=False)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 0
    assert metrics["val/acc"] == float(rows[0]["val/acc"])
    assert metrics["epochs"] == 3
    assert metrics["time/train_seconds"] == pytest.approx(sum(float(row["time/epoch_seconds"]) for row in rows))


@pytest.mark.parametrize(("best", "every", "tested"), [("accuracy", 1, 0), ("latest", 1, 3), ("latest", 3, 3)])
def test_the_best_epoch_is_that_of_the_highest_accuracy_or_the_latest(tmp_path, best, every, tested):
    words = ("trainer.max_epochs=4", f"trainer.check_val_every_n_epoch={every}", f"checkpoint.best={best}")
    chosen = settings("algo=bp", "model=mlp", *words)
    chosen["callbacks"] = {"spoil": {"_target_": f"{__name__}.Spoil"}}
    metrics = run.train(chosen, tmp_path, bar=False)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == tested
    assert metrics["val/acc"] == float(rows[tested]["val/acc"])
    assert (metrics["test/acc"] < 0.3) == (tested == 3)  # the spoilt weights


@pytest.mark.parametrize("number", [7, 8, 16])  # an epoch writes six times within, then best, then last
def test_a_run_broken_off_between_two_writes_ends_as_if_it_had_not_been(number, tmp_path, monkeypatch):
    chosen = settings(*CASES["ff"], *LIVELY)
    run.train(chosen, tmp_path / "whole", bar=False)
    save, writes = SafeCheckpointIO.save_checkpoint, []

    def break_before(self, checkpoint, path, storage_options=None):
        writes.append(Path(path).name)
        if len(writes) == number:
            raise Broken
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(SafeCheckpointIO, "save_checkpoint", break_before)
    with pytest.raises(Broken):
        run.train(chosen, tmp_path / "broken", bar=False)
    assert writes[-1] == ("best.ckpt" if number == 7 else "last.ckpt")
    run.train(chosen, tmp_path / "broken", resume=True, bar=False)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
