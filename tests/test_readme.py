"""What the README and the page of results say is so."""

import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ffbp.lifecycle.upgrades import upgrade_settings
from ffbp.report.differences import effective

PAGES = {name: (ROOT / name).read_text() for name in ("README.md", "results/README.md")}
README = PAGES["README.md"]
LINK = r"\]\((?!http|#)([^)#]+)"  # to a file of this project


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 200


def test_the_tables_and_quoted_files_are_those_that_the_pages_show():
    check = subprocess.run(
        [sys.executable, str(ROOT / "results" / "tables.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr


def test_the_readme_quotes_a_whole_rule_and_its_settings():
    quoted = re.findall(r"<!-- file: (\S+) -->\n```", README)
    assert quoted == ["src/ffbp/algorithms/random_features.py", "conf/algo/random_features.yaml"]
    assert all((ROOT / name).is_file() for name in quoted)  # tables.py leaves the text of one that is gone as it is


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
            if run.get("settings"):
                composed = OmegaConf.to_container(said, resolve=False)
                today = {key: part for key, part in effective(composed).items() if "${" not in str(part)}
                there = effective(upgrade_settings(run["settings"]))
                assert {key: there.get(key) for key in today} == today, run["overrides"]


LINKS = sorted({(page, link) for page, text in PAGES.items() for link in re.findall(LINK, text)})


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_every_link_leads_to_a_file(page, link):
    assert ((ROOT / page).parent / link).exists()


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_a_page_names_is_in_the_makefile(page):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    named = re.findall(r"(?:`|^)make (\w+)", PAGES[page], re.M)
    assert named
    assert set(named) <= set(targets)


def test_the_readme_names_every_choice_of_the_main_groups():
    for group in ("algo", "model", "data", "trainer"):
        [row] = re.findall(rf"^\| `{group}` \|(.*?)\|", README, re.M)
        assert set(re.findall(r"`(\w+)`", row)) == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
