"""The page as one HTML file: its parts, its networks, and what a browser may do with it."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from ffbp.algorithms import Algorithm
from ffbp.demo.export import describe
from ffbp.errors import CheckpointError, ConfigError, one_line
from ffbp.files import write_text
from ffbp.lifecycle.directory import RunDirectory
from ffbp.lifecycle.load import load
from ffbp.metrics import read_metrics

MARKER = "<!-- written by ffbp demo -->"
"""The second line of the file, by which it is known as ours to replace."""
SCRIPTS = ("forward.js", "ink.js", "drawing.js", "hands.js", "cards.js", "page.js")
MOST_BYTES = 30_000_000
NAMES = {"ff": "Forward-Forward", "bp": "Backpropagation"}


def write_demo(runs: Sequence[Path], path: Path, *, trust: Sequence[str] = ()) -> int:
    """Write the page of some trained networks; return its size in bytes.

    Raises:
        ConfigError: if the page does not know a network, or the file is there and somebody else's.
        CheckpointError: if a run is missing, damaged or not to be trusted.
    """
    require_own(path)
    text = page_of([_described(load(run, trust=trust), run) for run in runs])
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{path}: would have {len(text) / 1e6:.0f} MB; show fewer or smaller networks.")
    write_text(path, text)
    return path.stat().st_size


def require_own(path: Path) -> None:
    """Raise a ConfigError if there is a file that this program has not written."""
    if not (path.is_symlink() or path.exists()):
        return
    ours = False
    if path.is_file() and not path.is_symlink():
        with path.open("rb") as file:
            ours = file.read(200).decode("utf-8", "replace").splitlines()[1:2] == [MARKER]
    if not ours:
        raise ConfigError(f"{path}: was not written by demo; choose another out=.")


def page_of(networks: Sequence[dict[str, Any]]) -> str:
    """The HTML of a page with networks from `describe`, each with a title, sizes, accuracy and run."""
    folder = Path(__file__).parent
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    data = json.dumps(networks).replace("<", "\\u003c")  # so that no text in it ends the script that carries it
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src blob: data:; "
        f"base-uri 'none'; form-action 'none'"
    )
    number = {1: "A network that was trained on handwritten digits reads it", 2: "Two networks read it"}
    who = number.get(len(networks), f"{len(networks)} networks read it")
    lead = f"{who} as you draw. Draw with mouse, pen or finger, or drop a picture anywhere on this page."
    seen = "found on the paper, scaled and centred like the digits they were trained on"
    template = Environment(loader=PackageLoader("ffbp.demo", "."), autoescape=True).get_template("page.html.j2")
    return template.render(
        marker=Markup(MARKER), policy=Markup(policy), lead=lead, seen=seen, style=Markup(style), script=Markup(script),
        networks=Markup(data),
    )  # fmt: skip


def _described(model: Algorithm, run: Path) -> dict[str, Any]:
    described = describe(model, str(run))
    layers = [*described["layers"], described["head"]]
    maps = "-".join(str(layer["units"]) for layer in layers if layer["kind"] == "conv")
    units = "-".join(str(layer["units"]) for layer in layers if layer["kind"] == "dense")
    sizes = f"{maps} maps, {units} units" if maps else f"{described['size'] ** 2}-{units}"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return described | {
        "title": NAMES[one_line(model.settings["algo"]["name"])],
        "sizes": f"{sizes}, {parameters:,} parameters",
        "accuracy": _accuracy(run),
        "run": one_line(run),
    }


def _accuracy(run: Path) -> str:
    """What a finished run has reached on its test images; nothing if that is not known."""
    try:
        metrics = read_metrics(RunDirectory(run).metrics)
    except CheckpointError:
        return ""
    return f"{100 * metrics['test/acc']:.2f} % of the test images right" if metrics else ""


def _hash(text: str) -> str:
    """How a Content-Security-Policy names an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
