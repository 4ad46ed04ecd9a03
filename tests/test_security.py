"""A run received from a stranger: it runs no code, reads nothing here, writes nowhere else, takes bounded memory."""

import os
import re
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import settings
from omegaconf import OmegaConf
from test_refusals import LAST, assert_refused, broken_off, other_settings, saved  # noqa: F401, fixtures

import ffbp
from ffbp.errors import CheckpointError, ConfigError
from ffbp.lifecycle.checkpoint import read_checkpoint, write_checkpoint
from ffbp.lifecycle.directory import RunDirectory, previous_of
from ffbp.lifecycle.saved import keep, read_kept, settings_of
from ffbp.lifecycle.trust import require_own_files, require_trust

DATA, OUTPUT = "${oc.env:FFBP_DATA_DIR,data}", "${hydra:runtime.output_dir}"


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test of this file takes over 20 seconds of the processor, or 2 GB of memory beyond what it begins with."""
    begun, before = time.process_time(), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - begun < 20


# -- settings


def as_saved(*overrides: str) -> dict[str, Any]:
    """Settings as a run keeps them."""
    chosen = deepcopy(COMPOSED) if overrides == TINY else settings(*overrides)
    chosen["data"]["data_dir"] = "${paths.data_dir}"
    return chosen | {"paths": {"data_dir": DATA}}


TINY = ("algo=bp", "model=mlp", "model.widths=[8]", "algo.schedule=constant", "trainer.max_epochs=4")
COMPOSED = settings(*TINY)


@pytest.fixture
def stranger(tmp_path: Path, broken_off: Path) -> Callable[..., RunDirectory]:  # noqa: F811
    """A run directory with these settings, a text or values, and with checkpoints."""

    def make(config: str | bytes | dict[str, Any], checkpoints: bool = False) -> RunDirectory:
        directory = RunDirectory(tmp_path / "stranger")
        directory.config.parent.mkdir(parents=True)
        content = OmegaConf.to_yaml(config) if isinstance(config, dict) else config
        directory.config.write_bytes(content.encode() if isinstance(content, str) else content)
        if checkpoints:
            shutil.copytree(broken_off / "checkpoints", directory.last.parent)
        return directory

    return make


ANCHORS = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 8)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_what_a_run_keeps_is_resolved_but_for_its_folders():
    config = OmegaConf.create(as_saved("callbacks=early_stop") | {"debug": True, "resume": None})
    config.logger = {"own": {"save_dir": "${paths.output_dir}/a/b.c", "name": "${algo.name}_${seed}"}}
    config.paths = {"data_dir": DATA, "output_dir": "/here", "log_dir": "logs"}
    config.algo.schedule = "${oc.env:FFBP_DATA_DIR,data}"  # which is kept among the paths alone
    kept = keep(config)
    assert kept["logger"]["own"] == {"save_dir": "${paths.output_dir}/a/b.c", "name": "bp_0"}
    assert kept["algo"]["schedule"] == os.environ.get("FFBP_DATA_DIR", "data")
    assert (kept["paths"], kept["data"]["data_dir"]) == ({"data_dir": DATA}, "${paths.data_dir}")
    assert not {"debug", "resume"} & set(kept)
    with pytest.raises(ConfigError, match=r"algo\.name='\$\{x\}': something to look up"):
        keep(OmegaConf.merge(config, {"algo": {"name": "\\${x}"}}))


def test_what_is_kept_reads_back_the_same(tmp_path):
    odd = {"a": 1e-5, "b": "1e3", "c": "on", "d": [1, [2.5, None]], "e": float("inf"), "f": "x: *y", 3: {"g": "ü\n"}}
    kept = keep(OmegaConf.create(as_saved() | {"odd": odd}))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(kept))
    assert read_kept(tmp_path / "config.yaml") == kept


def test_folders_are_those_of_this_machine_and_a_named_one_is_only_read(stranger, monkeypatch):
    monkeypatch.setenv("FFBP_DATA_DIR", "/here")
    config = as_saved("data=mnist", "logger=default", *TINY)
    config["logger"]["tensorboard"]["save_dir"] = f"{OUTPUT}/events"
    directory = stranger(config)
    found = settings_of(directory, [])
    assert found["data"]["data_dir"] == "/here"
    assert found["data"]["download"]
    assert found["logger"]["tensorboard"]["save_dir"] == f"{directory}/events"
    for place in ("paths", "data"):
        directory.config.write_text(OmegaConf.to_yaml(config | {place: config[place] | {"data_dir": "/theirs"}}))
        found = settings_of(directory, [])
        assert (found["data"]["data_dir"], found["data"]["download"]) == ("/theirs", False)


def test_no_settings_at_all(tmp_path):
    with pytest.raises(CheckpointError, match="contains no run to resume"):
        settings_of(RunDirectory(tmp_path), [])


GOOD = OmegaConf.to_yaml(as_saved(*TINY))
UNREADABLE = {
    "empty": "",
    "binary": b"\x80\x04\x95\x00\xff\xfe",
    "no text": b"\0\1",
    "a list": "- 1\n",
    "another program's": "db: {driver: mysql}\n",
    "a group missing": "algo: {}\nmodel: {}\ndata: {}\n",
    "truncated": "seed: [",
    "anchors": ANCHORS + GOOD,
    "a merge key": GOOD + "x: &x {a: 1}\ny: {<<: *x}\n",
    "a tag": GOOD + "x: !!python/object/apply:os.system [id]\n",
    "a known tag": GOOD + "x: !!binary aGVsbG8=\n",
    "deep": GOOD + "x: " + "[" * 5000 + "]" * 5000,
    "deep blocks": GOOD + "".join(" " * depth + "x:\n" for depth in range(300)),
    "long": GOOD + "x: " + "1:" * 30_000 + "1",
    "large": GOOD + "#" * 70_000,
    "a large number": GOOD + "x: 0x" + "f" * 1000,
    "a key twice": GOOD + "seed: 1\n",
    "a list as key": GOOD + "? [a]\n: 1\n",
    "two documents": GOOD + "---\n" + GOOD,
    "no number": GOOD + "x: 0b_\n",
}
LOOKUPS = {
    **{
        f"activation={value}": GOOD.replace("activation: relu", f"activation: '{value}'")
        for value in (
            "${oc.${y}:SECRET}",
            "${oc.env:SECRET}",
            "${seed}",
            "${..seed}",
            "x${paths.output_dir}",
            "${paths.output_dir}/../x",
            "${paths.output_dir}/./x",
            "${paths.output_dir} ",
            "${oc.env:FFBP_DATA_DIR,data}",
            "\\${x}",
            "${",
        )
    },
    "in a key": GOOD + "'${oc.env:SECRET}': 1\n",
    "in an empty group": GOOD + "x: {'${oc.env:SECRET}': {}}\n",
    "in a list": GOOD + "x: [['${oc.env:SECRET}']]\n",
}


@pytest.mark.parametrize("config", [*UNREADABLE.values(), *LOOKUPS.values()], ids=[*UNREADABLE, *LOOKUPS])
def test_settings_that_are_not_plain_data_are_refused(config, stranger):
    with pytest.raises(CheckpointError, match=r"config\.yaml: .*(refused|cannot be read|not the settings|look up)"):
        settings_of(stranger(config), [])


# -- targets, and where they write


def changed(place: str, value: Any) -> dict[str, Any]:
    """Settings with another value at a place."""
    node = config = deepcopy(COMPOSED)
    *groups, last = place.split(".")
    for group in groups:
        node = node[group]
    node[last] = value
    return config


TENSORBOARD = {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": "run", "name": "", "version": ""}
CSV = {"_target_": "lightning.pytorch.loggers.CSVLogger", "save_dir": "run"}
SAVER = {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "monitor": "val/acc"}
STOPPER = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/acc"}
REFUSED = [
    *[("algo._target_", name) for name in ("os.system", "ffbp.algorithms.base.torch.load", "ffbp.models.mlp", "ffbp")],
    *[("algo._target_", name) for name in ("ffbp.algorithms.Algorithm", "ffbp.algorithms.step.WrittenGradients.apply")],
    *[("algo._target_", name) for name in ("ffbp.__main__.x", "ffbp.algorithms.__builtins__.exec", ["os.system"])],
    *[("model._target_", name) for name in ("ffbp.models.Stack", "ffbp.models.stack.nn.Linear", "torch.nn.Linear")],
    ("model._target_", "ffbp.models.stack.Stack.without_head"),
    *[("data._target_", name) for name in ("ffbp.data.sources._download_file", "ffbp.data.sources.download")],
    *[("data._target_", name) for name in ("ffbp.data.MemoryData", "ffbp.data.datamodule.Path", "ffbp.data.Batches")],
    ("callbacks.x", {"_target_": "ffbp.data.sources._download_file", "mirrors": ["http://x/"]}),
    ("callbacks.x", {"_target_": "ffbp.cli.compose.os.system", "command": "touch was_run"}),
    ("callbacks.x", {"_target_": "ffbp.callbacks.pictures.make_grid"}),
    ("callbacks.x", {"_target_": "lightning.pytorch.callbacks.LambdaCallback"}),
    ("callbacks.x", {"_target_": "lightning.pytorch.callbacks.OnExceptionCheckpoint", "dirpath": "/x"}),
    ("callbacks.x", {"_target_": "lightning.pytorch.Trainer"}),
    ("callbacks._target_", "ffbp.callbacks.FirstLayerPictures"),
    ("logger.x", {"_target_": "lightning.pytorch.loggers.WandbLogger"}),
    ("logger.x", {"_target_": "lightning.pytorch.loggers.tensorboard.os.system"}),
    ("model.inner", {"_target_": "torch.nn.Linear"}),
    ("model.widths", [{"_target_": "os.system"}]),
    ("data.training", {"_target_": "ffbp.data.sources.digits"}),
    ("trainer.logger", {"_target_": "lightning.pytorch.loggers.CSVLogger"}),
    # elsewhere
    *[
        ("logger.x", CSV | {"save_dir": folder})
        for folder in ("/x", "x", "run/../x", "~/x", "", "s3://x", "run::s3://x")
    ],
    *[("logger.x", CSV | {"name": name}) for name in ("../x", "/x", "a/b", "..", "a\\b", "$HOME", "~", "a\nb")],
    ("logger.x", CSV | {"version": "../../x"}),
    ("logger.x", CSV | {"prefix": "../x"}),
    ("logger.x", TENSORBOARD | {"sub_dir": "$SECRET"}),
    ("logger.x", TENSORBOARD | {"filename_suffix": "/../../x"}),
    ("callbacks.x", SAVER | {"dirpath": "/home"}),
    ("callbacks.x", SAVER | {"dirpath": "elsewhere"}),
    ("callbacks.x", SAVER | {"filename": "../../x"}),
    ("callbacks.x", SAVER | {"filename": "{epoch:>999999999999}"}),
    ("callbacks.x", SAVER | {"filename": "{epoch.__class__}"}),
    ("trainer.default_root_dir", "/x"),
    ("trainer.model_registry", "user/model"),
    ("trainer.plugins", ["x"]),
    ("trainer.logger", True),
    ("trainer.callbacks", None),
    ("trainer.profiler", "xla"),
    ("trainer.profiler", {"dirpath": "/x"}),
    ("trainer.enable_checkpointing", True),
]


@pytest.mark.parametrize(("place", "value"), REFUSED, ids=lambda value: re.sub(r"[^\w./$~:]+", " ", str(value))[-70:])
def test_what_a_stranger_may_not_ask_for(place, value):
    with pytest.raises(CheckpointError, match="refused"):
        require_trust(changed(place, value), [], Path("run"))


@pytest.mark.parametrize(
    "overrides",
    [
        *[f"algo={algo}" for algo in ("bp", "ff", "feedback", "random_features")],
        *[f"model={model}" for model in ("mlp", "cnn", "conv", "local")],
        *["data=mnist", "callbacks=early_stop", "callbacks=pictures", "trainer=ddp", "trainer.max_time='00:00:05:00'"],
        "logger=default paths.output_dir=run",
    ],
)
def test_what_our_own_settings_name_is_known(overrides):
    chosen = settings(*overrides.split())
    chosen["logger"] = chosen["logger"] and {"x": TENSORBOARD | {"save_dir": "run"}}
    require_trust(chosen, [], Path("run"))


GRANTED = [
    ("callbacks.x", SAVER | {"dirpath": "run/kept", "filename": "{epoch:02d}-{val/acc:.4f}", "save_top_k": 2}),
    ("callbacks.x", STOPPER | {"mode": "max"}),
    ("logger.x", CSV | {"name": "", "version": "v 1.0"}),
    ("logger.x", TENSORBOARD | {"save_dir": "run/events"}),
    ("trainer.profiler", "simple"),
    ("trainer.devices", [0, 1]),
]
VOUCHED = [
    ("algo._target_", "test_security.Mine", "test_security"),
    ("algo._target_", "test_security.Mine", "test_security.Mine"),
    ("logger.x", CSV | {"save_dir": "/x"}, "lightning.pytorch.loggers.CSVLogger"),
    ("trainer.default_root_dir", "/x", "trainer.default_root_dir"),
]


class Mine(ffbp.algorithms.Backprop):
    """A rule of one's own."""


@pytest.mark.parametrize(("place", "value", "trust"), [*[(*one, None) for one in GRANTED], *VOUCHED], ids=str)
def test_what_is_known_or_vouched_for(place, value, trust):
    require_trust(changed(place, value), [trust] if trust else [], Path("run"))
    if trust:
        with pytest.raises(CheckpointError, match=r"trust=\["):
            require_trust(changed(place, value), [], Path("run"))


def test_a_package_that_is_vouched_for_does_not_vouch_for_what_it_imports():
    with pytest.raises(CheckpointError, match="refused"):
        require_trust(changed("algo._target_", "test_security.shutil.rmtree"), ["test_security"], Path("run"))


@pytest.mark.parametrize("kind", ["link", "link of a folder", "link to itself", "fifo", "link above", "socket"])
def test_a_directory_contains_files_and_nothing_that_leads_out_of_it(kind, tmp_path):
    folder = tmp_path / "run" / "deep"
    folder.mkdir(parents=True)
    (folder / "file").touch()
    (folder / "inside").symlink_to("file")
    require_own_files(tmp_path / "run")
    path = folder / "x"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, 0o140644)
    else:
        path.symlink_to({"link": "/etc/passwd", "link of a folder": "/tmp", "link to itself": "x"}.get(kind, "../.."))
        if kind == "link above":
            path.unlink()
            path.symlink_to("../../..")
    with pytest.raises(CheckpointError, match="deep/x: refused"):
        require_own_files(tmp_path / "run")


# -- on the command line


def forget_previous(saved: Path) -> None:  # noqa: F811
    previous_of(saved / LAST).unlink()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("widths:\n  - 8\n", "widths:\n  - 8\n  - 8\n", r"model\.widths is \[8\] there, \[8, 8\] here"),
        ("activation: relu", "activation: tanh", "model.activation is 'relu' there, 'tanh' here"),
        ("batch_size: 50", "batch_size: 60", "data.batch_size is 50 there, 60 here"),
        ("name: adam", "name: sgd", "algo.optimizer.name is 'adam' there, 'sgd' here"),
    ],
    ids=["depth", "model", "data", "algo"],
)
def test_a_checkpoint_of_another_run(old, new, says, saved, warm):  # noqa: F811
    other_settings(saved, old, new)
    assert_refused(warm, "resume=run", 4, f"last.ckpt: .*{says}")


FLIPPED = [("flipped", lambda b: b[: len(b) // 2] + bytes([b[len(b) // 2] ^ 1]) + b[len(b) // 2 + 1 :])]


@pytest.mark.parametrize(
    "damage",
    [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"a text\n", FLIPPED[0][1]],
    ids=["empty", "truncated", "a text file", "flipped"],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(damage, saved, warm):  # noqa: F811
    last = saved / LAST
    whole = last.read_bytes()
    last.write_bytes(damage(whole))
    done = warm("resume=run")
    assert done.wait() == 0, done.stderr
    assert re.fullmatch(r"run/checkpoints/last.ckpt: .*last.previous.ckpt. Resuming from that one.\n", done.stderr)
    assert last.with_name("last.damaged.ckpt").read_bytes() == damage(whole)
    assert read_checkpoint(last)["epoch"] == 3
    assert read_checkpoint(previous_of(last))["epoch"] == 2


@pytest.mark.parametrize("kind", ["damaged", "foreign", "unsafe", "of a later version"])
def test_a_checkpoint_that_cannot_be_used_and_nothing_before_it(kind, saved, warm):  # noqa: F811
    last = saved / LAST
    forget_previous(saved)
    content = read_checkpoint(last)
    if kind == "damaged":
        last.write_bytes(last.read_bytes()[:-1000])
    elif kind == "foreign":
        torch.save(content, last)
    elif kind == "unsafe":
        write_checkpoint(last, content | {"trap": Path("trap")})
    else:
        write_checkpoint(last, content | {"ffbp": content["ffbp"] | {"format": 99}})
    previous_of(last).unlink(missing_ok=True)
    says = {
        "damaged": "truncated",
        "foreign": "not a checkpoint",
        "unsafe": "refused",
        "of a later version": "format 99",
    }
    assert_refused(warm, "resume=run", 4, f"last.ckpt: .*{says[kind]}")


def test_lost_checkpoints_are_not_taken_for_a_run_that_had_none(saved, warm):  # noqa: F811
    shutil.rmtree(saved / "checkpoints")
    assert_refused(warm, "resume=run", 4, "last.ckpt: cannot be read")


def test_a_stranger_gets_one_line(saved, warm):  # noqa: F811
    config = saved / ".hydra" / "config.yaml"
    original = config.read_text()
    cases = {
        "activation: relu": [("activation: ${oc.${y}:SECRET}\n  y: env", r"model\.activation='\$\{oc.*refused")],
        "_target_: ffbp.callbacks.Costs": [
            ("_target_: ffbp.data.sources._download_file", "_download_file: refused.*trust="),
            ("{_target_: os.system, command: touch was_run}", "os.system: refused.*trust="),
        ],
        "logger: {}": [
            ("logger: {x: {_target_: lightning.pytorch.loggers.CSVLogger, save_dir: /}}", "save_dir='/': refused")
        ],
        "seed: 0": [(ANCHORS, "an anchor"), ("seed: [", "cannot be read as settings"), ("seed: x", "seed=x")],
        "max_epochs: 4": [("max_epochs: many", "its settings cannot be used: trainer.max_epochs=many")],
        "checkpoint:\n  every_n_steps: 0\n  best: accuracy": [("checkpoint: null", "cannot be used: checkpoint=None")],
    }
    for old, changes in cases.items():
        for new, says in changes:
            other_settings(saved, old, new)
            assert_refused(warm, "resume=run", 4, says, SECRET="hush")
            config.write_text(original)
    (saved / ".hydra" / "overrides.yaml").write_text(ANCHORS)
    assert_refused(warm, "resume=run", 4, "overrides.yaml: .*anchor")
    config.write_text("db:\n  driver: mysql\n")
    assert_refused(warm, "resume=run", 4, "not the settings of a run of this program")
