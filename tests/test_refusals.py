"""Bad input: one line that says what to do, an exit code, no traceback, and nothing written."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import MNIST, needs_mnist, settings

from ffbp.lifecycle import train as run

FF, BP = "algo=ff data=digits", "algo=bp model=mlp data=digits"
LAST = Path("checkpoints", "last.ckpt")
SHORT = "trainer: {max_epochs: 1, limit_train_batches: 1}"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


def assert_refused(warm, words: str, code: int, says: str, **environment: str) -> None:
    """The command ends with this code and one line, and leaves every file as it was."""
    before = files(warm.folder)
    refused = warm(*words.split(), **environment)
    assert refused.wait() == code, refused.stdout + refused.stderr
    lines = refused.stderr.splitlines()
    assert len(lines) == 1, refused.stderr
    assert lines[0].startswith("error: ")
    assert re.search(says, lines[0], re.IGNORECASE), lines[0]
    assert files(warm.folder) == before


CSV_LOGGER = "{_target_:lightning.pytorch.loggers.CSVLogger,save_dir:'${paths.output_dir}',name:'',version:''}"
LAST_TOO = "{_target_:lightning.pytorch.callbacks.ModelCheckpoint,save_last:true}"
SETTINGS = [
    # unknown keys and choices
    ("trainr.max_epochs=1", 2, "trainer.max_epochs"),
    (f"{FF} algo.treshold=1", 2, "algo.threshold"),
    (f"{BP} model.widths=[1000000000000000000000000]", 2, "more than 64 bits"),
    ("algo=nope", 2, "bp, bp_explicit, class_groups, feedback, ff"),
    ("model=nope", 2, "cnn, conv, local, mlp"),
    ("data=minst", 2, "did you mean mnist"),
    ("experiment=paper_f", 2, "paper_ff"),
    ("trainer=tpu", 2, "cpu, ddp, default, gpu"),
    ("optimizer=adam", 2, "optimizer"),
    # what a shell word may look like
    ("seed=1,2", 2, "-m"),
    ("seed=", 2, "seed"),
    ("a=b=c", 2, "key=value"),
    ("seed", 2, "seed"),
    ("paths.log_dir=", 2, "a place expected"),
    ("logger=null", 2, "logger=null: .*logger=none"),
    ("lr=1", 2, "mean algo.optimizer.lr"),
    (f"{BP} +lr=1", 2, "^error: lr: no such setting. Did you mean algo.optimizer.lr"),
    (f"{BP} +data_dir=/x", 2, "data_dir: no such setting. Did you mean data.data_dir"),
    (f"{BP} +output_dir=mine", 2, "output_dir: no such setting"),
    (f"{BP} +paths.cache=mine", 2, "paths.cache: no such setting"),
    (f"{BP} +optimizer.lr=1", 2, "optimizer: no such setting. Did you mean algo.optimizer"),
    # what belongs to a sweep, and what would put a run into two places
    ("sweep=seeds", 2, r"write \+sweep=seeds, and -m"),
    ("+sweep=ff_label", 2, "add -m"),
    (f"{BP} paths.output_dir=mine", 2, "hydra.run.dir="),
    ("model.widths=[8", 2, "widths=.*key=value"),
    (f"{BP} algo.optimizer.lr=", 2, "algo.optimizer.lr="),
    # numbers
    (f"{BP} ~data.batch_size", 2, "data.batch_size: missing"),
    (f"{BP} trainer.max_epochs=1 trainer.min_epochs=2", 2, "min_epochs=2: at most trainer.max_epochs=1"),
    (f"{BP} algo.optimizer=null", 2, "needs an optimizer"),
    ("algo=ff algo.negatives=hybrid data=digits data.batch_size=1", 2, "two images"),
    (f"{FF} algo.negatives=blend data.batch_size=3 trainer.accelerator=cpu trainer.devices=2", 2, "take 4 or more"),
    ("algo=local_loss data=digits data.batch_size=1", 2, "compares the images"),
    ("algo=forward_gradient data=digits model.batch_norm=true", 2, "not with batch norm"),
    *[(f"{BP} algo.optimizer.lr={value}", 2, "lr=.* number") for value in ("abc", "nan", "inf", "0", "-1", "on")],
    (f"{FF} algo.head.lr=-1", 2, "head.lr=-1: a number above 0"),
    (f"{BP} algo.optimizer.momentum=1", 2, "less than 1"),
    (f"{BP} algo.optimizer.weight_decay=-1", 2, "0 or more"),
    (f"{FF} algo.head.dropout=1", 2, "algo.head.dropout=1"),
    (f"{BP} data.batch_size=0", 2, "1 or more"),
    (f"{BP} data.batch_size=-1", 2, "1 or more"),
    (f"{BP} data.batch_size=1.5", 2, "a whole number"),
    (f"{BP} data.batch_size=5000", 2, "1 to 1237"),
    (f"{BP} data.val_size=1437", 2, "val_size"),
    (f"{BP} data.shift=28", 2, "less than"),
    (f"{BP} +data.num_workers=4", 2, "num_workers"),
    *[(f"trainer.max_epochs={value}", 2, "max_epochs=.*expected") for value in ("0", "-5", "1.5", "ten", "null")],
    ("trainer.max_epochs=-1", 2, "an end"),
    ("trainer.max_steps=0", 2, "1 or more"),
    ("trainer.limit_train_batches=2.5", 2, "limit_train_batches=2.5"),
    ("trainer.precision=foo", 2, "bf16-mixed"),
    (f"{BP} trainer.accelerator=cpu trainer.precision=16-mixed", 2, "bf16-mixed"),
    ("trainer.accelerator=tpu", 2, "'cpu'"),
    *[(f"seed={value}", 2, "seed=.*expected") for value in ("-1", "1099511627776", "abc", "1.5")],
    ("checkpoint.every_n_steps=-1", 2, "0 or more"),
    ("compile=perhaps", 2, "compile=perhaps"),
    (f"{BP} algo.optimizer.name=lion", 2, "'adamw'"),
    ("trainer.limit_train_batches=0", 2, "limit_train_batches=0"),
    (f"{BP} trainer.limit_val_batches=0.5", 2, "less than one of 1"),
    (f"{BP} +trainer.val_check_interval=0.5", 2, "an epoch is validated at its end"),
    (f"{BP} +trainer.model_registry=mine", 2, "nothing is uploaded"),
    (f"{BP} algo.optimizer.lr=[1,2,3]", 2, "one number or 2 expected, one for each layer and one for the head"),
    *[(f"{FF} algo.threshold={value}", 2, "threshold=.*number") for value in ("nan", "0", "-1")],
    (f"{FF} model.widths=[]", 2, "widths"),
    (f"{FF} model.widths=[0]", 2, "widths.*1 or more"),
    (f"{FF} algo.negatives=permuted", 2, "'uniform', 'hard', 'all', 'hybrid', 'blend' or 'noise'"),
    (f"{FF} algo.optimizer.lr=[1,2]", 2, "one for each layer"),
    (f"{FF} algo.order=sequential model.widths=[8,8] trainer.max_epochs=1", 2, "2 or more"),
    (f"{FF} trainer.gradient_clip_val=1", 2, "gradient_clip_val.*cannot be set"),
    (f"{BP} model._target_=nowhere.Model", 2, "cannot be imported"),
    ("-m seed=0,1 trainer=ddp", 2, "one by one"),
    ("-m trainer=cpu,ddp", 2, "one by one"),
    # words and values that ended in a traceback
    *[(word, 2, f"{re.escape(word)}: write key=value") for word in ("=3", "+=3", "~", "++=")],
    (f"{BP} +algo=-1", 2, "Config group override must be a string"),
    ("--nonsense", 2, "--nonsense: no such option"),
    ("--experimental-rerun x", 2, "use resume="),
    *[(f"{BP} trainer.max_time={value}", 2, "DD:HH:MM:SS") for value in ("5", "x", "{sec:5}", "'00:00:00:00'")],
    (f"{BP} trainer.profiler=xla", 2, "profiler=xla: 'simple', 'advanced' or 'pytorch'"),
    (f"{BP} trainer.strategy=ddp_spawn", 2, "strategy=ddp_spawn: 'auto', 'ddp'"),
    (f"{BP} trainer.num_sanity_val_steps=x", 2, "num_sanity_val_steps"),
    (f"{BP} ~data.source", 2, "data.name: a name for the data set"),
    # parts that do not go together, or are not what their group is for
    (f"{BP} callbacks=early_stop data.val_size=0", 2, "monitors val/acc.*data.val_size"),
    (f"{BP} callbacks=early_stop trainer.limit_val_batches=0", 2, "monitors val/acc, and nothing is validated"),
    (f"{BP} callbacks=early_stop callbacks.early_stop.monitor=val/accu", 2, "val/accu, which is not measured"),
    (f"{BP} +logger.x={CSV_LOGGER}", 2, "CSVLogger would overwrite .*metrics.csv"),
    (f"{BP} +callbacks.x={LAST_TOO}", 2, "ModelCheckpoint would overwrite"),
    (f"{BP} +logger.x._target_=lightning.pytorch.loggers.CometLogger", 2, "not installed .*pip install.*comet"),
    *[(f"{BP} {group}._target_=builtins.dict", 2, "expected, dict found") for group in ("data", "+callbacks.x")],
    # the machine
    (f"{BP} trainer.devices=0", 6, "1 to"),
    (f"{BP} trainer.accelerator=cpu trainer.devices=99", 6, "cores"),
    # the data
    ("data=mnist data.download=false paths.data_dir=nowhere", 3, "nowhere/MNIST/raw.*data=digits"),
    # runs that are not there
    ("resume=nowhere", 4, "contains no run to resume.$"),
    ("run=nowhere script", 4, "no run with a checkpoint"),
]


@pytest.mark.parametrize(("words", "code", "says"), SETTINGS, ids=[row[0] for row in SETTINGS])
def test_a_refused_command_leaves_nothing(words, code, says, warm):
    if words.endswith(" script"):
        words = words.removesuffix(" script")
        refused = warm(words, script="evaluate.py")
        assert (refused.wait(), refused.stderr.count("\n")) == (code, 1)
        assert says in refused.stderr
        return
    assert_refused(warm, words, code, says)


def test_without_a_compiler_nothing_is_compiled_and_nothing_begun(warm):
    nowhere = {"PATH": "/nowhere", "CXX": "", "TORCHINDUCTOR_CACHE_DIR": str(warm.folder.with_name("inductor"))}
    assert_refused(warm, f"{BP} compile=true", 6, "compile=true: .*install a compiler", **nowhere)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu(warm):
    assert_refused(warm, f"{BP} trainer=gpu", 6, "trainer=cpu")


@pytest.mark.parametrize(
    ("text", "says"),
    [("seed: [1\n", r"broken\.yaml, line 2"), ("seed: 1\nseed: 2\n", r"broken\.yaml, line 2.*duplicate key seed")],
    ids=["truncated", "a key twice"],
)
def test_broken_yaml(text, says, warm):
    folder = warm.folder / "mine" / "experiment"
    folder.mkdir(parents=True)
    (folder / "broken.yaml").write_text(f"# @package _global_\n{text}")
    says = says.replace("line 2", "line 3")
    assert_refused(warm, "--config-dir mine experiment=broken", 2, says)


def test_a_setting_beside_the_groups_is_refused_unless_another_looks_it_up(warm):
    folder = warm.folder / "mine" / "experiment"
    folder.mkdir(parents=True)
    yaml = folder / "sizes.yaml"
    yaml.write_text(f"# @package _global_\nbatch_size: 100\n{SHORT}\n")
    assert_refused(warm, "--config-dir mine experiment=sizes", 2, r"batch_size: no such .*mean data\.batch_size\?$")
    yaml.write_text(f"# @package _global_\nshared: 100\ndata: {{batch_size: '${{shared}}'}}\n{SHORT}\n")
    taken = warm("--config-dir", "mine", "experiment=sizes", "data=digits", "algo=bp", "model=mlp")
    assert taken.wait() == 0, taken.stderr


# -- data


def test_no_way_out_to_the_mirrors(warm):
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    refused = warm("data=mnist", "paths.data_dir=data", **closed)
    assert (refused.wait(), refused.stderr.count("\n")) == (3, 1)
    assert re.search(r"train-images-idx3-ubyte\.gz: missing.*data=digits", refused.stderr)
    assert not list(warm.folder.glob("logs/**/*.json"))
    assert not list(warm.folder.glob("data/**/*ubyte*"))


@pytest.fixture
def tiny_mnist(warm) -> Path:
    """IDX files of a set whose plain checksums are not known, so that their structure is what is checked."""
    folder = warm.folder / "data" / "KMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 60), ("t10k", 20)):
        images = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28)) + bytes(count * 784)
        labels = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + bytes(n % 10 for n in range(count))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    return folder


DAMAGES: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("train-images-idx3-ubyte", lambda b: b[:-1], "bytes after the header expected"),
    ("train-images-idx3-ubyte", lambda b: b[:9], "a header of 16 bytes expected, 9 found"),
    ("train-images-idx3-ubyte", lambda b: b"", "a header of 16 bytes expected, 0 found"),
    ("train-images-idx3-ubyte", lambda b: b"\1" + b[1:], "magic number 0x00000803 expected, 0x01000803 found"),
    ("t10k-labels-idx1-ubyte", lambda b: b[:7] + b"\x13" + b[8:-1], "20 t10k images but 19 labels"),
    ("train-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0a", "labels of 0 to 9 expected, 10 found"),
]


@pytest.mark.parametrize(("name", "damage", "says"), DAMAGES, ids=[says for _, _, says in DAMAGES])
def test_a_damaged_data_file(name, damage, says, tiny_mnist, warm):
    path = tiny_mnist / name
    path.write_bytes(damage(path.read_bytes()))
    words = "data=kmnist paths.data_dir=data data.download=false data.val_size=10"
    assert_refused(warm, words, 3, f"KMNIST/raw.*{says}")


@needs_mnist
def test_a_wrong_checksum(warm):
    folder = warm.folder / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for path in MNIST.glob("*-ubyte"):
        (folder / path.name).symlink_to(path)
    labels = folder / "train-labels-idx1-ubyte"
    content = bytearray(labels.read_bytes())
    content[1000] ^= 1
    labels.unlink()
    labels.write_bytes(content)
    words = "data=mnist paths.data_dir=data data.download=false"
    assert_refused(warm, words, 3, "train-labels-idx1-ubyte: MD5 d?.* expected, .* found")


# -- checkpoints


@pytest.fixture(scope="session")
def broken_off(tmp_path_factory) -> Path:
    """A run of two epochs that goes on to four."""
    folder = tmp_path_factory.mktemp("runs")
    chosen = settings("algo=bp", "model=mlp", "model.widths=[8]", "trainer.max_epochs=2", "algo.schedule=constant")
    run.train(chosen, folder / "run", bar=False)
    return folder / "run"


@pytest.fixture
def saved(warm, broken_off) -> Path:
    """The same, as the command leaves it, in the working directory."""
    copy = warm.folder / "run"
    shutil.copytree(broken_off, copy)
    words = ["data=digits", "model=mlp", "model.widths=[8]", "algo.schedule=constant", "trainer.max_epochs=4"]
    shown = warm(*words, "logger=none", "trainer=cpu", "--cfg", "job")
    assert shown.wait() == 0, shown.stderr
    (copy / ".hydra").mkdir()
    text = shown.stdout.replace("${hydra:runtime.output_dir}", "run")
    (copy / ".hydra" / "config.yaml").write_text(text)
    (copy / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in words))
    (copy / "metrics.json").unlink()
    return copy


def other_settings(saved: Path, old: str, new: str) -> None:
    config = saved / ".hydra" / "config.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new))


def test_a_saved_run_goes_on(saved, warm):
    done = warm("resume=run")
    assert done.wait() == 0, done.stderr
    assert json.loads((saved / "metrics.json").read_text())["epochs"] == 4
    again = warm("resume=run")
    assert again.wait() == 0
    assert "finished" in again.stdout


def test_resuming_with_other_settings(saved, warm):
    words = "resume=run algo.optimizer.lr=0.1 data.batch_size=7 seed=3"
    says = r"seed is 0 there, 3 here.*lr is 0.005 there, 0.1 here.*batch_size is 50 there, 7 here"
    assert_refused(warm, words, 4, says)
    assert_refused(warm, "resume=run trainer.max_epochs=1", 4, "can only grow")
    assert_refused(warm, "resume=run trainr.max_epochs=9", 4, "trainr")
    config = saved / ".hydra" / "config.yaml"  # of a run that steps ended, to which any number of epochs is fewer
    config.write_text(
        config.read_text().replace("max_epochs: 4", "max_epochs: -1").replace("max_steps: -1", "max_steps: 9")
    )
    assert_refused(warm, "resume=run trainer.max_epochs=9", 4, "max_epochs is -1 there and can only grow")
    for word in ("seed", "=3", "-m", "--cfg"):
        assert_refused(warm, f"resume=run {word}", 2, f"{word}: not together with resume=")
    assert_refused(warm, "resume=run resume=other", 2, "resume= is given twice")
    assert_refused(warm, "++resume=nowhere", 4, "nowhere: contains no run to resume")


def test_a_taken_directory(saved, warm):
    (saved / "status.json").write_text('{"state": "interrupted", "overrides": [], "error": null}')
    assert_refused(warm, f"{BP} hydra.run.dir=run", 2, "resume=run")


# -- the machine


def test_a_directory_that_cannot_be_written(warm):
    (warm.folder / "taken").write_text("a file")
    assert_refused(warm, f"{BP} logger=none hydra.run.dir=taken", 6, "taken")
    assert_refused(warm, f"{BP} logger=none hydra.run.dir=taken/run", 6, "taken")
    assert_refused(warm, f"{BP} logger=none hydra.run.dir=/proc/run", 6, "/proc/run")
