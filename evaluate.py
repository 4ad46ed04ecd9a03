"""Ask a finished run: its test metrics again, or what it sees in images of your own.

python evaluate.py run=logs/ff/2026-01-01_12-00-00-000000
python evaluate.py run=logs/ff/2026-01-01_12-00-00-000000 images=[seven.png,digits/]
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ffbp.command_line import exit_code_of, read_options


@dataclass
class Options:
    """run: a run directory or a checkpoint.

    images: files or folders of white digits on black; invert=true for black on white.
    """

    run: str = "???"
    images: list[str] = field(default_factory=list)
    invert: bool = False
    data_dir: str = "${oc.env:FFBP_DATA_DIR,data}"
    trust: list[str] = field(default_factory=list)
    debug: bool = False


def main() -> None:
    """Print test metrics, or what the model sees in images."""
    options = read_options(Options)
    from ffbp.evaluation import read_images, test_metrics
    from ffbp.run import load

    model = load(options.run, trust=options.trust)
    if not options.images:
        print(json.dumps(test_metrics(model, options.data_dir), indent=2))
        return
    names, images = read_images([Path(name) for name in options.images], model.stack.image_shape, options.invert)
    for name, label in zip(names, model.predict(images).tolist(), strict=True):
        print(f"{name}\t{label}")


if __name__ == "__main__":
    sys.exit(exit_code_of(main, debug="debug=true" in sys.argv))
