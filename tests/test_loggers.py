"""logger=wandb and logger=mlflow, as a user types them: offline, in the default folders, small."""

import sqlite3
from pathlib import Path

import pytest

from ffbp.callbacks.trackers import MLflow, Wandb
from ffbp.errors import CheckpointError, ConfigError
from ffbp.lifecycle.trust import TRACKERS, require_trust

SMALL = ["data=digits", "algo=bp", "model=mlp", "model.widths=[8]"]
OFFLINE = ["logger.wandb.offline=true", "trainer.max_epochs=1"]


def rows(folder: Path, query: str) -> list[tuple]:
    """What the database in the default directory says."""
    with sqlite3.connect(folder / "logs" / "mlflow.db") as database:
        return database.execute(query).fetchall()


def run_of(folder: Path) -> Path:
    [run] = folder.glob("logs/bp/*")
    return run


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).parts[0] for path in folder.glob("**/*") if path.is_file()}


def test_wandb_lies_in_the_runs_directory_beside_tensorboard_and_a_resumed_run_is_the_same_one(warm):
    pytest.importorskip("wandb")
    home = warm.folder.with_name("home")
    done = warm(*SMALL, *OFFLINE, "logger=[default,wandb]", HOME=str(home))
    assert done.wait() == 0, done.stderr
    run = run_of(warm.folder)
    longer = ["trainer.max_epochs=2", f"resume={run.relative_to(warm.folder)}"]
    refused = warm(*longer, HOME=str(home))
    assert refused.wait() == 4
    assert "trust=[ffbp.callbacks.trackers.Wandb]" in refused.stderr
    done = warm(*longer, "trust=[ffbp.callbacks.trackers.Wandb]", HOME=str(home))
    assert done.wait() == 0, done.stderr
    assert len(list(run.glob("events.out.tfevents*"))) > 2
    first, second = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert first.name == second.name  # the run's id
    for name in (b"val/acc", b"test/acc", b"algo", b"widths"):
        assert name in first.read_bytes()
    assert files(warm.folder) == {"logs"}
    assert not (home / ".config").exists()
    assert not (home / ".cache" / "wandb").exists()


def test_wandb_without_a_login_is_refused_in_one_line_and_leaves_nothing(warm):
    pytest.importorskip("wandb")
    refused = warm(*SMALL, "logger=wandb", HOME=str(warm.folder), WANDB_API_KEY="", NETRC="none")
    assert refused.wait() == 2
    assert refused.stderr.count("\n") == 1
    assert "run `wandb login`, or add logger.wandb.offline=true" in refused.stderr
    assert not list(warm.folder.glob("logs/bp/*"))


def test_mlflow_gathers_the_jobs_of_a_sweep_and_a_resumed_run_is_the_same_one(warm, warm_process):
    pytest.importorskip("mlflow")
    words = ["-m", *SMALL, "trainer.max_epochs=1", "logger=mlflow", "seed=0,1"]
    done = warm(*words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    assert done.wait(300) == 0, done.stderr
    named = "SELECT name, status FROM runs ORDER BY name"
    assert rows(warm.folder, named) == [("bp-mlp-0", "FINISHED"), ("bp-mlp-1", "FINISHED")]
    one, _ = warm.folder.glob("logs/sweeps/*/*seed*")
    elsewhere = warm.folder.with_name("elsewhere")
    elsewhere.mkdir()
    longer = [f"resume={one}", "trainer.max_epochs=2", "trust=[ffbp.callbacks.trackers.MLflow]"]
    done = warm_process.start(*longer, cwd=elsewhere)
    assert done.wait() == 0, done.stderr
    assert rows(warm.folder, named) == [("bp-mlp-0", "FINISHED"), ("bp-mlp-1", "FINISHED")]
    steps = rows(warm.folder, "SELECT COUNT(*) FROM metrics WHERE key = 'val/acc' GROUP BY run_uuid ORDER BY 1")
    assert steps == [(1,), (2,)]
    params = dict(rows(warm.folder, "SELECT key, value FROM params"))
    assert list(elsewhere.iterdir()) == []
    assert (params["algo.optimizer.lr"], params["model.widths"]) == ("0.005", "[8]")
    assert files(warm.folder) == {"logs"}


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_named_in_one_line(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(f"lightning.pytorch.loggers.{kind}._{kind.upper()}_AVAILABLE", False)
    with pytest.raises(ConfigError, match=f"^logger={kind}: needs packages that are missing .*; pip install {kind}"):
        Wandb(str(tmp_path)) if kind == "wandb" else MLflow(str(tmp_path), f"sqlite:///{tmp_path}/mlflow.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "target", [*TRACKERS, "lightning.pytorch.loggers.WandbLogger", "ffbp.callbacks.trackers.WandbLogger"]
)
def test_a_saved_run_tells_nobody_unless_it_is_trusted(target, tmp_path):
    settings = {"logger": {"x": {"_target_": target, "save_dir": str(tmp_path), "offline": True}}}
    with pytest.raises(CheckpointError, match="refused"):
        require_trust(settings, [], tmp_path)
    require_trust(settings, [target], tmp_path)
