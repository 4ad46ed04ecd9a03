"""The pages below docs/: their commands run, and runs write the metrics that they list."""

import csv
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, settings
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from pages import PAGES, TEXTS, rows
from PIL import Image

from ffbp.cli.commands import COMMANDS, CompareOptions, DemoOptions, ResumeOptions
from ffbp.cli.evaluate import EvaluateOptions
from ffbp.cli.words import read_options, with_added_key
from ffbp.files import CONF
from ffbp.lifecycle import train as run
from ffbp.settings import check_settings


def commands(page: str) -> list[list[str]]:
    """The words of each command of a page, in the order of their lines; those without placeholders."""
    text = PAGES[page].replace("\\\n", " ")
    blocks = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    inline = re.findall(r"`((?:python|ffbp|make|torchrun|tensorboard|pip) [^`\n]+)`", TEXTS[page])
    lines = [line for line in [*blocks, *inline] if line.strip() and not re.search(r"<\w|\.\.\.", line)]
    return [shlex.split(line) for line in lines]


def of_train(words: list[str]) -> list[str] | None:
    """What follows the program in a command that trains, or None."""
    for start in (["python", "train.py"], ["ffbp", "train"], ["torchrun", "--nproc_per_node=2", "train.py"]):
        if words[: len(start)] == start:
            return words[len(start) :]
    return None


IN_TURN = ["start.md", "reliability.md"]
"""Pages whose commands are run in the order of their lines; of the other pages, one of each kind is."""
TRAININGS = sorted({tuple(of_train(words) or ()) for page in PAGES for words in commands(page)} - {()})
RUN = {tuple(of_train(words) or ()) for page in IN_TURN for words in commands(page)}
NEW = [words for words in TRAININGS if words not in RUN and not any(word.startswith("resume=") for word in words)]
OPTIONS = {"evaluate": EvaluateOptions, "compare": CompareOptions, "demo": DemoOptions}


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_there_is(page):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words in commands(page):
        program, *rest = words
        script = Path(rest[0]).stem if program == "python" else rest[0]
        if (program == "ffbp" or rest[0].endswith(".py")) and script in OPTIONS and rest[1:]:
            read_options(OPTIONS[script], [word.replace("data.path=", "data_path=") for word in rest[1:]])
        elif program == "make":
            assert rest[0] in targets
        elif program == "pip":
            assert set(re.findall(r"\w+", "".join(re.findall(r"\[(.*)\]", rest[-1])))) <= set(extras)
        elif program == "python" and rest[0] != "-m":
            assert (ROOT / rest[0]).is_file(), words
        elif program == "ffbp":
            assert script in COMMANDS, words
        else:
            assert program in ("source", "export", "tensorboard", "torchrun", "python"), words


def test_what_stands_beside_resume_may_stand_there():
    for words in [words for words in TRAININGS if any(word.startswith("resume=") for word in words)]:
        own = [word for word in words if not word.startswith(("trainer.max_epochs=", "data.path=", "paths.data_dir="))]
        read_options(ResumeOptions, own)


@pytest.fixture(scope="module")
def composed(tmp_path_factory) -> dict[tuple[str, ...], dict]:
    """The settings of each command that starts a run; of a sweep, those of its last job."""
    folder = tmp_path_factory.mktemp("conf")
    files = re.findall(r"`conf/(experiment/\w+\.yaml)`.*?```yaml\n(.*?)```", PAGES["configuration.md"], re.DOTALL)
    for name, text in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    found = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for words in (words for words in NEW if "algo=smoothed" not in words):  # which tests/test_package.py runs
            typed = [with_added_key(word) for word in words if not word.startswith("-") and word != "job"]
            typed += [f"hydra.searchpath=[file://{folder}]"] if "--config-dir=conf" in words else []
            if "-m" in words:
                typed = last_job(typed)
            config = compose("train", typed)
            OmegaConf.update(config, "paths.output_dir", "unused")
            found[words] = OmegaConf.to_container(config, resolve=True)
    return found


def last_job(words: list[str]) -> list[str]:
    """The words of a sweep's last job, those of its YAML included."""
    for word in (word for word in words if word.startswith("+sweep=")):
        swept = yaml.safe_load((CONF / "sweep" / f"{word.partition('=')[2]}.yaml").read_text())["hydra"]["sweeper"]
        words = [*words, *(f"{name}={value}" for name, value in swept["params"].items())]
    words = [
        re.sub(r"=(tag\(log,)?interval\(([^,]+),.*\)", r"=\2", word) for word in words
    ]  # which a search begins with
    parsed = OverridesParser.create().parse_overrides(words)
    return list(BasicSweeper.split_arguments(parsed, None)[0][-1])


def test_every_training_composes_and_its_settings_are_in_range(composed):
    assert len(composed) > 30
    for chosen in composed.values():
        check_settings(chosen)
    assert composed["experiment=paper_ff", "trainer.max_epochs=5"]["trainer"]["max_epochs"] == 5  # the line wins
    assert composed["experiment=paper_ff", "data=fashion_mnist"]["model"]["input_dropout"] == 0.3  # over the default


SMALL = {"limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1, "max_epochs": 1, "strategy": "auto"}
SMALL |= {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1}
DIGITS = yaml.safe_load((CONF / "data" / "digits.yaml").read_text())


def kind(settings: dict) -> str:
    """What tells a training from others, for the parts that it is built of: names and not numbers."""
    parts = {name: settings[name] for name in ("algo", "model", "callbacks", "logger")}
    return re.sub(r"\d[\d.e-]*", "0", json.dumps([parts, settings["trainer"]["precision"]]))


def test_every_kind_of_training_that_a_page_shows_runs(composed, tmp_path):
    """On few digits, and without TensorBoard, whose pictures would take most of the time."""
    kinds = {kind(chosen): chosen for chosen in composed.values()}
    assert len(kinds) > 20
    for number, chosen in enumerate(kinds.values()):
        small = {
            "data": DIGITS | {"data_dir": "unused"},
            "trainer": chosen["trainer"] | SMALL,
            "logger": {},
            "threads": 1,
        }
        metrics = run.train(chosen | small, tmp_path / str(number), bar=False)
        assert 0 <= metrics["test/acc"] <= 1


FEW = ["trainer.max_epochs=1", "trainer.limit_train_batches=4", "logger=none", "threads=1"]


@pytest.mark.parametrize("page", IN_TURN)
def test_the_commands_of_a_page_work_one_after_the_other(page, warm):
    Image.new("L", (28, 28), 0).save(warm.folder / "seven.png")
    said = ""
    for words in [words for words in commands(page) if words[0] == "python"]:
        script, typed = words[1], words[2:]
        if script == "train.py" and not {"--help"} & set(typed) and not typed[0].startswith("resume="):
            given = {word.partition("=")[0] for word in FEW}
            typed = [*(word for word in typed if word.partition("=")[0] not in given), *FEW]
            typed = [word.replace("seed=0,1,2", "seed=0") if page == "start.md" else word for word in typed]
        done = warm(*typed, script=script)
        assert done.wait() == 0, (words, done.stderr)
        said += done.stdout
    if page == "start.md":
        assert "the most accurate" in said
        assert (warm.folder / "logs" / "compare" / "index.html").exists()
        assert (warm.folder / "demo.html").exists()
    else:
        assert said.count("finished, skipped") == 4
        jobs = json.loads((warm.folder / "logs" / "sweeps" / "mine" / "sweep.json").read_text())
        assert [job["state"] for job in jobs] == ["finished"] * 3


# -- what a run writes

MEASURED = [
    ["algo=bp", "model=mlp", "callbacks=[gradients,alignment,curvature]", "callbacks.gradients.every_n_steps=1"],
    *(["model=mlp", f"algo={name}"] for name in ("ff", "local_loss", "class_groups", "softhebb", "predictive_coding")),
    ["algo=lm", "model=mlp", "algo.loss=squared_error", "model.widths=[4]"],
]


def test_results_lists_every_metric_that_runs_write_and_no_other(tmp_path):
    columns, keys = set(), set()
    for number, words in enumerate(MEASURED):
        chosen = settings(*words, *(f"trainer.{name}={value}" for name, value in SMALL.items()))
        keys |= set(run.train(chosen, tmp_path / str(number), bar=False))
        columns |= set(next(csv.reader((tmp_path / str(number) / "metrics.csv").open())))
    for head, found in (("column", columns), ("key", keys)):
        listed = {name for row in rows("results.md", head) for name in re.findall(r"`([\w/]+)`", row[0])}
        if head == "key":  # read-outs are given by example
            listed, found = ({n for n in names if not re.match(r"(test|val)/acc_", n)} for names in (listed, found))
        assert listed == found
