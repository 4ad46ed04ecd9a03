"""What is kept of a run in results/, and what it foretells of a new seed."""

import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT

from ffbp.lifecycle import train
from ffbp.report.runs import Run

sys.path.append(str(ROOT / "results"))
from recorded import prediction_interval, recorded

RUN = Run(
    {"git": "format-4-1-gabc", "seed": 0},
    {"epoch": [0.0], "step": [3.0], "alignment/layer_0": [0.123456]},
    ["seed=0"],
    {"seed": 0, "paths": {"log_dir": "/home/me"}},
    "here",
)


def test_the_interval_of_a_new_seed_is_that_of_students_t():
    # three values: t(0.975, 2 degrees of freedom) = 4.3027 from a table, times 1, times sqrt(4 / 3)
    assert prediction_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.96829, 2 + 4.96829), abs=1e-4)
    assert prediction_interval([0.5]) == (float("-inf"), float("inf"))


def test_a_run_is_kept_with_its_settings_and_without_the_places_of_this_machine():
    kept = recorded(RUN, digits=3, kinds=("alignment/",))
    assert kept["settings"] == {"seed": 0}
    assert kept["history"] == {"epoch": [0.0], "alignment/layer_0": [0.123]}
    assert "/home" not in str(kept)


@pytest.mark.parametrize("revision", ["format-4-1-gabc-dirty", None])
def test_a_run_whose_code_stands_in_no_commit_is_not_recorded(revision):
    with pytest.raises(SystemExit, match="commit, and train it again"):
        recorded(replace(RUN, metrics={"git": revision}))


def test_a_series_of_runs_that_writes_down_its_figures_changes_no_code(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "CHECKOUT", tmp_path)
    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/figures.json", "results/series.py"):
        (tmp_path / name).write_text("1\n")
    for words in ("init", "add .", "-c user.name=a -c user.email=b commit -m one"):
        subprocess.run(["git", "-C", tmp_path, *words.split()], check=True, capture_output=True)
    clean = train._git_revision()
    (tmp_path / "results" / "figures.json").write_text("2\n")
    assert train._git_revision() == clean
    (tmp_path / "results" / "series.py").write_text("2\n")
    assert train._git_revision() == f"{clean}-dirty"
