"""Text files that are whole at every moment."""

from pathlib import Path

from ffbp.errors import ResourceError


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step, and make its folder where there is none.

    Raises:
        ResourceError: if the folder cannot be written or the disk is full.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(text)
        new.replace(path)
    except OSError as error:
        raise ResourceError(
            f"{path}: cannot be written ({error.strerror}); free the disk or choose another folder."
        ) from error
