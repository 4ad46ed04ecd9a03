"""hydra/sweeper=optuna: trials of a search as jobs of a sweep, as a user types it."""

import json
import signal
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_sweeps import jobs_of, states, sweep_of, wait_for

optuna = pytest.importorskip("optuna")

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution  # noqa: E402

from ffbp.errors import CheckpointError, ConfigError  # noqa: E402
from hydra_plugins.ffbp_optuna_sweeper import open_study, search_space  # noqa: E402

SMALL = ["-m", "hydra/sweeper=optuna", "data=digits", "algo=bp", "model=mlp", "model.widths=[8]"]
RATE = "algo.optimizer.lr=tag(log,interval(0.01,1))"


def trials_of(sweep: Path) -> list[tuple]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(sweep / "study.journal")))
    trials = optuna.load_study(study_name="sweep", storage=storage).trials
    return [(trial.number, trial.params, trial.value, trial.state.name) for trial in trials]


SPACES = {
    "x=interval(1e-4,0.1)": FloatDistribution(1e-4, 0.1),
    "x=interval(1,5)": FloatDistribution(1, 5),
    "x=int(interval(1,5))": IntDistribution(1, 5),
    "x=tag(log,interval(1e-4,0.1))": FloatDistribution(1e-4, 0.1, log=True),
    "x=tag(log,int(interval(1,100)))": IntDistribution(1, 100, log=True),
    "x=range(1,10,3)": IntDistribution(1, 7, step=3),  # the stop is not one of them
    "x=range(5,1,-2)": IntDistribution(3, 5, step=2),
    "x=range(0.1,0.35,0.1)": FloatDistribution(0.1, 0.3, step=0.1),
    "x=hard,uniform": CategoricalDistribution(["hard", "uniform"]),
    "x=choice([8],[8,4],'a b')": CategoricalDistribution(["[8]", "[8,4]", "a\\ b"]),
}


@pytest.mark.parametrize("word", SPACES)
def test_hydras_grammar_of_sweeps_says_what_is_drawn_from(word):
    assert search_space(OverridesParser.create().parse_override(word)) == SPACES[word]


NO_SPACES = [
    "interval(5,1)",
    "interval(1,1)",
    "interval(0,inf)",
    "tag(log,interval(0,1))",
    "range(3,1)",
    "range(1,3,0)",
]


@pytest.mark.parametrize("word", [*NO_SPACES, "tag(log,range(1,5))", "tag(lg,interval(1,5))"])
def test_what_is_no_range_is_refused(word):
    with pytest.raises(ConfigError, match=r"^x=.*(expected|only tag)"):
        search_space(OverridesParser.create().parse_override(f"x={word}"))


def test_a_study_goes_on_with_its_own_settings_only_and_survives_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "study.journal"
    space = {"x": IntDistribution(1, 5)}
    study = open_study(path, space, ["seed=0", "paths.data_dir=here"])
    study.tell(study.ask(space), 0.5)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    (tmp_path / "study.journal.lock").symlink_to(path)
    assert len(open_study(path, space, ["paths.data_dir=there", "seed=0"]).trials) == 1
    assert path.read_bytes().startswith(whole)
    for other in ({"space": {"x": IntDistribution(1, 6)}}, {"fixed": ["seed=1"]}):
        with pytest.raises(ConfigError, match=r"other settings or ranges; choose another hydra\.sweep\.dir"):
            open_study(path, **{"space": space, "fixed": ["seed=0"]} | other)
    for damage in (b"{}\n", b"[1]\n", b"no JSON\n\n", b"\xff\n"):
        path.write_bytes(damage + whole)
        with pytest.raises(CheckpointError, match="cannot be read"):
            open_study(path, space, ["seed=0"])
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is a link"):
        open_study(path, space, ["seed=0"])


def test_a_search_that_is_stopped_goes_on_to_the_trials_of_one_that_was_not(warm):
    words = [*SMALL, RATE, "algo.optimizer.weight_decay=0,-1", "hydra.sweeper.n_trials=4", "hydra.sweeper.seed=1"]
    words += ["trainer.max_epochs=8", "checkpoint.every_n_steps=5"]
    unbroken = warm(*words, "hydra.sweep.dir=unbroken")
    assert unbroken.wait(300) == 1, unbroken.stderr  # since a trial fails
    trials = trials_of(warm.folder / "unbroken")
    assert {"COMPLETE", "FAIL"} == {state for *_, state in trials}
    failed = sum(state == "FAIL" for *_, state in trials)
    assert f"study.journal: 4 trials, {failed} failed; the best is number" in unbroken.stdout
    assert f"{failed} of 4 jobs are not finished; see the table\n" in unbroken.stderr
    assert "Traceback" not in unbroken.stderr

    started = warm(*words)
    wait_for(warm.folder, "logs/sweeps/*/*/checkpoints/last.ckpt", 2)
    started.kill(signal.SIGINT)
    assert started.wait() == 130
    sweep = sweep_of(warm.folder)
    here = f"hydra.sweep.dir={sweep.relative_to(warm.folder)}"
    assert here in started.stderr
    assert [state for *_, state in trials_of(sweep)][-1] == "RUNNING"
    again = warm(*words, here)
    assert again.wait(300) == 1
    assert trials_of(sweep) == trials
    assert jobs_of(sweep) == jobs_of(warm.folder / "unbroken")
    done = {path: path.stat().st_mtime_ns for path in sweep.glob("*/metrics.json")}
    again = warm(*words, here)
    assert again.wait() == 1
    assert trials_of(sweep) == trials
    assert {path: path.stat().st_mtime_ns for path in sweep.glob("*/metrics.json")} == done

    found = [json.loads(path.read_text())["val/acc"] for path in done]  # and not the accuracy in the test
    assert sorted(found) == sorted(value for *_, value, state in trials if state == "COMPLETE")


def test_several_trials_at_a_time_some_of_them_the_same(warm):
    words = [*SMALL, "trainer.max_epochs=1", "seed=0,1", "hydra.sweeper.n_trials=6", "hydra.sweeper.n_jobs=3"]
    done = warm(*words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.wait(300) == 0, done.stderr
    trials = trials_of(sweep_of(warm.folder))
    assert [state for *_, state in trials] == ["COMPLETE"] * 6
    assert len({(params["seed"], value) for _, params, value, _ in trials}) == 2
    assert states(sweep_of(warm.folder)) == ["finished"] * 2


REFUSED = {
    "algo.optimizer.lr=interval(1,0.1)": "interval(least,most) expected",
    "seed=0": "nothing to search",
    "seed=0,1 data.val_size=0": "set data.val_size",
    "seed=0,1 hydra.sweeper.n_trials=0": "a whole number of 1 or more expected",
    "seed=0,1 hydra.sweeper.n_trials=many": "a whole number of 1 or more expected",
}


@pytest.mark.parametrize("words", [*REFUSED, "without Optuna"])
def test_a_search_that_cannot_work_is_refused_before_it_begins(words, warm):
    if words == "without Optuna":
        (warm.folder.parent / "missing").mkdir()
        (warm.folder.parent / "missing" / "optuna.py").write_text("raise ImportError('No module named optuna')")
        refused = warm(*SMALL, "seed=0,1", PYTHONPATH=str(warm.folder.parent / "missing"))
    else:
        refused = warm(*SMALL, *words.split())
    assert refused.wait() == 2, refused.stderr
    assert refused.stderr.count("\n") == 1
    assert REFUSED.get(words, "pip install 'ffbp[sweep]'") in refused.stderr
    assert not list(warm.folder.glob("logs/sweeps/**/*"))
