"""The commands as a user types them: what they leave, what they refuse and how."""

import csv
import json
import re
import shutil

import pytest
import yaml
from conftest import ROOT, settings
from PIL import Image

import ffbp
from ffbp.cli.help import show_help
from ffbp.cli.refusals import exit_code_of
from ffbp.data.sources import digits
from ffbp.files import CONF
from ffbp.lifecycle import train as run

SHORT = ("data=digits", "trainer.max_epochs=1", "logger=none")


METRICS = """algo model data seed epochs parameters test/acc test/loss val/acc val/loss
test/acc_goodness test/acc_softmax
time/train_seconds time/total_seconds memory/peak_mib torch lightning device threads git"""
TAGS = """train/loss train/acc val/loss val/acc time/epoch_seconds ff/layer_0/loss ff/layer_0/goodness_pos
ff/layer_0/goodness_neg ff/layer_0/separation"""


def files_of(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


GROUPS = ("algo", "model", "data", "trainer", "callbacks", "logger", "experiment")
CHOICES = [f"{group}={name}" for group in GROUPS for name in files_of(group)]


@pytest.mark.parametrize("choice", CHOICES)
def test_every_yaml_composes(choice):
    composed = settings(choice)
    assert composed["algo"]["_target_"].startswith("ffbp.")


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_yaml_is_headed_by_a_comment(path):
    assert path.read_text().startswith("#") or not yaml.safe_load(path.read_text())


def test_the_last_epoch_is_validated_whatever_the_interval(tmp_path):
    run.train(settings(*SHORT, "algo=bp", "trainer.max_epochs=3", "trainer.check_val_every_n_epoch=2"), tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        assert [bool(row["val/acc"]) for row in csv.DictReader(file)] == [False, True, True]


def test_six_runs_of_a_sweep_and_their_comparison(warm):
    tmp_path = warm.folder
    swept = warm("-m", "algo=bp,ff", "model=mlp", "seed=0,1,2", "data=digits", "trainer.max_epochs=2")
    assert swept.wait() == 0, swept.stderr
    assert len(list((tmp_path / "logs").glob("**/metrics.json"))) == 6
    assert len({path.parent for path in (tmp_path / "logs").glob("**/events.out.tfevents.*")}) == 6
    compared = warm("runs=logs", script="compare.py")
    assert compared.wait() == 0, compared.stderr
    assert "backprop, mlp" in compared.stdout
    assert "Forward-Forward, mlp" in compared.stdout
    page = (tmp_path / "logs" / "compare" / "index.html").read_text()
    assert page.count("<svg") == 2
    assert "src=" not in page  # it needs nothing beside itself
    assert "http" not in page.replace("<meta http-equiv=", "")


def test_a_run_leaves_what_scripts_rely_on(warm):
    tmp_path = warm.folder
    done = warm("algo=ff", *SHORT[:2], "hydra.run.dir=logs/one")
    assert done.wait() == 0, done.stderr
    one = tmp_path / "logs" / "one"
    for name in (".hydra/config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.csv", "status.json"):
        assert (one / name).exists()
    assert list(one.glob("events.out.tfevents.*"))
    metrics = json.loads((one / "metrics.json").read_text())
    assert set(METRICS.split()) <= metrics.keys()
    header = (one / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(TAGS.split()) <= set(header)

    taken = warm("algo=ff", *SHORT, "hydra.run.dir=logs/one")
    assert taken.wait() == 2
    assert "resume=logs/one" in taken.stderr

    evaluated = warm("run=logs/one", script="evaluate.py")
    assert evaluated.wait() == 0, evaluated.stderr
    again = json.loads(evaluated.stdout)
    assert again["test/acc"] == pytest.approx(metrics["test/acc"], abs=1e-7)
    assert again["test/acc_goodness"] == pytest.approx(metrics["test/acc_goodness"], abs=1e-7)

    _, test = digits()
    Image.fromarray(test.images[0, 0].numpy()).save(tmp_path / "mine.png")
    seen = warm("run=logs/one", "images=[mine.png]", script="evaluate.py")
    assert seen.wait() == 0, seen.stderr
    assert seen.stdout.split("\t")[:2] == ["mine.png", str(ffbp.load(one).predict(test.images[:1]).item())]


def test_without_validation_the_last_checkpoint_is_tested(warm):
    tmp_path = warm.folder
    done = warm("algo=ff", *SHORT, "data.val_size=0", "hydra.run.dir=run")
    assert done.wait() == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["val/acc"] is None
    assert metrics["val/loss"] is None
    assert metrics["test/acc"] > 0.5


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [("trainr.max_epochs=1", 2, "Did you mean trainer.max_epochs"), ("resume=no", 4, "no run")],
)
def test_a_command_from_cold_is_refused_in_one_line_and_leaves_nothing(words, code, says, command, tmp_path):
    refused = command(*SHORT, words)
    assert (refused.returncode, refused.stderr.count("\n"), refused.stdout) == (code, 1, "")
    assert says in refused.stderr
    assert not list(tmp_path.iterdir())


NAMES = ["007", "1e3", "true", "[x]", "a b", "a=b", "it's", "ü,é", "{a: 1}", "${a}", "-", "resume=x"]


def test_a_run_may_have_any_name(warm):
    done = warm("algo=bp", "model=mlp", *SHORT, "hydra.run.dir=run")
    assert done.wait() == 0, done.stderr
    for name in NAMES:
        shutil.copytree(warm.folder / "run", warm.folder / name)
        known = warm(f"resume={name}")
        assert known.wait() == 0, known.stderr
        assert known.stdout.startswith(f"{name}: finished")
    quoted = warm("resume='a b'")
    assert quoted.wait() == 0, quoted.stderr
    assert quoted.stdout.startswith("a b: finished")
    compared = warm("runs=[x]", script="compare.py")
    assert compared.wait() == 0, compared.stderr
    assert "[x]/compare/index.html" in compared.stdout
    picture = warm.folder / "007" / "[x]"
    Image.new("L", (28, 28)).save(picture, "PNG")  # blank
    for images in ("images=007/[x]", "images=['007/[x]']", 'images="007/[x]"'):
        seen = warm("run=[x]", images, script="evaluate.py")
        assert seen.wait() == 0, seen.stderr
        assert seen.stdout.startswith("007/[x]\t")


@pytest.mark.parametrize(
    ("script", "words", "says"),
    [
        ("train.py", ["--help"], "algo= +bp, .*experiment= .*Exit codes: "),
        ("train.py", ["resume=run", "--help"], "algo= +bp,"),
        ("train.py", ["--hydra-help"], "--multirun"),
        ("evaluate.py", ["--help"], "invert=  .*auto, true, false"),
        ("demo.py", ["--help"], "runs=  .*one, or"),
        ("compare.py", ["-h", "runs=x"], "runs=  .*else logs"),
    ],
)
def test_help_is_shown_and_nothing_done(script, words, says, warm):
    shown = warm(*words, script=script)
    assert (shown.wait(), shown.stderr) == (0, "")
    assert re.search(says, shown.stdout, re.DOTALL)
    assert not list(warm.folder.iterdir())


def test_every_choice_and_key_of_the_help_exists(capsys):
    show_help()
    page = capsys.readouterr().out
    for group in GROUPS[:-1]:
        assert f"  {group}=" in page
        assert all(re.search(rf"[ ,]{name}[,\n]", page) for name in files_of(group))
    keys = page.partition("Keys")[2].partition("Exit codes")[0]
    examples = re.findall(r"^  '?([\w.]+=[^\s']+)", keys, re.MULTILINE)
    assert len(examples) > 10
    settings("model=mlp", *(word for word in examples if not word.startswith(("hydra", "trust"))))


@pytest.mark.parametrize("typed", ["python train.py algo=f", "ffbp train algo=f"])
def test_a_shell_completes_settings(typed, warm):
    asked = warm("-sc", "query=bash", COMP_LINE=typed, COMP_POINT=str(len(typed)))
    assert (asked.wait(), asked.stderr) == (0, "")
    assert asked.stdout.split() == ["algo=feedback", "algo=ff", "algo=forward_gradient"]
    assert "@hydra.main" in (ROOT / "train.py").read_text()  # without which Hydra's code for bash does nothing


RUN = "runpy.run_path(sys.argv[0], None, '__main__')"


def standard_output(fate: str, script: str) -> str:
    """A script that has lost its standard output in some way before another begins."""
    loss = {
        "closed": "os.close(1); sys.stdout = sys.__stdout__ = None",
        "unread": "r, w = os.pipe(); os.dup2(w, 1); os.close(r); os.close(w)",
        "full": "os.dup2(os.open('/dev/full', os.O_WRONLY), 1)",
    }
    path = ROOT / script
    return f"import os, runpy, sys\n{loss[fate]}\nsys.argv[0] = {str(path)!r}\n{RUN}"


@pytest.mark.parametrize(("fate", "code"), [("closed", 0), ("unread", 0), ("full", 6)])
def test_output_that_nobody_gets_breaks_nothing(fate, code, warm):
    commands = {"train.py": ["algo=bp", "model=mlp", *SHORT, "hydra.run.dir=run"], "evaluate.py": ["run=run"]}
    for script, words in (commands | {"compare.py": ["runs=run"]}).items():
        lost = warm.folder.with_name(f"{fate}_{script}")
        lost.write_text(standard_output(fate, script))
        done = warm(*words, script=str(lost))
        assert done.wait() == code, done.stderr
        assert re.fullmatch("error: standard output: cannot be written.*\n" if code else "", done.stderr)
    assert json.loads((warm.folder / "run" / "status.json").read_text())["state"] == "finished"
    assert (warm.folder / "run" / "metrics.json").exists()
    assert (warm.folder / "run" / "compare" / "index.html").exists()


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError(), 6, "out of memory"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 6, "out of memory"),
        (ModuleNotFoundError("No module named 'rich'"), 6, "'rich'.*install"),
        (RecursionError(), 2, "nested too deeply"),
        (PermissionError(13, "Permission denied", "x.csv"), 6, "x.csv: Permission denied"),
        (KeyboardInterrupt(), 130, "SIGINT"),
        (SystemExit(143), 143, "SIGTERM"),
        (SystemExit("enough"), 1, "enough"),
        (KeyError("algo"), 1, "unexpected KeyError: 'algo'; debug=true shows where"),
        (ZeroDivisionError("two\nlines\x1b[31m"), 1, r"two lines\\x1b\[31m"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_any_exception_is_one_line_and_a_code(error, code, says, capsys):
    def fail() -> None:
        raise error

    assert exit_code_of(fail, debug=False) == code
    assert re.fullmatch(f"error: .*{says}.*\n", capsys.readouterr().err)
    assert exit_code_of(fail, debug=True) == code
    assert "Traceback" in capsys.readouterr().err


def test_a_package_that_cannot_be_imported_is_named(warm):
    broken = warm.folder.with_name("without_hydra.py")
    forget = "for name in ('cli.compose', 'lifecycle.start'): sys.modules.pop(f'ffbp.{name}', None)"
    broken.write_text(
        f"import runpy, sys\nsys.modules['hydra'] = None\n{forget}\nsys.argv[0] = {str(ROOT / 'train.py')!r}\n{RUN}"
    )
    refused = warm("algo=bp", script=str(broken))
    assert refused.wait() == 6
    assert re.fullmatch("error: .*cannot be imported .*hydra.*\n", refused.stderr)


def test_a_clusters_tasks_are_not_this_runs_processes(warm):
    cluster = {"SLURM_NTASKS": "2", "SLURM_JOB_NAME": "x", "SLURM_JOB_ID": "3", "SLURM_PROCID": "1"}
    done = warm("algo=bp", "model=mlp", *SHORT, "trainer.fast_dev_run=true", "hydra.run.dir=run", **cluster)
    assert done.wait() == 0, done.stderr
    assert not (warm.folder / "run" / "metrics.json").exists()  # of a rehearsal


@pytest.mark.parametrize("script", ["compare.py", "evaluate.py"])
def test_the_other_scripts_refuse_in_one_line(script, warm):
    key = "runs" if script == "compare.py" else "run"
    for words, code in (((f"{key}=nowhere",), 4), (("rnu=x",), 2)):
        refused = warm(*words, script=script)
        assert refused.wait() == code
        assert refused.stderr.count("\n") == 1
