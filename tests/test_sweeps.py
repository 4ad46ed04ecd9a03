"""A sweep survives its jobs, says what became of each, and goes on where it was stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from same_run import start

from ffbp.lifecycle.checkpoint import read_checkpoint

SMALL = ["data=digits", "algo=bp", "model=mlp", "model.widths=[8]", "logger=none", "trainer=cpu"]
SWEEP = ["-m", *SMALL, "hydra.sweep.dir=sweep"]


def jobs_of(folder: Path) -> list[dict]:
    return json.loads((folder / "sweep" / "sweep.json").read_text())


def states(folder: Path) -> list[str]:
    return [job["state"] for job in jobs_of(folder)]


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.glob("**/*") if path.is_file()}


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_six_jobs_of_which_one_is_refused_and_one_breaks(launcher, warm, command, tmp_path):
    words = [*SWEEP, "algo.optimizer.name=sgd", "algo.optimizer.lr=0.1,0.2,-1,1e30,0.3,0.4", "trainer.max_epochs=2"]
    if launcher == "basic":
        folder = warm.folder
        sweep = lambda: warm(*words)  # noqa: E731
    else:
        folder = tmp_path
        sweep = lambda: start(tmp_path, *words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")  # noqa: E731
    assert sweep().wait(300) == 1
    assert states(folder) == ["finished", "finished", "failed", "failed", "finished", "finished"]
    errors = [job["error"] for job in jobs_of(folder)]
    assert "lr=-1: a number above 0" in errors[2]
    assert "NaN or infinite" in errors[3]
    finished = [path.parent for path in sorted(folder.glob("sweep/*/metrics.json"))]
    assert len(finished) == 4
    overrides = json.loads((finished[0] / "status.json").read_text())["overrides"]
    assert {"algo.optimizer.lr=0.1", "trainer.max_epochs=2"} <= set(overrides)

    before = {directory: contents(directory) for directory in finished}
    again = sweep()
    assert again.wait(300) == 1
    output = again.stdout if launcher == "basic" else again.stdout.read()
    assert output.count("finished, skipped") == 4
    assert {directory: contents(directory) for directory in finished} == before
    assert states(folder) == ["finished", "finished", "failed", "failed", "finished", "finished"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_sweep_stopped_in_its_third_job_goes_on(number, code, warm):
    folder = warm.folder
    words = [*SWEEP, "seed=0,1,2,3", "trainer.max_epochs=15", "checkpoint.every_n_steps=5"]
    whole = warm(*words, "hydra.sweep.dir=whole")
    assert whole.wait(300) == 0, whole.stderr

    sweep = warm(*words)
    while not list(folder.glob("sweep/2_*/checkpoints/last.ckpt")):
        time.sleep(0.005)
    sweep.kill(number)
    assert sweep.wait(60) == code
    assert "Traceback" not in sweep.stderr
    assert states(folder) == ["finished", "finished", "interrupted"]
    assert "hydra.sweep.dir=sweep" in sweep.stderr
    third = next(folder.glob("sweep/2_*"))
    stopped_at = read_checkpoint(third / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < stopped_at < 375

    again = warm(*words)
    assert again.wait(300) == 0, again.stderr
    assert again.stdout.count("finished, skipped") == 2
    assert states(folder) == ["finished"] * 4
    whole_accuracies = [job["test/acc"] for job in json.loads((folder / "whole" / "sweep.json").read_text())]
    assert [job["test/acc"] for job in jobs_of(folder)] == whole_accuracies


def test_a_killed_sweep_goes_on_and_starts_afresh_what_had_no_checkpoint(warm):
    folder = warm.folder
    words = [*SWEEP, "seed=0,1", "trainer.max_epochs=2"]
    sweep = warm(*words)
    while not list(folder.glob("sweep/1_*/status.json")):
        time.sleep(0.001)
    sweep.kill()
    sweep.wait()
    again = warm(*words)
    assert again.wait(300) == 0, again.stderr
    assert again.stdout.count("finished, skipped") == 1
    assert states(folder) == ["finished"] * 2


def test_other_settings_in_the_same_directory_are_refused_and_lose_nothing(warm):
    assert warm(*SWEEP, "seed=0", "trainer.max_epochs=1").wait() == 0
    job = next(warm.folder.glob("sweep/0_*"))
    before = contents(job)
    other = warm(*SWEEP, "seed=0,1", "trainer.max_epochs=2")
    assert other.wait() == 1
    assert "contains a run with other settings" in other.stderr
    assert jobs_of(warm.folder)[0]["error"]
    before.pop(job / "status.json")
    assert before.items() <= contents(job).items()
    assert warm(*SWEEP, "seed=0", "trainer.max_epochs=1").wait() == 0  # the very same is finished

    written = job / ".hydra" / "config.yaml"
    written.write_text(written.read_text().replace("weight_decay: 0.0", "weight_decay: 0.5", 1))
    changed = warm(*SWEEP, "seed=0", "trainer.max_epochs=1")  # as if a YAML had been changed since
    assert changed.wait() == 1
    assert "algo.optimizer.weight_decay is 0.5 there, 0.0 here" in changed.stderr


def test_a_job_that_is_going_on_is_left_alone(warm):
    words = [*SWEEP, "seed=0", "trainer.max_epochs=300"]
    first = warm(*words)
    while not list(warm.folder.glob("sweep/*/checkpoints/last.ckpt")):
        time.sleep(0.005)
    directory = next(warm.folder.glob("sweep/0_*"))
    resumed = warm(f"resume={directory}")
    assert resumed.wait() == 2
    assert "another process is running there" in resumed.stderr
    first.kill(signal.SIGTERM)
    assert first.wait() == 143


def joblib_sweep(folder: Path, *words: str) -> subprocess.Popen[str]:
    return start(folder, *SWEEP, *words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def test_side_by_side_a_signal_saves_all_and_starts_no_more(tmp_path):
    words = ["seed=0,1,2,3", "trainer.max_epochs=400"]
    sweep = joblib_sweep(tmp_path, *words)
    while len(list(tmp_path.glob("sweep/*/checkpoints/last.ckpt"))) < 2:
        time.sleep(0.01)
    sweep.send_signal(signal.SIGTERM)
    _, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 143, errors
    assert states(tmp_path) == ["interrupted", "interrupted"]


def test_side_by_side_a_killed_worker_is_reported(tmp_path):
    sweep = joblib_sweep(tmp_path, "seed=0,1,2", "trainer.max_epochs=2000")
    while len(list(tmp_path.glob("sweep/*/checkpoints/last.ckpt"))) < 2:
        time.sleep(0.01)
    workers = subprocess.run(["pgrep", "-P", str(sweep.pid), "-f", "popen_loky"], capture_output=True, text=True)
    os.kill(int(workers.stdout.split()[0]), signal.SIGKILL)
    _, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 6, errors
    assert "a worker of the sweep was killed" in errors
    assert "Traceback" not in errors


def children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="jobs have processes of their own on Linux only")
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_killed_job_is_named_stops_no_other_and_goes_on(launcher, warm, tmp_path):
    words = [*SWEEP, "seed=0,1,2", "trainer.max_epochs=15", "checkpoint.every_n_steps=5"]
    if launcher == "basic":
        folder = warm.folder
        sweep = lambda: warm(*words)  # noqa: E731
    else:
        folder = tmp_path
        sweep = lambda: start(tmp_path, *words, "hydra/launcher=joblib", "hydra.launcher.n_jobs=1")  # noqa: E731
    running = sweep()
    while not list(folder.glob("sweep/1_*/checkpoints/last.ckpt")):
        time.sleep(0.005)
    jobs = children(running.pid)
    if launcher == "joblib":
        jobs = [job for worker in jobs for job in children(worker)] or jobs
    for job in jobs:
        os.kill(job, signal.SIGKILL)
    assert running.wait(300) == 1
    assert states(folder) == ["finished", "failed", "finished"]
    assert "killed" in jobs_of(folder)[1]["error"]

    assert sweep().wait(300) == 0
    assert states(folder) == ["finished"] * 3
