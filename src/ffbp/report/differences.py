"""In which settings runs differ: what makes a group of runs, and how a group is called."""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ffbp.errors import one_line

Flat = dict[str, Any]
"""Settings by their full names, such as algo.optimizer.lr; a value is None, a bool, a number, a text or a list."""

# do not change what comes out: places, what is shown or saved, and where and in how many parts it is computed. The
# device that was used is in metrics.json, and makes groups by itself
SILENT = re.compile(
    r"(seed|threads|debug|resume|trust)|(paths|hydra|logger)\b.*|checkpoint\.every_n_steps|"
    r"data\.(data_dir|download|eval_batch_size)|"
    r"trainer\.(accelerator|strategy|num_nodes|max_epochs|fast_dev_run|log_every_n_steps|detect_anomaly|profiler|"
    r"num_sanity_val_steps|limit_predict_batches|enable_\w+|use_distributed_sampler)"
)
OBSERVERS = re.compile(
    r"ffbp\.callbacks\..*|lightning\.pytorch\.callbacks\."
    r"(LearningRateMonitor|DeviceStatsMonitor|ModelCheckpoint|RichModelSummary|ModelSummary|RichProgressBar)"
)
"""Callbacks that look at a training and leave it as it is."""


def flat(settings: Any, place: str = "") -> Flat:
    """Nested settings by their full names; an empty group has no name."""
    if not isinstance(settings, dict):
        return {place: _plain(settings)}
    parts = [
        flat(part, f"{place}.{one_line(name, 100)}" if place else one_line(name, 100))
        for name, part in settings.items()
    ]
    return {name: value for part in parts for name, value in part.items()}


def effective(settings: Mapping[str, Any]) -> Flat:
    """The settings that affect the result, by their full names."""
    callbacks = settings.get("callbacks")
    acting = {
        name: part
        for name, part in (callbacks.items() if isinstance(callbacks, dict) else ())
        if not (isinstance(part, dict) and OBSERVERS.fullmatch(str(part.get("_target_"))))
    }
    return {
        name: value for name, value in flat({**settings, "callbacks": acting}).items() if not SILENT.fullmatch(name)
    }


def identity(settings: Mapping[str, Any]) -> str:
    """Equal for settings that are the same; one that is null might as well be missing."""
    return json.dumps({name: value for name, value in settings.items() if value is not None}, sort_keys=True)


def differing(all_settings: Sequence[Flat], missing_counts: bool = False) -> list[str]:
    """The names in whose value settings differ, in their order.

    `missing_counts`: whether settings without a name differ from those that have a value for it, other than null.
    """
    names = dict.fromkeys(name for settings in all_settings for name in settings)
    if missing_counts:
        return [name for name in names if len({_key(settings.get(name)) for settings in all_settings}) > 1]
    return [name for name in names if len({_key(some[name]) for some in all_settings if name in some}) > 1]


def labels(bases: Sequence[str], all_settings: Sequence[Flat]) -> list[str]:
    """Call each of some groups by its base name, and by the settings in which those with this base differ.

    A value that more than half of them share goes without saying.
    """
    found = list(bases)
    for base in dict.fromkeys(bases):
        members = [number for number, other in enumerate(bases) if other == base]
        family = [all_settings[number] for number in members]
        names = differing(family, missing_counts=True)
        counts = {name: Counter(_key(settings.get(name)) for settings in family) for name in names}
        unsaid = {name: key for name in names for key, count in counts[name].items() if 2 * count > len(family)}
        short = shortened(names)
        for number, settings in zip(members, family, strict=True):
            words = [
                f"{short[name]}={shown(settings.get(name))}"
                for name in names
                if (name in settings or name in unsaid) and _key(settings.get(name)) != unsaid.get(name)
            ]
            found[number] = ", ".join([base, *words])
    return found


def shortened(names: Collection[str]) -> dict[str, str]:
    """Each name by as many of its last parts as tell it apart from the others: lr, or head.lr and optimizer.lr."""
    endings = {name: [".".join(name.split(".")[-n:]) for n in range(1, name.count(".") + 2)] for name in names}
    counts = Counter(ending for all_of_one in endings.values() for ending in all_of_one)
    return {name: next((end for end in ends if counts[end] == 1), name) for name, ends in endings.items()}


def shown(value: Any) -> str:
    """A value as one would type it on the command line, in one printable line."""
    if isinstance(value, list):
        return f"[{','.join(shown(item) for item in value)}]"
    return one_line(value if isinstance(value, str) else json.dumps(value), 200)


def _plain(value: Any) -> Any:
    """A number that is whole as an int, since 4 and 4.0 are the same setting."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
