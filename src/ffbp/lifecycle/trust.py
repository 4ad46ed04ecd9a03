"""What a run received from somebody else may make this program do: build known parts in their roles, and no more."""

import inspect
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ffbp.errors import CheckpointError
from ffbp.settings import TORCH_OPTIMIZERS

_CALLBACKS = "EarlyStopping ModelCheckpoint LearningRateMonitor DeviceStatsMonitor Timer RichModelSummary ModelSummary"
LIGHTNING_CALLBACKS = [f"lightning.pytorch.callbacks.{name}" for name in _CALLBACKS.split()]
TRACKERS = [f"ffbp.callbacks.trackers.{name}" for name in ("Wandb", "MLflow")]
LIGHTNING_LOGGERS = [f"lightning.pytorch.loggers.{name}" for name in ("TensorBoardLogger", "CSVLogger")]

TRAINER_KEYS = re.compile(
    "accelerator|strategy|devices|num_nodes|precision|fast_dev_run|(max|min)_(epochs|steps)|max_time|overfit_batches|"
    "limit_(train|val|test|predict)_batches|val_check_interval|check_val_every_n_epoch|num_sanity_val_steps|"
    "log_every_n_steps|enable_progress_bar|enable_model_summary|accumulate_grad_batches|gradient_clip_(val|algorithm)|"
    "deterministic|benchmark|inference_mode|use_distributed_sampler|profiler|detect_anomaly|sync_batchnorm|"
    "reload_dataloaders_every_n_epochs"
)
"""What a saved run may tell Lightning's Trainer: nothing that names a place to write or upload to."""
PROFILERS = (None, "simple", "advanced")

WRITERS = ("callbacks", "logger")  # groups whose members write
PLACES = ("save_dir", "dirpath", "name", "version", "sub_dir", "prefix", "filename")
FOLDERS, FREE = ("save_dir", "dirpath"), ("_target_", "monitor")
_WORD = re.compile(r"(?!.*\.\.)[\w.=+,: @-]*")  # a part of a file's name
_FILENAME = re.compile(r"(?!.*\.\.)(?:[\w.=+-]|\{[\w/]+(?::\d{0,2}(?:\.\d{1,2})?[a-z]?)?\})*")  # of a ModelCheckpoint

OPTIMIZER = ("algo", "optimizer")  # the place of a rule's optimizer

MOST_FILES = 100_000


def require_trust(settings: Mapping[str, Any], trusted: Iterable[str], directory: Path | None = None) -> None:
    """Raise a CheckpointError if the settings of a saved run ask for more than parts we know, in their roles.

    A rule, a model, a data set or a callback of ours must be made where it lies: `ffbp.models.mlp.nn.Linear` does not
    count, nor does a function of ours that is no builder of models. Callbacks and loggers write below `directory`.

    Args:
        settings: of a run, or those in a checkpoint.
        trusted: packages, or whole names, that the user vouches for.
        directory: of the run; None if no callback or logger is built.
    """
    trusted = (trusted,) if isinstance(trusted, str) else tuple(trusted)
    for place, part in (*_with_targets(settings), *_optimizer_by_name(settings)):
        target = part["_target_"]
        if not isinstance(target, str):
            raise CheckpointError(f"{'.'.join(place)}._target_={target!r:.80}: refused, not a name.")
        if target in trusted or _vouched(target, trusted):
            continue
        if target in TRACKERS:
            raise CheckpointError(
                f"{target}: refused, since this saved run would send what it measures elsewhere, in your name. If it "
                f"is your own, or you trust it, add 'trust=[{target}]'"
            )
        if not _known(target, _role(place)):
            name = target if _within(target, ("ffbp", "lightning", "torch")) else target.split(".")[0]
            raise CheckpointError(
                f"{target}: refused, since this saved run would execute code outside ffbp, or in a place where it does "
                f"not belong. If that code is yours, or you trust it, add 'trust=[{name}]'"
            )
        if _role(place) in WRITERS:
            _require_below(".".join(place), part, directory)
    for key, value in (settings.get("trainer") or {}).items():
        known = TRAINER_KEYS.fullmatch(str(key)) and (key != "profiler" or value in PROFILERS)
        if not known and f"trainer.{key}" not in trusted:
            raise CheckpointError(
                f"trainer.{key}={value!r:.80}: refused, since this saved run could write elsewhere with it. If you "
                f"trust it, add 'trust=[trainer.{key}]'"
            )


def require_own_files(directory: Path) -> None:
    """Raise a CheckpointError if something in a run's directory is no file or leads out of it."""
    root, folders, count = directory.resolve(), [directory], 0
    while folders:
        for entry in os.scandir(folders.pop()):
            count += 1
            path, mode = Path(entry.path), entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                folders.append(path)
            elif stat.S_ISLNK(mode) and not _leads_into(path, root):
                raise CheckpointError(f"{path}: refused, a link that leads out of the run's directory.")
            elif not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
                raise CheckpointError(f"{path}: refused, neither a file nor a folder.")
            if count > MOST_FILES:
                raise CheckpointError(f"{directory}: refused, more than {MOST_FILES} files.")


def _leads_into(link: Path, root: Path) -> bool:
    try:
        target = link.resolve()
        if target.is_symlink() or not target.is_relative_to(root):  # a link to itself, from Python 3.13 on
            return False
        return target.is_file() or target.is_dir() or not target.exists()
    except (OSError, RuntimeError):  # a link to itself, before Python 3.13; a folder that may not be read
        return False


def _with_targets(node: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """All parts of the settings that name a target, each with its place."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield place or ("",), node
        for name, child in node.items():
            yield from _with_targets(child, (*place, str(name)))
    elif isinstance(node, list):
        for child in node:
            yield from _with_targets(child, (*place, "item"))


def _optimizer_by_name(settings: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The optimizer of a rule as a part with a target, where its name is that of a class."""
    algo = settings.get("algo")
    optimizer = algo.get("optimizer") if isinstance(algo, dict) else None
    name = optimizer.get("name") if isinstance(optimizer, dict) else None
    if isinstance(name, str) and "." in name:
        yield OPTIMIZER, {"_target_": name}


def _role(place: tuple[str, ...]) -> str:
    """The group of settings that a part is the whole of, or one of the members of; empty for any other place."""
    if place == OPTIMIZER:
        return "optimizer"
    return place[0] if len(place) == (2 if place[0] in WRITERS else 1) else ""


def _vouched(target: str, trusted: tuple[str, ...]) -> bool:
    """Whether a target lies in a package that the user vouches for, and was made in one."""
    return _within(target, trusted) and _within(str(getattr(_found(target), "__module__", "")), trusted)


def _known(target: str, role: str) -> bool:
    """Whether a target is one of ours, in its role, or one of the few of Lightning's and PyTorch's."""
    packages = {"algo": "algorithms", "model": "models", "data": "data"} | dict.fromkeys(WRITERS, "callbacks")
    others = {"callbacks": LIGHTNING_CALLBACKS, "logger": LIGHTNING_LOGGERS, "optimizer": TORCH_OPTIMIZERS}
    if target in others.get(role, ()):
        return True
    package = f"ffbp.{packages.get(role)}"
    if not re.fullmatch(rf"{re.escape(package)}(\.[A-Za-z]\w*)+", target):  # before anything is imported
        return False
    found = _found(target)
    if not _within(str(getattr(found, "__module__", "")), (package,)):
        return False
    import lightning.pytorch as pl  # here, since it brings PyTorch

    from ffbp.algorithms import Algorithm
    from ffbp.data import MemoryData
    from ffbp.models import Stack

    if role == "model":
        whole = inspect.isfunction(found) and found.__name__ == found.__qualname__
        return whole and found.__annotations__.get("return") is Stack
    bases = {"algo": Algorithm, "data": MemoryData, "callbacks": pl.Callback, "logger": pl.loggers.TensorBoardLogger}
    base: type = bases[role]
    return inspect.isclass(found) and issubclass(found, base) and found is not base


def _found(target: str) -> Any:
    from hydra.utils import get_object

    try:
        return get_object(target)
    except Exception as error:  # whatever an import may raise
        raise CheckpointError(f"{target}: cannot be imported ({error}); a run of another version?") from error


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _require_below(place: str, part: Mapping[str, Any], directory: Path | None) -> None:
    """Raise a CheckpointError if a callback or logger could write anywhere but below the run's directory."""
    for name, value in part.items():
        if name in FREE or value is None:
            continue
        if name in PLACES and not isinstance(value, str | int):
            raise CheckpointError(f"{place}.{name}={value!r:.80}: refused, not a name.")
        for word in _words(value):
            if name in FOLDERS:
                good = directory is not None and _is_below(word, directory)
            else:
                good = bool((_FILENAME if name == "filename" else _WORD).fullmatch(word))
            if not good:
                raise CheckpointError(
                    f"{place}.{name}={word!r:.80}: refused, since this saved run could write outside of its directory. "
                    f"If you trust it, add 'trust=[{part['_target_']}]'"
                )


def _is_below(folder: str, directory: Path) -> bool:
    """Whether a folder is the run's directory, or one below it with a plain name."""
    rest = os.path.relpath(folder, directory) if folder else ".."
    return rest == "." or all(re.fullmatch(r"(?!\.\.?\Z)[\w.=+-]+", part) for part in Path(rest).parts)


def _words(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for child in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
        yield from _words(child)
