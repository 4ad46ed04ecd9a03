"""Where the package's own files lie, and files that are complete at every moment."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffbp.errors import ResourceError

_PACKAGE = Path(__file__).parent

CHECKOUT = None if (_PACKAGE / "conf").is_dir() else _PACKAGE.parents[1]
"""The repository that the package is used from, None where it is installed."""

CONF = (CHECKOUT or _PACKAGE) / "conf"
"""The settings that there are: the checkout's own, or those that the installed package carries."""

PROGRAM = "python {}.py" if CHECKOUT else "ffbp {}"
"""How a command is typed here: `PROGRAM.format("train")`."""


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step, and make its folder where there is none."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step, and make its folder where there is none."""
    new = path.with_name(f".{path.name}.new")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)  # it might be a link that leads elsewhere
        with new.open("xb") as file:
            file.write(content)
        new.replace(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise a ResourceError if the folder of a file cannot be written or the disk is full."""
    try:
        yield
    except OSError as error:
        advice = "free the disk or choose another folder"
        raise ResourceError(f"{path}: cannot be written ({error.strerror}); {advice}.") from error
