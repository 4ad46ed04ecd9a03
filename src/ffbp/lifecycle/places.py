"""Where the images of a run are: what is kept of it, and when a saved run may say it.

A checkpoint does not say where its images are. Of images of one's own it keeps a fingerprint, and the run's config.yaml
keeps their place. A saved run may come from a stranger and name a folder of private pictures: nothing of what lies
there gets into a run, or into a test, unless its fingerprint is the checkpoint's.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ffbp.errors import CheckpointError
from ffbp.lifecycle.directory import RunDirectory, previous_of
from ffbp.plain_text import read_yaml
from ffbp.settings import Settings

OWN_IMAGES = re.compile(r"ffbp\.data\.(\w+\.)*(FolderData|NpzData)")
OTHER_IMAGES = (
    "trained on other images than its data.path contains today; name the place of its own with data.path=, or start a "
    "new run."
)


def has_own_images(data: Mapping[str, Any]) -> bool:
    """Whether settings of data name a place of images of one's own."""
    return bool(OWN_IMAGES.fullmatch(str(data.get("_target_"))))


def with_whole_path(data: Settings) -> Settings:
    """Settings of data as a run keeps them: the place of one's own images is found from any folder."""
    if not has_own_images(data) or not isinstance(data.get("path"), str):
        return data
    return data | {"path": str(Path(data["path"]).expanduser().absolute())}


def without_places(data: Settings) -> Settings:
    """Settings of data as a checkpoint keeps them, without paths of this machine."""
    places = ("data_dir", "path") if has_own_images(data) else ("data_dir",)
    return {name: None if name in places else value for name, value in data.items()}


def require_known_images(settings: Settings, directory: RunDirectory) -> None:
    """Raise a CheckpointError if a saved run names a place of images, and has no checkpoint to know them by."""
    checkpoints = (directory.last, previous_of(directory.last))
    if has_own_images(settings["data"]) and not any(path.exists() for path in checkpoints):
        raise CheckpointError(
            f"{directory}: has no checkpoint yet, by which its images would be known; say that they are yours with "
            f"data.path={settings['data'].get('path')}, or start a new run."
        )


def folder_of_data(run: Path) -> str:
    """The folder of downloadable data sets that a saved run names, if it is there; else nothing."""
    try:
        folder = str(_settings_beside(run)["paths"]["data_dir"])
        return folder if Path(folder).is_dir() else ""
    except (CheckpointError, LookupError, TypeError, OSError):  # the last for a name that is none
        return ""


def place_of_images(run: Path) -> str:
    """Where a saved run, or the run of a checkpoint file, says that its own images are.

    Raises:
        CheckpointError: if it does not say it.
    """
    try:
        place = _settings_beside(run)["data"]["path"]
    except (CheckpointError, LookupError, TypeError):
        place = None
    if not isinstance(place, str):
        raise CheckpointError(f"{run}: does not say where its images are; name their place with data.path=.")
    return place


def _settings_beside(run: Path) -> Any:
    """The settings that a saved run, or the run of a checkpoint file, has kept, as they stand."""
    return read_yaml(RunDirectory(run.absolute().parent.parent if run.is_file() else run).config)
