"""A sweep survives its jobs, says what became of each, and goes on where it was stopped, as a user types it."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from ffbp.lifecycle.job import job_folder
from ffbp.lifecycle.sweep_progress import SweepProgress

METRICS = {"algo": "bp", "model": "mlp", "data": "digits", "seed": 0, "epochs": 1, "parameters": 1, "test/acc": 0.5}
METRICS |= {"time/train_seconds": 1.0}
SMALL = ["-m", "data=digits", "algo=bp", "model=mlp", "model.widths=[8]"]
LONG = [*SMALL, "trainer.max_epochs=15", "checkpoint.every_n_steps=5"]
JOBLIB = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
LAUNCHERS = {
    "basic": [],
    "joblib": JOBLIB,
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1"],
}


def sweep_of(folder: Path) -> Path:
    """The sweep in the default directory, the only one."""
    [found] = folder.glob("logs/sweeps/*")
    return found


def jobs_of(sweep: Path) -> list[dict]:
    return json.loads((sweep / "sweep.json").read_text())


def states(sweep: Path) -> list[str]:
    return [job["state"] for job in jobs_of(sweep)]


def job(sweep: Path, override: str) -> Path:
    return next(folder for folder in sweep.iterdir() if re.search(rf"\b{override}[,@]", folder.name))


def wait_for(folder: Path, pattern: str, number: int = 1) -> None:
    deadline = time.monotonic() + 120
    while len(list(folder.glob(pattern))) < number:
        assert time.monotonic() < deadline, pattern
        time.sleep(0.002)


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.glob("**/*") if path.is_file()}


# -- where a job lies

VALUES = ["a", "-a", "a-b", "a/b", "a\\b", "'a'", '"a"', "[a]", "{a:1}", "[a,b]", "'a,b'", "a;b", "$(a)", "é", "a*b"]
VALUES += ["a@b", "#a", "a b", "\n", 300 * "a", 301 * "a"]
ODD = [*(f"x={value}" for value in VALUES), "+x=a", "~x", "-x", ".x=a"]


def test_folders_of_jobs_are_safe_short_and_different():
    names = [job_folder(words) for odd in ODD for words in ([odd], [odd, "seed=0"], ["seed=1", odd])]
    assert len(set(names)) == len(names)
    for name in [*names, job_folder([])]:
        assert re.fullmatch(r"[\w+=][\w.,=+@-]{0,119}", name, flags=re.ASCII)


def test_the_folder_of_a_job_depends_on_its_own_settings_alone():
    words = ["seed=0", "algo.optimizer.lr=0.1", "algo=bp", "trainer.max_epochs=2"]
    elsewhere = ["paths.data_dir=/data", "hydra.sweep.dir=x", "debug=true", "+sweep=seeds"]
    name = "algo=bp,seed=0,trainer.max_epochs=2,algo.optimizer.lr=0.1"
    assert job_folder(words) == job_folder(words[::-1]) == job_folder([*elsewhere, *words]) == name


def test_a_sweep_of_long_and_nested_settings(warm):
    words = ["paths.data_dir=/data", "model.widths=[8],[8,4]", "+data.name='a/b ü'", "algo.optimizer.weight_decay=0.0"]
    words += [f"trainer.{name}=1.0" for name in ("limit_val_batches", "limit_test_batches", "limit_train_batches")]
    words += ["algo.optimizer.momentum=0.9", "algo.optimizer.lr=0.003", "data.batch_size=100", "data.val_size=100"]
    done = warm(*SMALL[:-1], *words, "trainer.max_epochs=1")
    assert done.wait() == 0, done.stderr
    assert states(sweep_of(warm.folder)) == ["finished"] * 2


# -- what ends a job, and what a sweeper learns of it

RECORDER = """
import json
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

class Recorder(BasicSweeper):
    def sweep(self, arguments):
        batches = super().sweep(arguments)
        json.dump([done.return_value for batch in batches for done in batch], open("returned.json", "w"))
        return batches
"""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_job_that_is_refused_or_breaks_stops_no_other_and_a_sweeper_gets_the_accuracies(launcher, warm):
    plugins = warm.folder / "plugins" / "hydra_plugins"
    plugins.mkdir(parents=True)
    (plugins / "recorder.py").write_text(RECORDER)
    packages = os.pathsep.join([str(plugins.parent), os.environ.get("PYTHONPATH", "")])
    words = [*SMALL, "algo.optimizer.name=sgd", "algo.optimizer.lr=0.1,-1,1e30,0.2"]
    words += ["trainer.max_epochs=2", "hydra.sweep.dir=sweep", "hydra.sweeper._target_=hydra_plugins.recorder.Recorder"]
    sweep = warm.folder / "sweep"

    first = warm(*words, *LAUNCHERS[launcher], PYTHONPATH=packages)
    assert first.wait(300) == 1, first.stderr
    assert "Traceback" not in first.stderr
    assert "2 of 4 jobs are not finished" in first.stderr
    said = [line for line in first.stdout.splitlines() if line.startswith("sweep ")]
    assert said
    assert all(len(line) <= 80 for line in said)
    if launcher == "basic":
        assert [re.match(r"sweep (\d)/4: .*?(\d) left", line).groups() for line in said] == [
            *zip("123", "321", strict=True)
        ]
        assert re.search(r"2 failed, 1 left, .* until .*; best 0\.\d{4} by lr=0\.1$", said[-1])
    ended = {re.search("lr=([^,@]+)", job["job"])[1]: job for job in jobs_of(sweep)}
    assert {rate: job["state"] for rate, job in ended.items()} == {
        "-1": "failed",
        "0.1": "finished",
        "0.2": "finished",
        "1e+30": "failed",
    }
    assert "lr=-1: a number above 0" in ended["-1"]["error"]
    assert "NaN or infinite" in ended["1e+30"]["error"]
    best = [json.loads((job(sweep, f"lr={rate}") / "metrics.json").read_text())["val/acc"] for rate in (0.1, 0.2)]
    returned = json.loads((warm.folder / "returned.json").read_text())
    assert (returned[0], returned[3]) == tuple(best)
    assert all(map(math.isnan, returned[1:3]))
    before = {rate: contents(job(sweep, f"lr={rate}")) for rate in (0.1, 0.2)}
    again = warm(*words, PYTHONPATH=packages)
    assert again.wait(300) == 1
    assert again.stdout.count("finished, skipped") == 2
    assert {rate: contents(job(sweep, f"lr={rate}")) for rate in (0.1, 0.2)} == before
    assert json.loads((warm.folder / "returned.json").read_text())[::3] == best


# -- how far it is


def test_the_line_between_jobs_counts_what_is_skipped_and_failed_and_fits_80_columns(tmp_path, capsys):
    names = [f"seed={seed},x.lr={rate}" for seed in (0, 1) for rate in (0.1, 0.2, 0.3)]

    def end(name: str, state: str, accuracy: float | None = None) -> None:
        status = {"state": state, "overrides": [*name.split(","), "data=digits"], "error": None}
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "status.json").write_text(json.dumps(status))
        if accuracy is not None:
            (tmp_path / name / "metrics.json").write_text(json.dumps(METRICS | {"val/acc": accuracy}))

    end(names[1], "finished", 0.75)
    end(names[2], "failed")
    now = datetime(2026, 1, 1, 12, 0)
    progress = SweepProgress(tmp_path, 6, names, ["seed", "x.lr"])
    assert progress.line(0.0, now) == "sweep 1/6: 1 skipped, 5 left; best 0.7500 by seed=0 lr=0.2"
    end(names[0], "finished", 0.8125)
    progress.job_ended(names[0], 100.0)
    assert "4 left, 7 min until" in capsys.readouterr().out
    progress.job_ended(names[1], 5000.0)  # it is skipped, and its time does not count
    assert capsys.readouterr().out == ""
    said = "sweep 2/6: 1 skipped, 4 left, 7 min until 12:06; best 0.8125 by seed=0 lr=0.1"
    assert progress.line(100.0, now) == said
    assert len(said) < 80
    end(names[2], "failed")
    progress.job_ended(names[2], 1.0)
    end(names[3], "running")  # and then killed
    progress.job_ended(names[3], 1.0)
    assert "2 left, 3 min until" in capsys.readouterr().out
    tail = "2 left, 3 min until 12:03; best 0.8125 by seed=0…"
    assert progress.line(100.0, now) == f"sweep 4/6: 1 skipped, 2 failed, {tail}"[:79].rstrip("…") + "…"
    for name in names[4:]:
        end(name, "finished", 0.5)
        progress.job_ended(name, 100.0)
    assert progress.line(300.0, now) is None
    unknown = SweepProgress(tmp_path, None, None, [])
    assert unknown.line(0.0, now).endswith("; best 0.8125")


# -- stopped and continued


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_stopped_in_its_second_job_goes_on_and_grows(number, warm):
    started = warm(*LONG, "seed=0,1")
    wait_for(warm.folder, "logs/sweeps/*/*seed=1*/checkpoints/last.ckpt")
    started.kill(number)
    assert started.wait(60) == (-number if number == signal.SIGKILL else 128 + number)
    sweep = sweep_of(warm.folder)
    here = f"hydra.sweep.dir={sweep.relative_to(warm.folder)}"
    if number != signal.SIGKILL:
        assert "Traceback" not in started.stderr
        assert states(sweep) == ["finished", "interrupted"]
        assert here in started.stderr
    again = warm(*LONG, "seed=0,1", here)
    assert again.wait() == 0, again.stderr
    assert again.stdout.count("finished, skipped") == 1
    more = warm(*LONG, "seed=1,2,0", here)
    assert more.wait() == 0, more.stderr
    assert more.stdout.count("finished, skipped") == 2
    assert states(sweep) == ["finished"] * 3
    unbroken = warm(*LONG, "seed=1", "hydra.sweep.dir=unbroken")
    assert unbroken.wait() == 0
    assert jobs_of(warm.folder / "unbroken") == jobs_of(sweep)[1:2]


def test_a_sweep_killed_before_its_first_checkpoint_starts_that_job_afresh(warm):
    started = warm(*SMALL, "seed=0,1")
    wait_for(warm.folder, "logs/sweeps/*/*seed=1*/status.json")
    started.kill()
    started.wait()
    again = warm(*SMALL, "seed=0,1", f"hydra.sweep.dir={sweep_of(warm.folder)}")
    assert again.wait() == 0, again.stderr
    assert again.stdout.count("finished, skipped") == 1
    assert states(sweep_of(warm.folder)) == ["finished"] * 2


def test_side_by_side_a_signal_saves_all_and_starts_no_more(warm):
    started = warm(*SMALL, *JOBLIB, "seed=0,1,2,3", "trainer.max_epochs=2000")
    wait_for(warm.folder, "logs/sweeps/*/*/checkpoints/last.ckpt", 2)
    started.kill(signal.SIGTERM)
    assert started.wait() == 143, started.stderr
    sweep = sweep_of(warm.folder)
    assert states(sweep) == ["interrupted", "interrupted"]
    assert f"hydra.sweep.dir={sweep.relative_to(warm.folder)}" in started.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="jobs of submitit are found on Linux only")
def test_under_submitit_a_signal_saves_all_and_the_same_command_goes_on(warm):
    words = [*SMALL, "hydra/launcher=submitit_local", "seed=0,1", "hydra.sweep.dir=sweep"]
    started = warm(*words, "trainer.max_epochs=2000")
    wait_for(warm.folder, "sweep/*/checkpoints/last.ckpt", 2)
    started.kill(signal.SIGINT)
    assert started.wait() == 130, started.stderr
    assert states(warm.folder / "sweep") == ["interrupted", "interrupted"]
    assert "hydra.sweep.dir=sweep" in started.stderr


def children(pid: int) -> list[int]:
    return [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def workers(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", "popen_loky"], capture_output=True, text=True)
    return [int(worker) for worker in found.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="jobs have processes of their own on Linux only")
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_killed_job_is_named_stops_no_other_and_goes_on(launcher, warm):
    alone = [] if launcher == "basic" else [*JOBLIB[:1], "hydra.launcher.n_jobs=1"]
    started = warm(*LONG, "seed=0,1,2", *alone)
    wait_for(warm.folder, "logs/sweeps/*/*seed=1*/checkpoints/last.ckpt")
    sweep = sweep_of(warm.folder)
    jobs = [child for child in children(started.pid) if child not in workers(started.pid)]
    for child in [child for worker in workers(started.pid) for child in children(worker)] or jobs:
        os.kill(child, signal.SIGKILL)
    assert started.wait(300) == 1, started.stderr
    assert states(sweep) == ["finished", "failed", "finished"]
    assert "killed" in jobs_of(sweep)[1]["error"]
    again = warm(*LONG, "seed=0,1,2", f"hydra.sweep.dir={sweep}")
    assert again.wait() == 0, again.stderr
    assert states(sweep) == ["finished"] * 3


def test_side_by_side_a_killed_worker_is_reported(warm):
    started = warm(*SMALL, *JOBLIB, "seed=0,1,2", "trainer.max_epochs=2000")
    wait_for(warm.folder, "logs/sweeps/*/*/checkpoints/last.ckpt", 2)
    os.kill(workers(started.pid)[0], signal.SIGKILL)
    assert started.wait() == 6, started.stderr
    assert "a worker of the sweep was killed" in started.stderr
    assert "Traceback" not in started.stderr
    assert {"failed"} <= set(states(sweep_of(warm.folder)))


# -- what lies on the disk

DAMAGES = {
    "0": lambda run: (run / "status.json").unlink(),
    "1": lambda run: (run / "status.json").write_text('{"state": [1], "error": 2}'),
    "2": lambda run: (run / "status.json").write_bytes(b"\xff{"),
    "3": lambda run: (run / "metrics.json").unlink(),
    "4": lambda run: (run / "metrics.json").write_text('{"test/ac'),
    "5": lambda run: (run / "metrics.json").write_text('{"test/acc": [1]}'),
}


def test_a_job_with_a_damaged_file_fails_the_sweep_and_the_same_command_mends_it(warm):
    words = [*SMALL, "trainer.max_epochs=1", "hydra.sweep.dir=sweep"]
    whole = warm(*words, f"seed={','.join(DAMAGES)},6,7")
    assert whole.wait() == 0, whole.stderr
    sweep = warm.folder / "sweep"
    before = jobs_of(sweep)
    for seed, damage in DAMAGES.items():
        damage(job(sweep, f"seed={seed}"))
    for path in job(sweep, "seed=7").glob("*.json"):
        path.write_text("")  # as a power failure leaves them

    one = warm(*words, "seed=6")
    assert one.wait() == 1
    assert one.stderr.count("\n") == 1
    assert "7 of 8 jobs are not finished" in one.stderr
    assert states(sweep) == [*["failed"] * 6, "finished", "failed"]
    assert all("missing or damaged" in job["error"] for job in jobs_of(sweep) if job["state"] == "failed")

    again = warm(*words, f"seed={','.join(DAMAGES)},6,7")
    assert again.wait() == 0, again.stderr
    assert jobs_of(sweep) == before


def test_what_cannot_be_written_at_the_end_is_said_and_no_success(warm):
    words = [*SMALL, "trainer.max_epochs=1", "hydra.sweep.dir=sweep", "seed=0,1"]
    sweep = warm.folder / "sweep"
    sweep.mkdir()
    blocked = sweep / ".sweep.json.new"  # what is written before it becomes sweep.json
    blocked.mkdir()
    ended = warm(*words)
    assert ended.wait() == 6
    assert ended.stderr.count("\n") == 1
    assert "sweep/sweep.json: cannot be written (Is a directory)" in ended.stderr
    blocked.rmdir()
    second = job(sweep, "seed=1")
    (second / "status.json").unlink()
    (second / ".status.json.new").mkdir()
    ended = warm(*words)
    assert ended.wait() == 1
    assert "status.json: cannot be written (Is a directory)" in ended.stderr
    assert states(sweep) == ["finished", "failed"]


def test_other_settings_under_the_same_overrides_are_refused_and_lose_nothing(warm):
    words = [*SMALL, "algo=ff", "model.widths=[8,8]", "trainer.max_epochs=1", "hydra.sweep.dir=sweep"]
    assert warm(*words).wait() == 0
    run = job(warm.folder / "sweep", "algo=ff")
    settings = run / ".hydra" / "config.yaml"
    content = settings.read_text()
    settings.write_text(content.replace("  goodness_per: layer\n", ""))  # as before there was this setting
    upgraded = warm(*words)
    assert upgraded.wait() == 0, upgraded.stderr
    assert "finished, skipped" in upgraded.stdout

    settings.write_text(content.replace("weight_decay: 0.0", "weight_decay: 0.5", 1))
    before = contents(run)
    changed = warm(*words)  # as if a YAML had been changed since
    assert changed.wait() == 1
    assert "algo.optimizer.weight_decay is 0.5 there, 0.0 here" in changed.stderr
    assert before.pop(run / "status.json") != (run / "status.json").read_bytes()
    assert before.items() <= contents(run).items()
    settings.write_text(content)
    assert warm(*words).wait() == 0


def test_a_failed_job_of_another_command_is_said_to_be_that_and_other_folders_are_no_jobs(warm):
    (warm.folder / "sweep" / "@eaDir").mkdir(parents=True)  # as some file servers make them everywhere
    words = [*SMALL, "algo=bp", "model.widths=[8]", "trainer.max_epochs=1", "hydra.sweep.dir=sweep"]
    mistyped = warm(*words, "data.batch_size=0,50")
    assert mistyped.wait() == 1
    assert "1 of 2 jobs are not finished" in mistyped.stderr
    corrected = warm(*words, "data.batch_size=25,50")
    assert corrected.wait() == 1
    assert "1 of 3 jobs are not finished; see the table; they are of other commands" in corrected.stderr


# -- what cannot be a sweep

REFUSED = {
    "trainer=ddp trainer.accelerator=cpu": "one by one",
    "trainer.devices=2": "one by one",
    "trainer.devices=[0,1]": "one by one",
    "trainer.strategy=ddp_spawn": "one by one",
    "paths.data_dir=a,b": "one value expected",
    "+sweep=ff_label,ff_peers": "one value expected",
    "hydra.sweep.subdir=${hydra.job.num}": "cannot be set",
    "hydra.sweep.dir=old": "earlier version",
    "hydra.sweep.dir=mine": "multirun.yaml: not of a sweep",
    "hydra.job.chdir=true": "cannot be set",
    "paths.output_dir=x": "cannot be set",
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_sweep_that_cannot_work_is_refused_before_it_begins(words, warm):
    old = warm.folder / "old" / "0_seed=0" / "status.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")
    mine = warm.folder / "mine" / "multirun.yaml"
    mine.parent.mkdir()
    mine.write_text("my: own")
    refused = warm(*SMALL, "seed=0,1", *words.split())
    assert refused.wait() == 2
    assert refused.stderr.count("\n") == 1
    assert REFUSED[words] in refused.stderr
    assert {path for path in warm.folder.glob("**/*") if path.is_file()} == {old, mine}
    assert mine.read_text() == "my: own"


def test_a_job_of_several_processes_is_refused_and_starts_the_sweep_once(warm):
    done = warm(*SMALL, "trainer=cpu", "trainer.devices=1,2", "trainer.max_epochs=1", "hydra.sweep.dir=sweep")
    assert done.wait() == 1
    assert states(warm.folder / "sweep") == ["finished", "failed"]
    assert "trainer.devices=2 in a sweep" in jobs_of(warm.folder / "sweep")[1]["error"]
    assert done.stdout.count("run directory:") == 1


def test_a_sweep_and_a_job_that_are_going_on_are_left_alone(warm):
    words = [*SMALL, "seed=0,1", "trainer.max_epochs=2000", "hydra.sweep.dir=sweep"]
    first = warm(*words)
    wait_for(warm.folder, "sweep/*/checkpoints/last.ckpt")
    for other in (warm(*words), warm(f"resume={job(warm.folder / 'sweep', 'seed=0')}")):
        assert other.wait() == 2
        assert "another process is running there" in other.stderr
        assert other.stderr.count("\n") == 1
    first.kill(signal.SIGTERM)
    assert first.wait() == 143
    assert states(warm.folder / "sweep") == ["interrupted"]
