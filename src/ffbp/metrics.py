"""metrics.json, which only a finished run has: what may stand in it, whoever wrote it."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, TypeAdapter, ValidationError

from ffbp.errors import CheckpointError, one_line
from ffbp.plain_text import read_json
from ffbp.settings import Seed


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("printable characters expected.")
    return text


Text = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Number = Annotated[float, Field(gt=-1e30, lt=1e30, strict=True)]  # of which many can be added up
Accuracy = Annotated[float, Field(ge=0, le=1, strict=True)]
Cost = Annotated[float, Field(ge=0, lt=1e18, strict=True)]
Whole = Annotated[int, Field(ge=0, le=10**15, strict=True)]


class Metrics(BaseModel, extra="allow"):
    """What is common to all runs, and by what kind of name or number anything else is given."""

    __pydantic_extra__: dict[Text, Text | Number | None]

    algo: Text
    model: Text
    data: Text
    seed: Seed
    epochs: Whole
    parameters: Whole
    accuracy: Annotated[Accuracy, Field(alias="test/acc")]
    seconds: Annotated[float, Field(alias="time/train_seconds", ge=0, lt=1e12, strict=True)]
    validation: Annotated[Accuracy | None, Field(alias="val/acc")] = None
    # where they were measured
    step_memory: Annotated[Cost | None, Field(alias="memory/step_mib")] = None
    train_macs: Annotated[Cost | None, Field(alias="work/train_macs")] = None
    answer_macs: Annotated[Cost | None, Field(alias="work/answer_macs")] = None


READOUTS = TypeAdapter(dict[str, Accuracy | None])


def read_metrics(path: Path) -> dict[str, Any] | None:
    """Read a metrics.json, None where there is none.

    Raises:
        CheckpointError: if it is damaged, or not of this program.
    """
    if not path.is_symlink() and not path.exists():
        return None
    try:
        found = read_json(path)
        Metrics.model_validate(found)
        READOUTS.validate_python({name: found[name] for name in found if name.startswith("test/acc_")})
    except ValidationError as error:
        first = error.errors()[0]
        wrong = ".".join(map(str, first["loc"][:1])) or "all of it"
        raise CheckpointError(f"{path}: damaged ({wrong} is {one_line(first['input'], 50)!r}){ADVICE}") from error
    return found


ADVICE = "; remove it, and resume its run to test it again."
