"""Checkpoints from a stranger: files that are more than they seem, contents that do not fit, paths that lead away."""

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import OmegaConf
from test_refusals import LAST, broken_off  # noqa: F401, fixtures
from test_security import COMPOSED, SAVER, TINY, as_saved, bounded, stranger  # noqa: F401, fixtures

import ffbp
from ffbp.errors import CheckpointError, ConfigError
from ffbp.lifecycle import train as run
from ffbp.lifecycle.checkpoint import FORMAT, SafeCheckpointIO, read_checkpoint, write_checkpoint
from ffbp.lifecycle.directory import RunDirectory, previous_of
from ffbp.lifecycle.load import checkpoint_to_resume
from ffbp.lifecycle.saved import settings_of

# -- the file of a checkpoint


def sealed(path: Path, body: bytes) -> Path:
    """An archive with the checksum that we expect."""
    comment = b"sha256:" + sha256(body[:-2]).hexdigest().encode()
    path.write_bytes(body[:-2] + len(comment).to_bytes(2, "little") + comment)
    return path


def archive(entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", compression) as written:
        for name, content in [("byteorder", b"little"), *entries]:
            written.writestr(f"archive/{name}", content)
    return file.getvalue()


def tensor_pickle(
    numbers: int = 4,
    dtype: str = "FloatStorage",
    offset: Any = 0,
    shape: Any = (4,),
    strides: Any = (1,),
    times: int = 1,
) -> bytes:
    """The pickle of {"ffbp": {"format": 1}, "x": [a tensor, ...]} with a storage of 16 bytes."""

    def number(n: int) -> bytes:
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)

    def numbers_of(values: Any) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(X\7\0\0\0storagectorch\n" + dtype.encode() + b"\nX\1\0\0\0000X\3\0\0\0cpu" + number(numbers) + b"tQ"
    one = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + numbers_of(shape) + numbers_of(strides)
    one += b"\x89ccollections\nOrderedDict\n)RtR"
    return b"\x80\2}(X\4\0\0\0ffbp}X\6\0\0\0formatK\1sX\1\0\0\0x](" + one * times + b"eu."


def plain_pickle(inside: bytes) -> bytes:
    return b"\x80\2}(X\4\0\0\0ffbp}X\6\0\0\0formatK\1sX\1\0\0\0x" + inside + b"u."


NUMBERS = ("data/0", bytes(range(16)))
HUGE = 2**40


class Trap:
    def __reduce__(self) -> Any:
        return (Path("was_run").touch, ())


def overlapping() -> bytes:
    """An archive whose list says that the last entry begins where the first does."""
    body = archive([("data.pkl", tensor_pickle()), NUMBERS])
    begin = body.rindex(b"PK\1\2") + 42
    return body[:begin] + bytes(4) + body[begin + 4 :]


def many_entries() -> bytes:
    """An archive with a list of entries that is longer than any tensors need."""
    body, count = archive([("data.pkl", tensor_pickle()), NUMBERS]), 200_000
    first, end = body.index(b"PK\1\2"), body.rindex(b"PK\5\6")
    listed = body[first:end] + body[first : body.index(b"PK\1\2", first + 1)] * count
    return body[:first] + listed + body[end : end + 12] + len(listed).to_bytes(4, "little") + body[end + 16 :]


FILES = {
    "a larger tensor": archive([("data.pkl", tensor_pickle(shape=(HUGE,))), NUMBERS]),
    "one number many times": archive([("data.pkl", tensor_pickle(shape=(HUGE,), strides=(0,))), NUMBERS]),
    "beyond the end": archive([("data.pkl", tensor_pickle(offset=1)), NUMBERS]),
    "a wide stride": archive([("data.pkl", tensor_pickle(shape=(2,), strides=(HUGE,))), NUMBERS]),
    "a negative stride": archive([("data.pkl", tensor_pickle(shape=(2,), strides=(-1,), offset=3)), NUMBERS]),
    "a negative offset": archive([("data.pkl", tensor_pickle(offset=-1)), NUMBERS]),
    "more dimensions than strides": archive([("data.pkl", tensor_pickle(shape=(2, 2))), NUMBERS]),
    "a storage that says too much": archive([("data.pkl", tensor_pickle(numbers=HUGE)), NUMBERS]),
    "no storage": archive([("data.pkl", tensor_pickle())]),
    "another type of storage": archive([("data.pkl", tensor_pickle(dtype="DoubleStorage")), NUMBERS]),
    "an unknown storage": archive([("data.pkl", tensor_pickle(dtype="QInt8Storage")), NUMBERS]),
    "many dimensions": archive([("data.pkl", tensor_pickle(shape=(1,) * 500, strides=(1,) * 500)), NUMBERS]),
    "nothing times much": archive([("data.pkl", tensor_pickle(shape=(0, 2**62, 2**62), strides=(1, 1, 1))), NUMBERS]),
    "a bytearray": archive([("data.pkl", plain_pickle(b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R"))]),
    "a code": archive([("data.pkl", pickle.dumps({"ffbp": {"format": 1}, "trap": Trap()}, protocol=2))]),
    "a set": archive([("data.pkl", pickle.dumps({"ffbp": {"format": 1}, "x": {1}}, protocol=2))]),
    "another protocol": archive([("data.pkl", pickle.dumps({"ffbp": {"format": 1}, "x": b"x"}, protocol=4))]),
    "a memo far away": archive([("data.pkl", plain_pickle(b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xff"))]),
    "a large number": archive([("data.pkl", plain_pickle(b"\x8a\xff" + b"\x7f" * 255))]),
    "a number as text": archive([("data.pkl", plain_pickle(b"L" + b"9" * 10**6 + b"L\n"))]),
    "half a character": archive([("data.pkl", plain_pickle(b"X\3\0\0\0\xed\xa0\x80"))]),
    "a list as key": archive([("data.pkl", plain_pickle(b"}]Ns"))]),
    "a number as key": archive([("data.pkl", plain_pickle(b"}G\0\0\0\0\0\0\0\0Ns"))]),
    "items of a tensor": archive([("data.pkl", plain_pickle(tensor_pickle()[2:-1] + b"NNs")), NUMBERS]),
    "lists within lists": archive([("data.pkl", plain_pickle(b"]" * 10**5 + b"a" * (10**5 - 1)))]),
    "a list in itself": archive([("data.pkl", plain_pickle(b"]q\0h\0a"))]),
    "a shared list, doubled": archive(
        [("data.pkl", plain_pickle(b"]q\0" + b"".join(b"](h%ch%ceq%c" % (k, k, k + 1) for k in range(60))))]
    ),
    "nothing but marks": lambda: archive([("data.pkl", plain_pickle(b"(" * 2_100_000))]),
    "nothing but dicts": lambda: archive([("data.pkl", plain_pickle(b"}" * 2_100_000))]),
    "nothing to take": archive([("data.pkl", b"\x80\2aaaa.")]),
    "no end": archive([("data.pkl", b"\x80\2}")]),
    "no pickle": archive([NUMBERS]),
    "no dict": archive([("data.pkl", b"\x80\2].")]),
    "compressed": lambda: archive([("data.pkl", tensor_pickle()), ("data/0", bytes(2**24))], zipfile.ZIP_DEFLATED),
    "an entry twice": lambda: archive([("data.pkl", tensor_pickle()), NUMBERS, NUMBERS]),
    "many entries": lambda: many_entries(),
    "another order of bytes": archive([("data.pkl", tensor_pickle()), NUMBERS]).replace(b"little", b"bigger"),
    "two entries in one place": overlapping(),
    "no archive": b"PK" + bytes(1000),
    "no format": archive([("data.pkl", b"\x80\2}X\4\0\0\0ffbp}s.")]),
    "true as format": archive([("data.pkl", b"\x80\2}X\4\0\0\0ffbp}X\6\0\0\0format\x88ss.")]),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_within_its_own_size_or_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body: Any = FILES[name]
    path = sealed(tmp_path / "x.ckpt", body() if callable(body) else body)
    with pytest.raises(CheckpointError, match=r"refused|not a checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "was_run").exists()


def test_what_torch_saves_is_read_as_torch_reads_it(tmp_path):
    shared = torch.arange(12.0).view(3, 4)
    content = {
        "ffbp": {"format": FORMAT},
        "dtypes": [torch.arange(4).to(dtype) for dtype in (torch.bool, torch.half, torch.bfloat16, torch.complex64)],
        "views": [shared, shared.T, shared[1:, ::2], shared[:0], torch.tensor(3.0), shared],
        "values": [None, True, -(2**63), 2**63 - 1, 1.5, float("nan"), "ü", {"a": {}, 3: []}, (1, (2.0,))],
    }
    write_checkpoint(tmp_path / "x.ckpt", content)
    found = read_checkpoint(tmp_path / "x.ckpt")
    expected = torch.load(tmp_path / "x.ckpt", weights_only=True)
    for group in ("dtypes", "views"):
        for one, other in zip(found[group], expected[group], strict=True):
            assert torch.equal(one, other)
            assert (one.dtype, one.is_contiguous()) == (other.dtype, True)
    assert found["views"][0] is found["views"][-1]
    assert repr(found["values"]) == repr(expected["values"])


@pytest.mark.parametrize(
    "value", [{1}, Path("x"), torch.nn.Parameter(torch.ones(1)), torch.Size([1]), {-1: 0}], ids=repr
)
def test_what_could_not_be_read_again_is_not_saved(value, tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint\.mine.*can be saved"):
        SafeCheckpointIO(tmp_path).save_checkpoint({"callbacks": {}, "mine": [value]}, tmp_path / "x.ckpt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_a_checkpoint_is_a_file(kind, tmp_path):
    path = tmp_path / "x.ckpt"
    {"fifo": os.mkfifo, "folder": os.mkdir, "device": lambda path: path.symlink_to("/dev/zero")}[kind](path)
    with pytest.raises(CheckpointError, match="not a regular file"):
        read_checkpoint(path)


# -- what a checkpoint contains


@pytest.fixture(scope="module")
def trained(broken_off: Path) -> run.Prepared:  # noqa: F811
    """The parts of a run, freshly built to go on."""
    return run.prepare(deepcopy(COMPOSED), broken_off, resume=True, bar=False)


@pytest.fixture
def resumed(tmp_path: Path, trained: run.Prepared) -> Callable[..., Path | None]:
    """The checkpoint from which a run goes on if the content of one was changed so."""
    directory = RunDirectory(tmp_path / "run")
    shutil.copytree(trained.directory.path, directory.path)

    def resume(change: Callable[[dict[str, Any]], object], name: str = "last.ckpt", *callbacks: Any) -> Path | None:
        original = trained.directory.best if name == "best.ckpt" else trained.directory.last
        content = read_checkpoint(original)
        change(content)
        path = directory.path / "checkpoints" / name
        write_checkpoint(path, content)
        previous_of(path).unlink(missing_ok=True)
        return checkpoint_to_resume(directory, trained.algorithm, callbacks)

    return resume


def first_state(content: dict[str, Any]) -> dict[str, Any]:
    return content["optimizer_states"][0]["state"][0]


def record(content: dict[str, Any]) -> dict[str, Any]:
    return content["callbacks"]["RunRecord"]


def progress(content: dict[str, Any]) -> dict[str, Any]:
    return content["loops"]["fit_loop"]["epoch_progress"]["current"]


BIAS = "stack.head.affine.bias"
CHANGES: dict[str, Callable[[dict[str, Any]], object]] = {
    # weights
    "weights of another shape": lambda c: c["state_dict"].update({BIAS: torch.zeros(11)}),
    "weights of another type": lambda c: c["state_dict"].update({BIAS: torch.zeros(10, dtype=torch.int32)}),
    "weights missing": lambda c: c["state_dict"].pop(BIAS),
    "weights too many": lambda c: c["state_dict"].update({"more": torch.zeros(1)}),
    "weights that are numbers": lambda c: c["state_dict"].update({BIAS: 1.0}),
    "weights in a list": lambda c: c.update(state_dict=[]),
    "no weights": lambda c: c.pop("state_dict"),
    # the optimizer
    "a shorter state": lambda c: first_state(c).update(exp_avg=torch.zeros(1)),
    "a state of another type": lambda c: first_state(c).update(exp_avg=first_state(c)["exp_avg"].double()),
    "a state of whole numbers": lambda c: first_state(c).update(step=torch.tensor(1)),
    "a longer step": lambda c: first_state(c).update(step=torch.zeros(5)),
    "a state that is a number": lambda c: first_state(c).update(exp_avg=0.0),
    "a state missing": lambda c: first_state(c).pop("exp_avg_sq"),
    "a state too many": lambda c: first_state(c).update(max_exp_avg_sq=torch.zeros(8, 784)),
    "a state that is a list": lambda c: c["optimizer_states"][0]["state"].update({0: []}),
    "a parameter too many": lambda c: c["optimizer_states"][0]["state"].update({99: first_state(c)}),
    "no states of parameters": lambda c: c["optimizer_states"][0].update(state={}),
    "no optimizer": lambda c: c.update(optimizer_states=[]),
    "an empty optimizer": lambda c: c.update(optimizer_states=[{}]),
    "two optimizers": lambda c: c["optimizer_states"].append(c["optimizer_states"][0]),
    "a group too many": lambda c: c["optimizer_states"][0]["param_groups"].append({}),
    "other parameters": lambda c: c["optimizer_states"][0]["param_groups"][0].update(params=[0, 0, 0, 0]),
    "another kernel": lambda c: c["optimizer_states"][0]["param_groups"][0].update(fused=False, foreach=True),
    "a rate that is a tensor": lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr=torch.ones(2)),
    "a rate below 0": lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr=-1.0),
    "a key too many": lambda c: c["optimizer_states"][0]["param_groups"][0].update(more=1),
    # counters
    "an epoch below 0": lambda c: c.update(epoch=-1),
    "an epoch that is a word": lambda c: c.update(epoch="1"),
    "steps without end": lambda c: c.update(global_step=2**60),
    "an old Lightning": lambda c: c.update({"pytorch-lightning_version": "0.7.0"}),
    "no version": lambda c: c.update({"pytorch-lightning_version": "x"}),
    "no loops": lambda c: c.pop("loops"),
    "a loop missing": lambda c: c["loops"].pop("fit_loop"),
    "a counter missing": lambda c: progress(c).pop("ready"),
    "a counter too many": lambda c: progress(c).update(load_state_dict=1),
    "a counter below 0": lambda c: progress(c).update(ready=-1),
    "a counter that is a float": lambda c: progress(c).update(ready=1.0),
    "a counter that is a list": lambda c: c["loops"]["fit_loop"].update(epoch_progress=[]),
    "two loaders": lambda c: c["loops"]["fit_loop"]["state_dict"].update(combined_loader=[{}, {}]),
    "a loader without a place": lambda c: c["loops"]["fit_loop"]["state_dict"].update(combined_loader=[{"epoch": 1}]),
    # what we keep
    "no callbacks": lambda c: c.pop("callbacks"),
    "no record": lambda c: c["callbacks"].pop("RunRecord"),
    "a record that is a list": lambda c: c["callbacks"].update(RunRecord=[]),
    "rows that are words": lambda c: record(c).update(rows=["x"]),
    "a row of words": lambda c: record(c)["rows"].append({"val/acc": "1.0"}),
    "no best": lambda c: record(c).pop("best"),
    "a clock below 0": lambda c: record(c)["clock"].update(seconds=-1.0),
    "a clock too many": lambda c: record(c)["clock"].update(more=1.0),
    "means of words": lambda c: c.update(train_means=[[["a"], "x", 1]]),
    "means of another length": lambda c: c.update(train_means=[[["a"], torch.zeros(2, dtype=torch.double), 1]]),
    # settings
    "no settings": lambda c: c.update(ffbp={"format": FORMAT}),
    "other settings": lambda c: c["ffbp"]["model"].update(activation="tanh"),
    "settings that are a list": lambda c: c["ffbp"].update(model=[]),
    "a large model": lambda c: c["ffbp"]["model"].update(widths=[10**18]),
    "many layers": lambda c: c["ffbp"]["model"].update(widths=[1] * 50_000),
    "large images": lambda c: c["ffbp"].update(image_shape=[1, 2**40, 2**40]),
    "images without height": lambda c: c["ffbp"].update(image_shape=[784]),
    "many classes": lambda c: c["ffbp"].update(classes=10**9),
    "classes below 0": lambda c: c["ffbp"].update(classes=-1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_content_that_does_not_fit_is_refused(name, resumed, tmp_path):
    with pytest.raises(CheckpointError, match=r"last\.ckpt: "):
        resumed(CHANGES[name])


@pytest.mark.parametrize("name", [name for name in CHANGES if name.split()[0] in ("large", "many", "images")])
def test_a_model_that_does_not_fit_is_not_loaded(name, resumed, tmp_path):
    with pytest.raises(CheckpointError, match=r"(last|best)\.ckpt: "):
        resumed(CHANGES[name], "best.ckpt")
    with pytest.raises(CheckpointError, match=r"best\.ckpt: "):
        ffbp.load(tmp_path / "run")
    config = RunDirectory(tmp_path / "run")
    config.config.parent.mkdir()
    config.config.write_text(OmegaConf.to_yaml(as_saved(*TINY)))
    shutil.copy(config.best, config.last)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: "):  # before anything is built
        settings_of(config, [])


def test_what_fits_goes_on(resumed):
    assert resumed(lambda c: None)
    # a parameter that has had no gradient has no state; and numbers are the run's own affair
    assert resumed(lambda c: c["optimizer_states"][0]["state"].pop(0))
    assert resumed(lambda c: first_state(c)["exp_avg"].fill_(float("nan")))


def test_weights_in_another_precision_are_loaded(resumed, tmp_path):
    resumed(lambda c: c["state_dict"].update({name: t.double() for name, t in c["state_dict"].items()}), "x.ckpt")
    shutil.move(tmp_path / "run" / "checkpoints" / "x.ckpt", tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert ffbp.load(tmp_path / "run").predict(torch.zeros(1, 28, 28)).shape == (1,)


@pytest.mark.parametrize("widths", [[10**18], [10**9], [1] * 3000], ids=lambda value: str(value)[:10])
def test_settings_too_large_for_the_weights_are_refused_before_anything_is_built(widths, stranger):  # noqa: F811
    config = as_saved(*TINY)
    config["model"]["widths"] = widths
    with pytest.raises(CheckpointError, match=r"model\.widths is \[8\] there"):
        settings_of(stranger(config, True), [])


@pytest.mark.parametrize(
    ("callback", "change"),
    [
        (EarlyStopping("val/acc"), {"wait_count": "x"}),
        (EarlyStopping("val/acc"), {"more": 1}),
        (EarlyStopping("val/acc"), {"best_score": torch.zeros(3)}),
        (ModelCheckpoint(), {"best_model_path": 1}),
        (ModelCheckpoint(), {"best_k_models": []}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_state_of_a_callback_is_of_its_kind(callback, change, resumed):
    state = callback.state_dict()
    assert resumed(lambda c: c["callbacks"].update({callback.state_key: state}), "last.ckpt", callback)
    with pytest.raises(CheckpointError, match=r"callbacks\..*expected"):
        resumed(lambda c: c["callbacks"].update({callback.state_key: state | change}), "last.ckpt", callback)


# -- what callbacks write and remove


def test_a_run_with_checkpoints_of_its_own_can_be_moved_and_removes_nothing_elsewhere(tmp_path, monkeypatch):
    saver = SAVER | {"dirpath": str(tmp_path / "run" / "kept"), "save_top_k": 2, "mode": "min", "filename": "{epoch}"}
    chosen = deepcopy(COMPOSED) | {"callbacks": {"saver": saver}}
    run.train(chosen | {"trainer": chosen["trainer"] | {"max_epochs": 2}}, tmp_path / "run", bar=False)
    written = (tmp_path / "run" / LAST).read_bytes()
    assert str(tmp_path).encode() not in written
    assert b"<run>/kept/epoch=" in written
    shutil.move(tmp_path / "run", tmp_path / "moved")
    chosen["callbacks"]["saver"]["dirpath"] = str(tmp_path / "moved" / "kept")
    victims = [tmp_path / "victim", tmp_path / "moved" / "victim"]
    for victim in victims:
        victim.mkdir()
    content = read_checkpoint(tmp_path / "moved" / LAST)
    [key] = [key for key in content["callbacks"] if key.startswith("ModelCheckpoint")]
    state = content["callbacks"][key]
    assert state["dirpath"] == "<run>/kept"
    state["kth_best_model_path"] = "<run>/kept/../../victim"
    state["best_k_models"] = {"<run>/kept/../../victim": torch.tensor(9.0), "<run>/kept/x": torch.tensor(-1.0)}
    write_checkpoint(tmp_path / "moved" / LAST, content)
    run.train(chosen, tmp_path / "moved", resume=True, bar=False)
    assert all(victim.exists() for victim in victims)
    assert list((tmp_path / "moved" / "kept").glob("epoch=*.ckpt"))
