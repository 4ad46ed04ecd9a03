"""How many drawn digits trained networks read, by the way in which they were drawn: results/drawings.json.

python results/drawings.py logs/ff/... logs/bp/...

The pictures are those of tests/tools/drawn_digits.py, drawn from a seed that nobody looked at while the steps that find
the digit in a picture were written.
"""

import json
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import ffbp
from ffbp.evaluation import frame_of, read_images

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests" / "tools"))

from drawn_digits import write  # noqa: E402 - found there

SEED, PER_WAY = 1000, 2


def main() -> None:
    found = {"seed": SEED, "runs": {}}
    with tempfile.TemporaryDirectory() as folder:
        drawn = write(Path(folder), PER_WAY, SEED)
        for run in sys.argv[1:]:
            model = ffbp.load(run)
            pictures = read_images(
                [path for path, *_ in drawn], model.stack.image_shape, None, frame_of(model.settings)
            )
            assert not pictures.skipped
            answers = model.predict(pictures.images).tolist()
            right: dict[str, list[bool]] = defaultdict(list)
            for (_, digit, way), answer, blank in zip(drawn, answers, pictures.blank, strict=True):
                right[way].append(answer == digit and not blank)
            metrics = json.loads(Path(run, "metrics.json").read_text())
            kept = {name: metrics[name] for name in ("algo", "model", "seed", "epochs", "test/acc", "git")}
            share = sum(sum(of_way) for of_way in right.values()) / len(drawn)
            ways = {way: f"{sum(of_way)} of {len(of_way)}" for way, of_way in right.items()}
            found["runs"][kept["algo"]] = {**kept, "read": share, "pictures": len(drawn), "ways": ways}
            print(kept["algo"], kept["model"], f"{100 * share:.1f} % of {len(drawn)}")
    (ROOT / "results" / "drawings.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
