"""What a finished run keeps of its checkpoints, and `ffbp prune`: it spares what it can, and nothing else."""

import fcntl
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest import settings
from same_run import assert_same_run
from typed import typed

import ffbp
from ffbp.cli.runs import prune
from ffbp.evaluation import test_metrics as metrics_of
from ffbp.lifecycle import train as run
from ffbp.lifecycle.checkpoint import read_checkpoint
from ffbp.lifecycle.directory import RunDirectory, Status, previous_of
from ffbp.lifecycle.job import standing
from ffbp.lifecycle.prune import prune as prune_run
from ffbp.lifecycle.start import resume_run
from ffbp.report.runs import read_runs

CHOSEN = ("algo=bp", "model=mlp", "model.widths=[8]", "trainer.max_epochs=3", "algo.schedule=constant")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a finished run, a, of three epochs."""
    folder = tmp_path_factory.mktemp("trained")
    chosen, directory = settings(*CHOSEN), RunDirectory(folder / "logs" / "a")
    run.train(chosen, directory.path, bar=False)
    directory.write_settings(chosen | {"paths": {"data_dir": "data"}}, list(CHOSEN))
    directory.write_status(Status("finished", list(CHOSEN)))
    return folder


@pytest.fixture
def a(trained, tmp_path, monkeypatch) -> RunDirectory:
    """Its copy, with the file of an earlier version."""
    shutil.copytree(trained / "logs", tmp_path / "logs")
    monkeypatch.chdir(tmp_path)
    directory = RunDirectory(Path("logs/a"))
    shutil.copy(directory.best, previous_of(directory.best))
    return directory


def pruned(capsys, *words: str) -> tuple[int, str, str]:
    return typed(capsys, prune, *words)


def files(directory: RunDirectory) -> list[str]:
    return sorted(path.name for path in directory.best.parent.iterdir())


def test_a_finished_run_has_its_best_and_its_last_two(trained):
    assert files(RunDirectory(trained / "logs" / "a")) == ["best.ckpt", "last.ckpt", "last.previous.ckpt"]


def test_it_says_first_what_it_would_remove(a, capsys):
    before, size = files(a), previous_of(a.best).stat().st_size + previous_of(a.last).stat().st_size
    code, out, err = pruned(capsys)
    assert (code, err, files(a)) == (0, "", before)
    assert out.splitlines()[0] == f"logs/a: best.previous.ckpt, last.previous.ckpt ({size / 1e6:.1f} MB)"
    assert out.splitlines()[1].startswith(f"would remove 2 files of 1 finished runs, {size / 1e6:.1f} MB; add yes=true")
    assert pruned(capsys, "yes=true")[1].splitlines()[1].startswith("removed 2 files of 1 finished runs")
    assert files(a) == ["best.ckpt", "last.ckpt"]
    assert pruned(capsys, "yes=true")[1] == "nothing to remove\n"


def test_a_run_with_its_best_alone_is_used_and_not_trained(a, capsys):
    images = torch.rand(5, 28, 28)
    answers = ffbp.load(a.path).predict(images)
    others = sorted(path for path in a.path.rglob("*") if path.parent != a.best.parent)
    foreign = a.best.with_name("mine.ckpt")
    foreign.write_text("mine")
    a.last.with_name("last.damaged.ckpt").write_text("damaged")
    assert pruned(capsys, "keep=best", "yes=true")[0] == 0
    assert files(a) == ["best.ckpt", "mine.ckpt"]
    assert sorted(path for path in a.path.rglob("*") if path.parent != a.best.parent) == others
    assert torch.equal(ffbp.load(a.path).predict(images), answers)
    assert metrics_of(ffbp.load(a.path), "data", a.path, "")["test/acc"] == pytest.approx(a.read_metrics()["test/acc"])
    assert len(read_runs(a.path.parent)) == 1
    assert standing(a) == a.read_status()  # so that a sweep skips it
    resume_run(a.path, [])
    assert "its last checkpoint was pruned, so it cannot be trained longer. It is finished" in capsys.readouterr().out
    with pytest.raises(run.CheckpointError, match=r"a: its last checkpoint was pruned.*start a new run, or test"):
        resume_run(a.path, ["trainer.max_epochs=5"])
    assert a.read_status().state == "finished"


LEFT_ALONE = {
    "running": lambda a: a.write_status(Status("running", [])),
    "failed": lambda a: a.write_status(Status("failed", [])),
    "interrupted": lambda a: a.write_status(Status("interrupted", [])),
    "without metrics": lambda a: a.metrics.unlink(),
    "a folder that is a link": lambda a: (
        a.best.parent.rename("elsewhere"),
        a.best.parent.symlink_to("../../elsewhere"),
    ),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_what_is_not_finished_is_left_alone(case, a, capsys):
    LEFT_ALONE[case](a)
    before = files(a)
    assert pruned(capsys, "keep=best", "yes=true")[:2] == (0, "nothing to remove\n")
    assert prune_run(a, only_best=True, remove=True) == []  # looked at again once it is locked
    assert files(a) == before


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500] + bytes(500))


SKIPPED = {
    "the last is damaged": (
        "keep=last",
        lambda a: broken(a.last),
        "last.ckpt: damaged; nothing of this run is removed",
    ),
    "the best is damaged": ("keep=best", lambda a: broken(a.best), "best.ckpt: damaged; nothing"),
    "the best is gone": ("keep=best", lambda a: a.best.unlink(), "best.ckpt: cannot be read"),
    "the last is gone": ("keep=last", lambda a: a.last.unlink(), "last.ckpt: cannot be read"),
    "the best is a pipe": ("keep=best", lambda a: (a.best.unlink(), os.mkfifo(a.best)), "best.ckpt: damaged"),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_nothing_is_removed_where_what_would_stay_is_not_intact(case, a, capsys):
    keep, spoil, says = SKIPPED[case]
    spoil(a)
    before = files(a)
    code, out, err = pruned(capsys, keep, "yes=true")
    assert (code, out, files(a)) == (0, "nothing to remove\n", before)
    assert re.match(rf"skipped: logs/a/checkpoints/{says}.*\n\Z", err), err


def test_links_are_not_followed_and_stay(a, capsys, tmp_path):
    (tmp_path / "mine").write_text("mine")
    previous_of(a.last).unlink()
    previous_of(a.last).symlink_to(tmp_path / "mine")
    assert pruned(capsys, "yes=true")[0] == 0
    assert files(a) == ["best.ckpt", "last.ckpt", "last.previous.ckpt"]
    assert (tmp_path / "mine").read_text() == "mine"


def test_bytes_that_keep_another_name_are_not_counted(a, capsys):
    previous_of(a.best).unlink()
    previous_of(a.last).unlink()
    os.link(a.best, previous_of(a.best))
    os.link(a.last, previous_of(a.last))
    assert "(0.0 MB)" in pruned(capsys)[1]
    assert f"({a.last.stat().st_size / 1e6:.1f} MB)" in pruned(capsys, "keep=best")[1]


def test_a_run_that_somebody_works_in_is_skipped(a, capsys):
    lock = os.open(a.path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    code, out, err = pruned(capsys, "yes=true")
    assert (code, out) == (0, "nothing to remove\n")
    assert "another process is running there" in err
    os.close(lock)


def test_runs_are_chosen_by_their_settings(a, capsys):
    assert pruned(capsys, "algo=ff")[0] == 4
    assert pruned(capsys, "algo=bp", "model.widths=[8]")[1].startswith("logs/a: ")
    assert pruned(capsys, "keep=none")[0] == 2


def longer(directory: RunDirectory) -> None:
    chosen = settings(*CHOSEN)
    run.train(chosen | {"trainer": chosen["trainer"] | {"max_epochs": 5}}, directory.path, resume=True, bar=False)


def test_a_pruned_run_is_trained_longer_to_the_same_bits(a, capsys, tmp_path):
    assert pruned(capsys, "yes=true")[0] == 0
    chosen = settings(*CHOSEN)
    run.train(chosen | {"trainer": chosen["trainer"] | {"max_epochs": 5}}, tmp_path / "whole", bar=False)
    longer(a)
    assert_same_run(tmp_path / "whole", a.path)


def test_a_finished_run_with_a_damaged_best_is_trained_longer_from_its_last(a, capsys):
    content = read_checkpoint(a.last)
    record = content["callbacks"]["RunRecord"]
    record["best"] = record["rows"][0] | {"val/acc": 0.5}  # an epoch whose weights nobody has
    record["rows"][0] = record["best"]
    run.SafeCheckpointIO(a.path).save_checkpoint(content, a.last)
    previous_of(a.best).unlink()
    broken(a.best)
    longer(a)
    assert re.search(r"best.ckpt: .* Going on with .*last.ckpt as the best so far", capsys.readouterr().err)
    assert read_checkpoint(a.best)["epoch"] >= 2
