"""What groups of runs answered to the test images: whom they confuse, and which images only one of them gets right."""

import base64
import io
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffbp.errors import CheckpointError
from ffbp.report.runs import Group

LARGEST_FILE, LARGEST_ARRAY, MOST_IN_ALL = 16_000_000, 16_000_000, 1_000_000_000  # bytes
MOST_CLASSES, LARGEST_SIDE = 1_000, 256
MOST_COMPARED = 10_000  # test images that the page knows of
MOST_PICTURED, MOST_PIXELS = 2_400, 2_000_000  # test images that it can draw
MOST_IN_MATRIX = 30  # classes
RIGHT, UNDECIDED, CLASSES = ".", " ", "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

Array = NDArray[Any]
DAMAGED = (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, SyntaxError, zipfile.error, zlib.error)


class Answers(NamedTuple):
    """The content of a predictions.npz, see `ffbp.lifecycle.predictions`."""

    labels: Array  # (N,)
    answers: Array  # (N,)
    scores: Array  # (N, classes), logarithms of probabilities
    mistakes: Array  # (M,), numbers of test images
    images: Array  # (M, C, H, W), uint8


def read_answers(path: Path) -> Answers:
    """Read a predictions.npz that somebody else may have written.

    Raises:
        CheckpointError: if it is damaged, too large, or anything else.
    """
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE:
            raise ValueError("an ordinary file of a sensible size expected")
        with zipfile.ZipFile(path) as archive:
            found = Answers(*(_array(archive, name) for name in Answers._fields))
        _check(found)
        whole = [array.astype(np.int32) for array in (found.labels, found.answers, found.mistakes)]
        return Answers(whole[0], whole[1], found.scores, whole[2], found.images)
    except DAMAGED as error:
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"{path}: cannot be read ({reason}); its answers are left out.") from error


def _array(archive: zipfile.ZipFile, name: str) -> Array:
    """An array whose bytes are there; none of objects."""
    with archive.open(f"{name}.npy") as file:
        content = file.read(LARGEST_ARRAY + 1)
    if len(content) > LARGEST_ARRAY:
        raise ValueError(f"{name} is too large")
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, in_columns, dtype = read(stream)
    if in_columns or dtype.hasobject or dtype.itemsize * math.prod(shape) != len(content) - stream.tell():
        raise ValueError(f"{name} is not of the shape that it says")
    return np.frombuffer(content, dtype, offset=stream.tell()).reshape(shape)


def _check(found: Answers) -> None:
    labels, answers, scores, mistakes, images = found
    whole = all(array.dtype.kind in "iu" and array.ndim == 1 for array in (labels, answers, mistakes))
    shaped = scores.dtype == np.float16 and scores.ndim == 2 and images.dtype == np.uint8 and images.ndim == 4
    if not whole or not shaped or not len(labels) == len(answers) == len(scores) or len(images) != len(mistakes):
        raise ValueError("arrays of other types or shapes than ours")
    count, classes = scores.shape
    if not count or not 0 < classes <= MOST_CLASSES or 0 in images.shape[1:]:
        raise ValueError("nothing in it")
    if max(images.shape[2:]) > LARGEST_SIDE or images.shape[1] > 4:
        raise ValueError("images that are too large")
    for numbers, most in ((labels, classes), (answers, classes), (mistakes, count)):
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= most):
            raise ValueError("numbers out of range")


def for_page(groups: Sequence[Group], directory: Path, share: float = 1.0) -> tuple[dict[str, Any] | None, list[str]]:
    """The answers of the groups of one data set for the page, and a line for each file that is left out.

    Args:
        groups: of one data set.
        directory: below which their runs lie.
        share: of the page's room for images.

    Returns:
        None if no run has kept its answers; else `labels` (a text with a class for each test image), `groups` (each
        None, or `runs`, `answers`, like `labels`, but a dot where the group is right and a space where its runs are
        divided, `confusion` and `sure`), `pictured` (numbers of test images), and the `sprite` that shows these.
    """
    read, lines = _read_all(groups, directory)
    first = next((answers for found in read for answers in found), None)
    if first is None:
        return None, lines
    classes, labels = first.scores.shape[1], first.labels
    same = [
        [one for one in found if one.scores.shape[1] == classes and np.array_equal(one.labels, labels)]
        for found in read
    ]
    if left_out := sum(map(len, read)) - sum(map(len, same)):
        lines.append(f"{groups[0].first['data']}: the answers of {left_out} runs are left out, of other test images.")
    if classes > len(CLASSES):
        return None, lines
    codes = [_codes(found, labels) if found else None for found in same]
    kept = [one for found in same for one in found]
    images = {int(n): image for one in kept for n, image in zip(one.mistakes, one.images, strict=True)}
    pictured = _chosen([code for code in codes if code is not None], images, share)
    shown: list[dict[str, Any] | None] = []
    for found, code in zip(same, codes, strict=True):
        if code is None:
            shown.append(None)
            continue
        confusion = sum(np.bincount(labels * np.int64(classes) + one.answers, minlength=classes**2) for one in found)
        shown.append(
            {
                "runs": len(found),
                "answers": "".join(code[:MOST_COMPARED]),
                "confusion": np.asarray(confusion).tolist() if classes <= MOST_IN_MATRIX else None,
                "sure": [_sure(found, number, code[number]) for number in pictured],
            }
        )
    whole = {"classes": classes, "labels": "".join(CLASSES[label] for label in labels[:MOST_COMPARED]), "groups": shown}
    sprite = _sprite([images[number] for number in pictured])
    return {**whole, "images": len(labels), "pictured": pictured, "sprite": sprite}, lines


def _read_all(groups: Sequence[Group], directory: Path) -> tuple[list[list[Answers]], list[str]]:
    """The answers of the runs of each group, and a line for each file that is left out."""
    read: list[list[Answers]] = []
    lines, room = [], MOST_IN_ALL
    for group in groups:
        read.append([])
        for run in group.runs:
            path = directory / run.directory / "predictions.npz"
            if not run.directory or not (path.exists() or path.is_symlink()):
                continue
            try:
                answers = read_answers(path)
            except CheckpointError as error:
                lines.append(str(error))
                continue
            room -= sum(array.nbytes for array in answers)
            if room > 0:
                read[-1].append(answers)
            else:
                lines.append(f"{path}: left out, since all answers together are too large.")
    return read, lines


def _codes(found: Sequence[Answers], labels: Array) -> Array:
    """For each test image, what most runs of a group say: right, undecided, or the wrong class; shape (N,), letters."""
    answers = np.stack([one.answers for one in found])  # (runs, N)
    wrong = (answers != labels).sum(0)  # (N,)
    classes = found[0].scores.shape[1]
    votes = np.stack([((answers == number) & (labels != number)).sum(0) for number in range(classes)])  # (classes, N)
    codes = np.where(wrong * 2 > len(found), np.array(list(CLASSES))[votes.argmax(0)], RIGHT)
    return np.where(wrong * 2 == len(found), UNDECIDED, codes)


def _chosen(codes: Sequence[Array], images: Mapping[int, Array], share: float) -> list[int]:
    """The test images to draw, in order: those in which the groups differ most, as many as there is room for."""
    first = next(iter(images.values()), None)
    if first is None:
        return []
    most = max(1, int(share * min(MOST_PICTURED, MOST_PIXELS // max(1, first.size))))
    wrong = np.sum([(code != RIGHT) & (code != UNDECIDED) for code in codes], axis=0)  # (N,), how many groups
    drawable = [n for n, image in images.items() if n < MOST_COMPARED and wrong[n] and image.shape == first.shape]
    drawable.sort(key=lambda n: (-min(wrong[n], len(codes) - wrong[n]), n))
    return sorted(drawable[:most])


def _sure(found: Sequence[Answers], number: int, code: str) -> int:
    """How probable a group finds its wrong answer to an image, in %, as a mean over its runs."""
    if code in (RIGHT, UNDECIDED):
        return 0
    scores = np.array([one.scores[number, CLASSES.index(code)] for one in found], dtype=float)
    return int(np.nan_to_num(100 * np.exp(scores.clip(max=0.0)).mean()))


def _sprite(images: Sequence[Array]) -> dict[str, Any] | None:
    """Images (C, H, W) in rows of 32, as one PNG; what has other than one or three channels is averaged to grey."""
    if not images:
        return None
    stack = np.stack(images)  # (M, C, H, W)
    if stack.shape[1] not in (1, 3):
        stack = stack.mean(1, keepdims=True).astype(np.uint8)
    count, channels, height, width = stack.shape
    rows = -(-count // 32)
    filled = np.zeros((rows * 32, channels, height, width), np.uint8)
    filled[:count] = stack
    sheet = filled.reshape(rows, 32, channels, height, width).transpose(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * height, 32 * width, channels)
    file = io.BytesIO()
    Image.fromarray(sheet.squeeze(2) if channels == 1 else sheet).save(file, "PNG", optimize=True)
    return {"columns": 32, "height": height, "width": width, "png": base64.b64encode(file.getvalue()).decode("ascii")}
