"""The commands as a user types them: what they leave, what they refuse and how."""

import csv
import json
import re

import pytest
import torch
import yaml
from conftest import settings
from PIL import Image

import ffbp
from ffbp import run
from ffbp.command_line import CONF
from ffbp.data.sources import digits
from ffbp.errors import Refusal, ResourceError

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


def test_six_runs_of_a_sweep_and_their_comparison(command, tmp_path):
    swept = command("-m", "algo=bp,ff", "model=mlp", "seed=0,1,2", "data=digits", "trainer.max_epochs=2")
    assert swept.returncode == 0, swept.stderr
    assert len(list((tmp_path / "logs").glob("**/metrics.json"))) == 6
    assert len({path.parent for path in (tmp_path / "logs").glob("**/events.out.tfevents.*")}) == 6
    compared = command("runs=logs", script="compare.py")
    assert compared.returncode == 0, compared.stderr
    assert "backprop, mlp" in compared.stdout
    assert "Forward-Forward, mlp" in compared.stdout
    page = (tmp_path / "logs" / "compare" / "index.html").read_text()
    assert page.count("<svg") == 2
    assert "src=" not in page  # it needs nothing beside itself
    assert "http" not in re.sub(r"<svg.*?>|<(rdf|cc|dc).*?>", "", page, flags=re.DOTALL)


def test_a_run_leaves_what_scripts_rely_on(command, tmp_path):
    done = command("algo=ff", *SHORT[:2], "hydra.run.dir=logs/one")
    assert done.returncode == 0, done.stderr
    one = tmp_path / "logs" / "one"
    for name in (".hydra/config.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.csv", "status.json"):
        assert (one / name).exists()
    assert list(one.glob("events.out.tfevents.*"))
    metrics = json.loads((one / "metrics.json").read_text())
    assert set(METRICS.split()) <= metrics.keys()
    header = (one / "metrics.csv").read_text().splitlines()[0].split(",")
    assert set(TAGS.split()) <= set(header)

    taken = command("algo=ff", *SHORT, "hydra.run.dir=logs/one")
    assert taken.returncode == 2
    assert "resume=logs/one" in taken.stderr

    evaluated = command("run=logs/one", script="evaluate.py")
    assert evaluated.returncode == 0, evaluated.stderr
    again = json.loads(evaluated.stdout)
    assert again["test/acc"] == pytest.approx(metrics["test/acc"], abs=1e-7)
    assert again["test/acc_goodness"] == pytest.approx(metrics["test/acc_goodness"], abs=1e-7)

    _, test = digits()
    Image.fromarray(test.images[0, 0].numpy()).save(tmp_path / "mine.png")
    seen = command("run=logs/one", "images=[mine.png]", script="evaluate.py")
    assert seen.stdout.split() == ["mine.png", str(ffbp.load(one).predict(test.images[:1]).item())]


def test_without_validation_the_last_checkpoint_is_tested(command, tmp_path):
    done = command("algo=ff", *SHORT, "data.val_size=0", "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["val/acc"] is None
    assert metrics["val/loss"] is None
    assert metrics["test/acc"] > 0.5


REFUSED_BY_THE_COMMAND = [
    ("trainr.max_epochs=1", 2, "did you mean trainer.max_epochs"),
    ("algo=nope", 2, "bp, ff"),
    ("experiment=nope", 2, "paper_ff"),
    ("seed=1,2", 2, "-m"),
    ("a=b=c", 2, "key=value"),
    ("algo.optimizer.lr=abc", 2, "a number"),
    ("trainer.devices=99", 6, "cores"),
    ("data=mnist data.download=false paths.data_dir=nowhere", 3, "data=digits"),
    ("resume=nowhere", 4, "no run there"),
]


@pytest.mark.parametrize(
    ("words", "code", "says"), REFUSED_BY_THE_COMMAND, ids=[row[0] for row in REFUSED_BY_THE_COMMAND]
)
def test_bad_input_gets_one_line_and_its_exit_code_and_leaves_nothing(words, code, says, command, tmp_path):
    refused = command(*SHORT, *words.split())
    assert refused.returncode == code, refused.stderr
    assert refused.stderr.count("\n") == 1
    assert refused.stdout == ""
    assert says.lower() in refused.stderr.lower()
    assert not [path for path in tmp_path.glob("**/*") if path.is_file()]


REFUSED_SETTINGS = [
    ("algo.optimizer.lr=nan", 2, "finite"),
    ("algo.optimizer.lr=inf", 2, "finite"),
    ("algo.optimizer.lr=0", 2, "above 0"),
    ("algo.optimizer.lr=-1", 2, "above 0"),
    ("algo.optimizer.name=rmsprop", 2, "'adamw'"),
    ("seed=", 2, "seed="),
    ("seed=abc", 2, "a whole number"),
    ("seed=-1", 2, "0 or more"),
    ("seed=1099511627776", 2, "less than"),
    ("data.batch_size=0", 2, "1 or more"),
    ("data.batch_size=1.5", 2, "a whole number"),
    ("data.batch_size=99999", 2, "1 to 1237"),
    ("trainer.max_epochs=0", 2, "1 or more"),
    ("trainer.max_epochs=-5", 2, "1 or more"),
    ("trainer.max_epochs=1.5", 2, "a whole number"),
    ("trainer.max_epochs=-1", 2, "an end"),
    ("trainer.max_steps=0", 2, "1 or more"),
    ("trainer.limit_train_batches=2.5", 2, "limit_train_batches=2.5"),
    ("trainer.limit_train_batches=0", 2, "limit_train_batches=0"),
    ("trainer.devices=0", 6, "1 to"),
    ("trainer.precision=foo", 2, "'bf16-mixed'"),
    ("trainer.precision=16-mixed", 2, "bf16-mixed"),
    ("+data.num_workers=2", 2, "num_workers"),
    ("model=mlp model.widths=[]", 2, "widths"),
    ("algo=ff algo.threshold=nan", 2, "finite"),
    ("algo=ff algo.threshold=0", 2, "above 0"),
    ("algo=ff algo.negatives=permuted", 2, "'uniform', 'hard', 'all', 'hybrid' or 'noise'"),
    ("algo=ff algo.optimizer.lr=[1,2]", 2, "one for each layer"),
    ("algo=bp algo.optimizer.lr=[1,2]", 2, "one number"),
    ("algo=ff trainer.gradient_clip_val=1", 2, "gradient clipping"),
    ("algo=ff algo.order=sequential model.widths=[8,8]", 2, "2 or more"),
    ("checkpoint.every_n_steps=-1", 2, "0 or more"),
]


@pytest.mark.parametrize(("words", "code", "says"), REFUSED_SETTINGS, ids=[row[0] for row in REFUSED_SETTINGS])
def test_a_setting_out_of_range_is_refused_by_name(words, code, says, tmp_path):
    with pytest.raises(Refusal) as refused:
        run.train(settings("trainer.max_epochs=1", *words.split()), tmp_path, bar=False)
    assert refused.value.exit_code == code
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_said_to_be_missing(tmp_path):
    with pytest.raises(ResourceError, match="trainer=cpu"):
        run.train(settings("trainer=gpu"), tmp_path, bar=False)


def test_one_bad_job_does_not_stop_a_sweep(command, tmp_path):
    swept = command("-m", *SHORT, "model=mlp", "algo=bp", "algo.optimizer.lr=1e-3,-1,1e-2", "hydra.sweep.dir=sweep")
    assert swept.returncode == 1
    jobs = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [job["state"] for job in jobs] == ["finished", "failed", "finished"]
    assert "lr=-1" in jobs[1]["error"]


@pytest.mark.parametrize("script", ["compare.py", "evaluate.py"])
def test_the_other_scripts_refuse_in_one_line(script, command):
    key = "runs" if script == "compare.py" else "run"
    for words, code in (((f"{key}=nowhere",), 4), (("rnu=x",), 2)):
        refused = command(*words, script=script)
        assert refused.returncode == code
        assert refused.stderr.count("\n") == 1
