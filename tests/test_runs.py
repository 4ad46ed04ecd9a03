"""`ffbp runs`: which runs are listed, in which order, and how they are shown."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import settings
from omegaconf import OmegaConf
from typed import typed

from ffbp.cli.runs import runs
from ffbp.files import CHECKOUT
from ffbp.lifecycle.directory import RunDirectory, Status
from ffbp.plain_text import read_yaml
from ffbp.runs import _by_parts, choose, in_order, list_runs


def made(path: Path, *words: str, state: str = "finished", **metrics: float) -> RunDirectory:
    """A run's directory as a training leaves it, without checkpoints."""
    directory, chosen = RunDirectory(path), settings(*words)
    directory.write_settings(chosen | {"paths": {"data_dir": "data"}}, list(words))
    directory.write_status(Status(state, list(words)))
    names = {name: chosen[name]["name"] for name in ("algo", "model")} | {"data": "digits", "seed": chosen["seed"]}
    found = {"epochs": 3, "parameters": 9, "test/acc": 0.5, "val/acc": 0.5, "time/train_seconds": 1.5} | metrics
    directory.rows.write_text("epoch,val/acc\n0,0.25\n1,0.75\n2,\n")
    if state == "finished":
        directory.metrics.write_text(json.dumps(names | found))
    return directory


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    logs = tmp_path_factory.mktemp("saved") / "logs"
    made(logs / "a", "algo=ff", "model.widths=[500,500]", "seed=1", **{"val/acc": 0.9, "test/acc": 0.8})
    made(logs / "b", "algo=ff", "algo.optimizer.lr=1e-2", "seed=0", **{"val/acc": 0.95, "time/train_seconds": 9.0})
    made(logs / "sweep" / "c", "algo=bp", "seed=1", **{"val/acc": 0.7})
    made(logs / "killed", "algo=bp", "seed=2", state="running")
    return logs


@pytest.fixture
def folder(saved, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(saved, tmp_path / "logs")


def said(capsys, *words: str) -> tuple[int, str, str]:
    return typed(capsys, runs, *words)


CHOSEN = [
    (["algo=ff"], "a b"),
    (["algo.name=ff", "seed=0"], "b"),
    (["algo.optimizer.lr=0.01"], "b"),
    (["algo.optimizer.lr=0.010"], "b"),
    (["algo.optimizer.lr=1e-2,5e-3"], "b killed sweep/c"),
    (["model.widths=[500, 500]"], "a"),
    (["seed=1.0"], "a sweep/c"),
    (["state=finished", "data=digits", "model=cnn"], "sweep/c"),
    (["state=killed,failed"], "killed"),
    (["algo.peer_normalization=null", "algo=ff"], "a b"),
    (["sort=val/acc"], "b a killed sweep/c"),
    (["sort=-val/acc"], "sweep/c killed a b"),
    (["sort=seconds", "limit=2"], "a sweep/c"),
    (["sort=-seconds", "limit=1"], "b"),
    (["sort=algo.optimizer.lr", "limit=2", "state=finished"], "a sweep/c"),
    (["sort=algo", "limit=1", "state=finished"], "sweep/c"),
]


@pytest.mark.parametrize(("words", "expected"), CHOSEN)
def test_runs_are_chosen_by_settings_and_sorted_by_metrics(words, expected, folder, capsys):
    code, out, err = said(capsys, *words, "paths=true")
    assert (code, err) == (0, "")
    assert out.split("\n")[:-1] == [f"logs/{name}" for name in expected.split()]


REFUSED = [
    ("lr=0.1", 2, r"lr: no run has such a setting or metric\. Did you mean algo\.head\.lr, algo\.optimizer\.lr\?"),
    ("algo.optimzer.lr=0.1", 2, r"Did you mean algo\.optimizer\.lr"),
    ("sort=val/ac", 2, r"Did you mean .*val/acc"),
    ("show=nothing_like_it", 2, "no run has such a setting or metric.$"),
    ("limit=0", 2, "a whole number above 0"),
    ("limit=two", 2, "a whole number above 0"),
    ("algo", 2, "name=value expected"),
    ("seed=1 seed=2", 2, "write seed=1,2"),
    ("model.widths=[5", 2, "a value, or several"),
    ("paths=perhaps", 2, "true or false"),
    ("seed=77", 4, "logs: none of its 4 runs has seed=77"),
    ("runs=nowhere", 4, "nowhere: contains no runs"),
]


@pytest.mark.parametrize(("words", "code", "says"), REFUSED)
def test_what_cannot_be_asked_for_gets_one_line(words, code, says, folder, capsys):
    found, out, err = said(capsys, *words.split())
    assert (found, out) == (code, "")
    assert re.search(says, err.strip()), err
    assert err.count("\n") == 1


def test_the_table_shows_in_what_runs_differ_and_fits(folder, capsys, monkeypatch):
    lines = said(capsys)[1].splitlines()
    rows = [" ".join(line.split()) for line in lines]
    assert rows[0] == "state algo model seed widths lr epochs val/acc test/acc seconds MB path"
    assert rows[1] == "finished ff mlp 1 [500,500] 0.003 3 0.9000 0.8000 1.5 0.0 logs/a"
    assert rows[3] == "killed bp cnn 2 - 0.005 3 0.7500 - - 0.0 logs/killed"
    assert lines[-1] == "4 of 4 runs, 0.0 MB"
    shown = said(capsys, "show=algo.schedule,epochs", "algo=ff")[1].splitlines()
    assert shown[0].split()[:3] == ["state", "schedule", "epochs"]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    made(folder / ("long" * 20), "algo=ff", "seed=5")
    narrow = said(capsys)[1].splitlines()
    assert max(map(len, narrow[:6])) <= 80
    assert narrow[6].startswith("They differ in ")


def test_damaged_runs_are_named_and_left_out(folder, capsys):
    (folder / "a" / "metrics.json").write_text("{")
    (folder / "b" / ".hydra" / "config.yaml").write_text("algo: &x [1]\n")
    code, out, err = said(capsys, "paths=true")
    assert (code, out) == (0, "logs/killed\nlogs/sweep/c\n")
    assert sorted(re.findall(r"^skipped: (logs/\w)", err, re.MULTILINE)) == ["logs/a", "logs/b"]
    assert err.count("\n") == 2


def test_a_run_that_trains_is_running(folder, capsys):
    lock = os.open(folder / "killed", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert said(capsys, "state=running", "paths=true")[1] == "logs/killed\n"
    os.close(lock)


WRITTEN = ["a: 1\na: 2\n", "a: [1,\nb: 2]\n", 'a: "x\nb: y"\n', "- 1\n", "a: &x 1\n", "a:\n  !!python/none x\n", "%x\n"]


@pytest.mark.parametrize("text", WRITTEN)
def test_settings_that_are_written_in_another_way_are_not_read_by_parts(text):
    with pytest.raises((ValueError, yaml.YAMLError)):
        _by_parts(text)


def test_settings_read_by_parts_are_those_of_the_whole_file(tmp_path):
    path = tmp_path / "config.yaml"
    for words in (["algo=ff"], ["algo=softhebb", "model=conv"], ["data.shift=1e-3", "seed=010", "+logger.x='a: b'"]):
        path.write_text(OmegaConf.to_yaml(settings(*words)))
        assert _by_parts(path.read_text()) == read_yaml(path)


def test_listing_needs_no_pytorch(folder):
    program = "import sys; sys.argv = ['ffbp', 'runs', 'limit=1']; from ffbp.cli.commands import main\n"
    program += "try: main()\nexcept SystemExit: sys.exit('torch' in sys.modules or 'lightning' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "src")}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 4 runs" in done.stdout


def test_python_lists_the_same(folder):
    found = in_order(choose(list_runs(folder), {"algo": "ff"}), "val/acc")
    assert [run.path.name for run in found] == ["b", "a"]
    assert found[0].value("algo.optimizer.lr") == 0.01
    assert found[0].value("val/acc") == 0.95
