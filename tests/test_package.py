"""Parts of one's own outside the repository, as docs/own_package.md has them, and ffbp as an installed package."""

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from conftest import ROOT

import ffbp
from ffbp.lifecycle.checkpoint import read_checkpoint

PAGE = (ROOT / "docs" / "own_package.md").read_text()
MINE = ["--config-dir=conf", "algo=smoothed", "model=wide", "data=stripes", "checkpoint.every_n_steps=2"]


@pytest.fixture
def package(warm) -> Path:
    """The page's package and settings, in a working directory outside the repository."""
    blocks = dict(re.findall(r"`((?:mine|conf)/[\w/]+\.(?:py|yaml))`.*?\n```\w+\n(.*?)```", PAGE, re.DOTALL))
    assert len(blocks) == 6
    for name, text in blocks.items():
        path = warm.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (warm.folder / "mine" / "__init__.py").touch()
    return warm.folder


def test_a_rule_a_model_and_data_of_ones_own_train_resume_answer_and_compare(package, warm, monkeypatch):
    here = {"PYTHONPATH": str(package)}
    assert len((package / "mine" / "rule.py").read_text().strip().splitlines()) <= 25
    whole = warm(*MINE, "hydra.run.dir=logs/whole", **here)
    killed = warm(*MINE, "hydra.run.dir=logs/killed", "trainer.max_epochs=300", **here)
    while not (package / "logs" / "killed" / "metrics.csv").exists():
        time.sleep(0.01)
    killed.kill()
    assert whole.wait() == 0, whole.stderr
    metrics = json.loads((package / "logs" / "whole" / "metrics.json").read_text())
    assert (metrics["algo"], metrics["model"], metrics["data"]) == ("smoothed", "wide", "stripes")
    assert metrics["test/acc"] > 0.9
    assert "smoothed/loss" in (package / "logs" / "whole" / "metrics.csv").read_text()

    for words, script in ((["resume=logs/killed"], "train.py"), (["run=logs/whole"], "evaluate.py")):
        stranger = warm(*words, script=script, **here)
        assert stranger.wait() == 4
        assert re.search(r"mine\.\S+: refused.*If that code is yours.*trust=\[mine\]", stranger.stderr)
    before = read_checkpoint(package / "logs" / "killed" / "checkpoints" / "last.ckpt")["global_step"]
    resumed = warm("resume=logs/killed", "trust=[mine]", **here)
    while read_checkpoint(package / "logs" / "killed" / "checkpoints" / "last.ckpt")["global_step"] == before:
        assert resumed.poll() is None, resumed.stderr
        time.sleep(0.01)
    resumed.kill()

    evaluated = warm("run=logs/whole", "trust=[mine]", script="evaluate.py", **here)
    assert evaluated.wait() == 0, evaluated.stderr
    assert json.loads(evaluated.stdout)["test/acc"] == pytest.approx(metrics["test/acc"])
    compared = warm("runs=logs", script="compare.py")
    assert compared.wait() == 0, compared.stderr
    assert "smoothed, wide" in compared.stdout
    monkeypatch.syspath_prepend(package)
    assert ffbp.load(package / "logs" / "whole", trust=["mine"]).stack.classes == 2


def test_settings_of_ones_own_are_found_on_hydras_search_path_and_checked(package, warm):
    words = ["hydra.searchpath=[file://conf]", "algo=smoothed", "data=digits", "trainer.max_epochs=1"]
    done = warm(*words, PYTHONPATH=str(package))
    assert done.wait() == 0, done.stderr
    wrong = warm(*words, "algo.smoothing=2", PYTHONPATH=str(package))
    assert wrong.wait() == 2
    assert "algo.smoothing=2: less than 1 expected" in wrong.stderr


def test_an_installed_wheel_trains_evaluates_and_compares_in_any_folder(tmp_path):
    """In an environment with our dependencies and the wheel; the checkout is not on its path."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert list((tmp_path / "dist").glob("*.tar.gz"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True)
    python = tmp_path / "env" / "bin" / "python"
    [wheel] = (tmp_path / "dist").glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    [site] = (tmp_path / "env").glob("lib/*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            words, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True, timeout=300
        )

    (tmp_path / "elsewhere").mkdir()
    program = str(tmp_path / "env" / "bin" / "ffbp")
    trained = run(program, "train", "algo=ff", "data=digits", "trainer.max_epochs=1", "hydra.run.dir=logs/ff/one")
    assert trained.returncode == 0, trained.stderr
    metrics = json.loads((tmp_path / "elsewhere" / "logs" / "ff" / "one" / "metrics.json").read_text())
    assert metrics["git"] is None
    two = ["algo=bp", "model=mlp", "data=digits", "trainer.max_epochs=1", "trainer=ddp", "trainer.accelerator=cpu"]
    several = run(str(python), "-m", "ffbp", "train", *two)
    assert several.returncode == 0, several.stderr
    evaluated = run(program, "evaluate", "run=logs/ff/one")
    assert (evaluated.returncode, evaluated.stderr) == (0, "")
    compared = run(str(python), "-m", "ffbp", "compare")
    assert compared.returncode == 0, compared.stderr
    assert (tmp_path / "elsewhere" / "logs" / "compare" / "index.html").exists()
    unknown = run(program, "trian")
    assert unknown.returncode == 2
    assert "ffbp train, evaluate, compare, demo, runs, prune expected" in unknown.stderr
