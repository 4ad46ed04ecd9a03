"""A trained model's answer as one ONNX graph, from images to the scores of the classes.

    python evaluate.py run=logs/ff/... export=onnx

The graph takes `images`, float32 in [0, 1], or uint8 if that is asked for, of shape (N, C, H, W) with any N, and gives
`scores`, float32 of shape (N, classes): what `model(images)` gives, by the read-out that the run names. Its metadata
say what it was trained for.
"""

import json
import logging
import warnings
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ffbp import __version__
from ffbp.algorithms import Algorithm
from ffbp.errors import ConfigError, one_line
from ffbp.evaluation import class_names
from ffbp.files import write_bytes

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
PRODUCER = "ffbp"
"""Stands in the first bytes of a file, by which it is known as ours to replace."""
OPSET = 20
TRIED, TOLERANCE = 16, 1e-4
"""How many images are shown to both, and by which share of the largest score they may differ."""
LARGEST = 2**31
"""Bytes that a file of this format may have."""

Pixels = Literal["float", "uint8"]


class Exported(NamedTuple):
    """What came of an export."""

    path: Path
    size: int  # bytes
    difference: float  # the largest one between the scores of ONNX Runtime and PyTorch, as a share of the largest score


class Graph(nn.Module):
    """A model's answer to images, in the form in which it is exported."""

    def __init__(self, model: Algorithm, pixels: Pixels) -> None:
        super().__init__()
        self.model, self.pixels = model, pixels

    def forward(self, images: Tensor) -> Tensor:
        return self.model.answer(images.float() / 255 if self.pixels == "uint8" else images).float()


def path_of(run: Path, export: str) -> Path:
    """Where `export=` is written: a file that it names, or for `onnx` model.onnx beside the run's other files."""
    if export != "onnx":
        return Path(export)
    return (run.parent if run.is_file() else run) / "model.onnx"


def export_onnx(model: Algorithm, path: Path, *, run: Path, pixels: Pixels = "float") -> Exported:
    """Write a loaded model as ONNX, after ONNX Runtime has given the answers that PyTorch gives.

    Args:
        model: from `ffbp.load`; it stays as it is.
        path: the file to write, ending in .onnx.
        run: where the model was loaded from, whose name the file keeps.
        pixels: what the graph takes, float in [0, 1] or uint8.

    Raises:
        ConfigError: if a package is missing, the rule cannot be exported, or somebody else's file is there.
        ResourceError: if the file cannot be written.
    """
    require_packages()
    require_own(path)
    graph = Graph(deepcopy(model).float().cpu().eval(), pixels)
    try:
        content = _content(graph, _metadata(model, run, pixels))
        difference = _difference(graph, content)
    except ConfigError:
        raise
    except Exception as error:  # whatever the exporter or ONNX Runtime meets in a rule that it cannot follow
        rule, reason = type(model).__name__, one_line(error, 300)
        raise ConfigError(f"export=: {rule} cannot be written as ONNX ({reason}).") from error
    if not difference <= TOLERANCE:
        raise ConfigError(f"export=: ONNX Runtime's scores differ from PyTorch's by {difference:.1e} of the largest.")
    write_bytes(path, content)
    return Exported(path, len(content), difference)


def require_packages() -> None:
    """Raise a ConfigError that names what to install, if a package is missing."""
    for name in PACKAGES:
        try:
            import_module(name)
        except ImportError as error:
            raise ConfigError(f"export=: needs {name}, which is not installed: pip install 'ffbp[export]'") from error


def require_own(path: Path) -> None:
    """Raise a ConfigError for a file that this program has not written, or a name that is not one of ONNX."""
    if path.suffix != ".onnx":
        raise ConfigError(f"export={path}: onnx, or a file that ends in .onnx, expected.")
    if not (path.is_symlink() or path.exists()):
        return
    ours = False
    if path.is_file() and not path.is_symlink():
        with path.open("rb") as file:
            ours = PRODUCER.encode() in file.read(32)
    if not ours:
        raise ConfigError(f"{path}: was not written by export=; choose another file.")


def _metadata(model: Algorithm, run: Path, pixels: Pixels) -> dict[str, str]:
    settings = model.settings
    return {
        "run": one_line(run.absolute().name),  # not its folders, which are somebody's own
        "algo": one_line(settings["algo"].get("name")),
        "model": one_line(settings["model"].get("name")),
        "data": one_line(settings["data"].get("name") or settings["data"].get("source")),
        "class_names": json.dumps(class_names(settings)),
        "input_shape": json.dumps(["N", *model.stack.image_shape]),
        "input_scale": "0 to 255" if pixels == "uint8" else "0 to 1",
        "scores": "goodness of each label" if model.readout == "goodness" else "logits",
    }


def _content(graph: Graph, metadata: dict[str, str]) -> bytes:
    """The file of a graph, checked by onnx."""
    import onnx

    shape = graph.model.stack.image_shape
    example = torch.zeros(2, *shape, dtype=torch.uint8 if graph.pixels == "uint8" else torch.float32)
    count = torch.export.Dim("N", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of PyTorch's own parts
        program = torch.onnx.export(
            graph, (example,), dynamo=True, dynamic_shapes=({0: count},), input_names=["images"],
            output_names=["scores"], opset_version=OPSET, verbose=False,
            optimize=False,  # which takes the eps of a normalisation, 1e-8, for 0 (onnxscript 0.7)
        )  # fmt: skip
        assert program is not None
        proto = program.model_proto
    proto.producer_name, proto.producer_version = PRODUCER, __version__
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]  # which name the files of this machine
    del proto.graph.metadata_props[:]
    onnx.helper.set_model_props(proto, metadata)
    if proto.ByteSize() >= LARGEST:
        raise ConfigError(f"export=: the model has {proto.ByteSize():,} bytes, and ONNX holds {LARGEST:,}.")
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ConfigError(
            f"export=: {type(graph.model).__name__} fixes the number of images in its graph; its answer must take "
            f"it from images.shape[0], which len(images) does not."
        )
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    return content


def _difference(graph: Graph, content: bytes) -> float:
    """The largest difference between ONNX Runtime's scores and PyTorch's, as a share of the largest score."""
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (TRIED, *graph.model.stack.image_shape), dtype=np.uint8)
    pixels[0], pixels[1] = 0, 255  # layers may be silent on a black image
    images: Any = pixels if graph.pixels == "uint8" else pixels.astype(np.float32) / 255
    with torch.no_grad():
        wanted = graph(torch.from_numpy(images)).numpy()
    found = np.concatenate([session.run(None, {"images": part})[0] for part in (images[:1], images[1:])])
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), np.finfo(np.float32).tiny))
