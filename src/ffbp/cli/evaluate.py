"""The command that asks a trained model: its test, pictures of one's own, and what it is exported as."""

import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from ffbp.cli.words import asks_for_help, read_options, show_options
from ffbp.errors import ConfigError, DataError, one_line
from ffbp.files import PROGRAM

if TYPE_CHECKING:
    from ffbp.algorithms import Algorithm


@dataclass
class EvaluateOptions:
    """What `evaluate` can be told."""

    run: Annotated[str, "a run directory or a checkpoint"]
    images: Annotated[list[str], "pictures to classify: a file, a folder or a pattern; several as [one,another]"] = (
        field(default_factory=list)
    )
    invert: Annotated[Literal["auto", "true", "false"], "whether they are dark on bright; auto finds out"] = "auto"
    goodness: Annotated[bool, "true to print Forward-Forward's goodness by layer and label"] = False
    export: Annotated[str, "onnx to write model.onnx into the run, or the name of a file that ends in .onnx"] = ""
    pixels: Annotated[Literal["float", "uint8"], "what an exported model takes: floats in [0, 1], or 0 to 255"] = (
        "float"
    )
    save: Annotated[str, "a folder for what the model sees of each picture"] = ""
    data_dir: Annotated[str, "where downloadable data sets are; else where the run had them, or FFBP_DATA_DIR"] = ""
    data_path: Annotated[str, "where its images are, if they are your own and no longer where they were"] = ""
    trust: Annotated[list[str], "packages whose classes the run may name, such as [mine]"] = field(default_factory=list)
    debug: Annotated[bool, "true for tracebacks in place of one line"] = False


EVALUATE_HELP = """Test a finished run again, or ask what its model sees in pictures of your own.

  {0} run=logs/ff/...
  {0} run=logs/ff/... images=seven.png
  {0} run=logs/ff/... 'images=[seven.png,scans/,photos/*.jpg]' goodness=true save=seen
  {0} run=logs/ff/... export=onnx

A line for each picture: file, class, score, and the next two. Drawings for a model of digits may be of any size, place,
colour and light; for other data sets, pictures are scaled as they are. An exported model takes images, (N, C, H, W),
and gives a score to each class."""


def evaluate() -> int:
    """Print a run's test metrics again, or what its model sees in pictures; or export the model."""
    if asks_for_help(sys.argv[1:]):
        show_options(EvaluateOptions, EVALUATE_HELP.format(PROGRAM.format("evaluate")))
        return 0
    # as `train` calls them
    words = [re.sub(r"\A(?:paths\.(data_dir)|data\.(path))=", _as_option, word) for word in sys.argv[1:]]
    options = read_options(EvaluateOptions, words)
    if not options.images and (options.goodness or options.save):
        raise ConfigError("goodness= and save= are about pictures; say which by images=.")
    if options.export and options.images:
        raise ConfigError("export= is about the model alone, without images=.")
    if options.pixels != "float" and not options.export:
        raise ConfigError("pixels= is about export=.")
    from ffbp.lifecycle.load import load

    model = load(options.run, trust=options.trust)
    if options.export:
        return _export(options, model)
    if options.images:
        return _read(options, model)
    from ffbp.evaluation import test_metrics

    print(json.dumps(test_metrics(model, options.data_dir, Path(options.run), options.data_path), indent=2))
    return 0


def _as_option(found: re.Match[str]) -> str:
    return "data_dir=" if found[1] else "data_path="


def _export(options: EvaluateOptions, model: "Algorithm") -> int:
    """Write the model as ONNX, and say how large it is and how well it agrees."""
    from ffbp.export import export_onnx, path_of

    run = Path(options.run)
    made = export_onnx(model, path_of(run, options.export), run=run, pixels=options.pixels)
    print(
        f"{one_line(made.path)} ({made.size / 1e6:.2f} MB): ONNX Runtime's scores differ from PyTorch's by at most "
        f"{made.difference:.0e} of the largest"
    )
    return 0


def _read(options: EvaluateOptions, model: "Algorithm") -> int:
    """Print what the model sees in pictures."""
    from ffbp.evaluation import answers, frame_of, read_images, save_images
    from ffbp.lifecycle.places import has_own_images

    invert = None if options.invert == "auto" else options.invert == "true"
    paths = [Path(name) for name in options.images]
    own = has_own_images(model.settings["data"])
    pictures = read_images(paths, model.stack.image_shape, invert, frame_of(model.settings), own=own)
    for line in pictures.skipped:
        print(f"skipped: {one_line(line)}", file=sys.stderr)
    for file, blank in zip(pictures.files, pictures.blank, strict=True):
        if blank:
            print(f"{one_line(file)}: blank; nothing is drawn on it", file=sys.stderr)
    for line in answers(model, pictures, options.goodness):
        print(line)
    if options.save:
        save_images(pictures, Path(options.save))
    if pictures.skipped:
        several = len(pictures.skipped) + len(pictures.files)
        raise DataError(f"{len(pictures.skipped)} of {several} pictures could not be read; they are named above.")
    return 0
