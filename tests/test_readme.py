"""What the README says is so."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT

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


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http|#)([^)]+)\)", README))))
def test_its_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_every_target_it_names_is_in_the_makefile():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"(?:`|^)make (\w+)", README, re.M)) <= set(targets)
