"""Is the epoch with the highest val/acc better than the last one, whose learning rate has come down to 0? epochs.json.

python train.py -m experiment=control_bp_shifts checkpoint.best=accuracy seed=0,1 hydra.sweep.dir=logs/epochs/control
python results/epochs.py logs/epochs/*

Validation images shifted in nine ways decide, since the highest of many accuracies on them as they are is in part luck.
"""

import json
import sys
from pathlib import Path
from statistics import fmean

from readouts import errors

import ffbp


def error(checkpoint: Path) -> float:
    """The validation error over all shifts, in percent, by the read-out that the experiment names."""
    name = getattr(ffbp.load(checkpoint), "readout", None) or "answer"
    return fmean(float(str(row[name])) for row in errors(checkpoint))


def main(*sweeps: str) -> None:
    path = Path(__file__).with_suffix(".json")
    content = json.loads(path.read_text()) if path.exists() else {}
    for sweep in map(Path, sweeps):
        runs = sorted(sweep.glob("*seed=*"))
        found = {name: [error(run / "checkpoints" / f"{name}.ckpt") for run in runs] for name in ("best", "last")}
        content[sweep.name] = {name: {"error": fmean(errors), "runs": errors} for name, errors in found.items()}
        print(f"{sweep.name}: best {fmean(found['best']):.2f} %, last {fmean(found['last']):.2f} %", flush=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
