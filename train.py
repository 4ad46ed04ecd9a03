"""Train an algorithm on a model and test it.

python train.py algo=ff trainer.max_epochs=100
python train.py -m algo=bp,ff seed=0,1,2
python train.py resume=logs/ff/2026-01-01_12-00-00-000000
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from ffbp.command_line import compose_and_run, exit_code_of


def start(config: DictConfig, directory: Path) -> None:
    """Start a run in a new directory."""
    from ffbp.start import start_run  # here, so that a mistyped setting need not wait for PyTorch

    start_run(config, directory)


def resume() -> None:
    """Go on in the directory of a run that was broken off."""
    from ffbp.start import resume_run

    resume_run(sys.argv[1:])


if __name__ == "__main__":
    if any(word.startswith("resume=") and word not in ("resume=", "resume=null") for word in sys.argv[1:]):
        sys.exit(exit_code_of(resume, debug="debug=true" in sys.argv))
    compose_and_run(start, "train")
