"""What the README says is so."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir

README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", README, re.S) if containing in text)


def test_its_algorithm_of_fifteen_lines_and_one_yaml_trains(command, tmp_path):
    code, settings = block("python", "RandomFeatures"), block("yaml", "RandomFeatures")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    (tmp_path / "random_features.py").write_text(code)
    (tmp_path / "conf" / "algo").mkdir(parents=True)
    settings = settings.replace("ffbp.algorithms.random_features", "random_features")
    (tmp_path / "conf" / "algo" / "random_features.yaml").write_text(settings)
    words = [f"--config-dir={tmp_path / 'conf'}", "algo=random_features", "data=digits", "trainer.max_epochs=8"]
    for model, least in (("mlp", 0.6), ("cnn", 0.2)):  # random features; chance is 0.1
        trained = command(*words, f"hydra.run.dir={model}", f"model={model}", PYTHONPATH=str(tmp_path))
        assert trained.returncode == 0, trained.stderr
        assert json.loads((tmp_path / model / "metrics.json").read_text())["test/acc"] > least

    stranger = command("run=mlp", script="evaluate.py", PYTHONPATH=str(tmp_path))
    assert stranger.returncode == 4
    assert "trust=[random_features]" in stranger.stderr
    trusted = command("run=mlp", "trust=[random_features]", script="evaluate.py", PYTHONPATH=str(tmp_path))
    assert trusted.returncode == 0, trusted.stderr


def test_its_tables_are_those_of_results():
    check = subprocess.run(
        [sys.executable, str(ROOT / "results" / "tables.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr


RUNS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*.json"))}
RUNS = {name: content["runs"] for name, content in RUNS.items() if isinstance(content.get("runs"), list)}


@pytest.mark.parametrize("name", RUNS)
def test_the_runs_of_results_are_those_that_the_yamls_describe(name):
    by_settings = {tuple(w for w in run["overrides"] if not w.startswith("seed=")): run for run in RUNS[name]}
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        for run in by_settings.values():
            said = compose("train", overrides=run["overrides"])
            described = [said.algo.name, said.model.name, said.data.source, said.seed, said.trainer.max_epochs]
            assert described == [run["metrics"][key] for key in ("algo", "model", "data", "seed", "epochs")], run


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http|#)([^)]+)\)", README))))
def test_its_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_every_target_it_names_is_in_the_makefile():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"(?:`|^)make (\w+)", README, re.M)) <= set(targets)
