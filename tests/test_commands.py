"""The commands as a user types them: what they leave, what they refuse and how."""

import csv
import json
import re

import pytest
import yaml
from conftest import settings
from PIL import Image

import ffbp
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
    assert "http" not in re.sub(r"<svg.*?>|<(rdf|cc|dc).*?>", "", page, flags=re.DOTALL)


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
    assert seen.stdout.split() == ["mine.png", str(ffbp.load(one).predict(test.images[:1]).item())]


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


@pytest.mark.parametrize("script", ["compare.py", "evaluate.py"])
def test_the_other_scripts_refuse_in_one_line(script, warm):
    key = "runs" if script == "compare.py" else "run"
    for words, code in (((f"{key}=nowhere",), 4), (("rnu=x",), 2)):
        refused = warm(*words, script=script)
        assert refused.wait() == code
        assert refused.stderr.count("\n") == 1
