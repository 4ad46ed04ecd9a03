"""The settings of a saved run, which are data: what a new run keeps of them, and how they are read again.

A run may come from a stranger. Its settings are plain values, but for the two places that differ from one machine to
another: where the images are, and where the run itself lies. Those stand as one of the lookups below, word for word,
and nothing else is looked up.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ffbp.errors import CheckpointError, ConfigError
from ffbp.lifecycle.directory import RunDirectory, nearby_runs
from ffbp.lifecycle.places import with_whole_path
from ffbp.lifecycle.trust import require_own_files, require_trust
from ffbp.lifecycle.upgrades import upgrade_settings
from ffbp.plain_text import read_yaml
from ffbp.settings import Settings, check_settings

DATA_LOOKUPS = ("${oc.env:FFBP_DATA_DIR,data}", "${paths.data_dir}")
"""The folder of the images, wherever it is; only among the settings of `paths` and `data`."""

OUTPUT_LOOKUP = re.compile(r"\$\{(?:hydra:runtime|paths)\.output_dir\}((?:/(?!\.\.?(?:/|\Z))[\w.=+-]+)*)")
"""The run's directory, or a folder below it."""


def keep(config: DictConfig) -> Settings:
    """The settings that a new run keeps: resolved, but for the lookups of the folders that differ between machines.

    Raises:
        ConfigError: if a value is none that could be read again.
    """
    raw, resolved = (OmegaConf.to_container(config, resolve=resolve, enum_to_str=True) for resolve in (False, True))
    kept = _own_settings(_with_lookups(raw, resolved))
    kept["data"] = with_whole_path(kept["data"])
    for place, part in _parts(kept):
        if problem := _problem(place, part):
            raise ConfigError(f"{'.'.join(map(str, place))}={part!r:.80}: {problem}, which a saved run cannot contain.")
    return kept


def read_kept(path: Path) -> Settings:
    """Read what `keep` gave, or a run of an earlier version wrote, as data: nothing is looked up, imported or built.

    Raises:
        CheckpointError: if the file is missing, or not such settings.
    """
    settings = read_yaml(path)
    groups = settings if isinstance(settings, dict) else {}
    if missing := [name for name in ("algo", "model", "data", "trainer") if not isinstance(groups.get(name), dict)]:
        raise CheckpointError(f"{path}: not the settings of a run of this program, without {', '.join(missing)}.")
    kept = _own_settings(settings)
    for place, part in _parts(kept):
        if problem := _problem(place, part):
            raise CheckpointError(f"{path}: {'.'.join(map(str, place))}={part!r:.80}: refused, {problem}.")
    return kept


def settings_of(directory: RunDirectory, trust: Sequence[str] | None) -> Settings:
    """The settings of a saved run, in today's form, with the folders of this machine.

    The images are looked for where this machine has them. Where the run itself names a folder, that folder is read, but
    nothing is downloaded into it.

    Args:
        directory: of the run.
        trust: packages and names that the user vouches for; None for a run that the same command has started.

    Raises:
        CheckpointError: if there are no settings, or they cannot be used, or are not to be trusted.
    """
    if not directory.config.is_file():
        raise CheckpointError(f"{directory}: contains no run to resume.{nearby_runs(directory.path)}")
    if trust is not None:
        require_own_files(directory.path)
    kept = read_kept(directory.config)
    shared = kept["paths"]["data_dir"]
    here = os.environ.get("FFBP_DATA_DIR", "data")
    lookups = {DATA_LOOKUPS[0]: here, DATA_LOOKUPS[1]: here if shared in DATA_LOOKUPS else shared}
    settings = _filled(kept, lookups, directory)
    named = [folder for folder in (shared, kept["data"].get("data_dir", shared)) if folder not in DATA_LOOKUPS]
    if named and "download" in kept["data"]:
        settings["data"]["download"] = False
    from ffbp.lifecycle.load import require_fitting_files  # here, since it brings PyTorch

    try:
        settings = upgrade_settings(settings)
        check_settings(settings)
        if trust is not None:
            require_trust(settings, trust, directory.path)
            require_fitting_files(directory, settings)
    except ConfigError as error:
        raise CheckpointError(f"{directory}: its settings cannot be used: {error}") from error
    return settings


Place = tuple[Any, ...]
"""The keys that lead to a value."""


def _own_settings(settings: Any) -> Settings:
    """Without what concerns the command alone, and of the paths only that of the images."""
    paths = settings.get("paths")
    data_dir = paths.get("data_dir", DATA_LOOKUPS[0]) if isinstance(paths, dict) else DATA_LOOKUPS[0]
    kept = {name: value for name, value in settings.items() if name not in ("debug", "resume")}
    return kept | {"paths": {"data_dir": data_dir}}


def _with_lookups(raw: Any, resolved: Any, place: Place = ()) -> Any:
    """`resolved`, but with the lookup where `raw` has one that is kept."""
    parts: Any
    if isinstance(resolved, dict):
        parts = raw if isinstance(raw, dict) else {}
        return {name: _with_lookups(parts.get(name), value, (*place, name)) for name, value in resolved.items()}
    if isinstance(resolved, list):
        parts = raw if isinstance(raw, list) else [None] * len(resolved)
        return [_with_lookups(*pair, place) for pair in zip(parts, resolved, strict=True)]
    return raw if _is_lookup(place, raw) else resolved


def _is_lookup(place: Place, value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return (value in DATA_LOOKUPS and place[:1] in (("paths",), ("data",))) or bool(OUTPUT_LOOKUP.fullmatch(value))


def _problem(place: Place, part: Any) -> str | None:
    """Why a value or a key is none that settings may have; None if it is."""
    if not isinstance(part, str | int | float | None):  # a bool is an int
        return f"a {type(part).__name__}"
    if isinstance(part, int) and not -(2**63) <= part < 2**63:
        return "a number of more than 64 bits"
    if isinstance(part, str) and "${" in part and not _is_lookup(place, part):
        return "something to look up"
    return None


def _parts(node: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """All keys and values of nested settings, each with its place."""
    if isinstance(node, dict):
        for name, child in node.items():
            yield place, name
            yield from _parts(child, (*place, name))
    elif isinstance(node, list):
        for child in node:
            yield from _parts(child, place)
    else:
        yield place, node


def _filled(node: Any, lookups: dict[str, Any], directory: RunDirectory) -> Any:
    """The settings, with the folders in place of the lookups."""
    if isinstance(node, dict):
        return {name: _filled(child, lookups, directory) for name, child in node.items()}
    if isinstance(node, list):
        return [_filled(child, lookups, directory) for child in node]
    below = OUTPUT_LOOKUP.fullmatch(node) if isinstance(node, str) else None
    return f"{directory.path.absolute()}{below[1]}" if below else lookups.get(node, node)
