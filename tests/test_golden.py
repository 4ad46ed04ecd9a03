"""The losses of the first 20 steps are those that were written down: python tests/test_golden.py writes them anew."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import lightning.pytorch as pl
import pytest
from conftest import settings

from ffbp.lifecycle import train as run

GOLDEN = Path(__file__).parent / "fixtures" / "golden.json"
STEPS = 20
TOLERANCE = 2e-4  # relative: what another processor's order of summation changes in 20 steps
CASES = {
    "bp": ("algo=bp", "model=mlp", "model.widths=[32]"),
    "ff": ("algo=ff", "model=mlp", "model.widths=[32,16]", "data.shift=1"),
}


class Losses(pl.Callback):
    """Note what each step adds to the epoch's sums: the read-out's loss, and each layer's."""

    noted: list[list[float]]

    def on_train_start(self, trainer, pl_module):
        self.before = self.sums(pl_module)
        Losses.noted = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        before, self.before = self.before, self.sums(pl_module)
        Losses.noted.append([(after - before[name]) / len(batch.labels) for name, after in self.before.items()])

    @staticmethod
    def sums(algorithm):
        """Of what the golden steps record: a sum for each loss; 0 before the first batch."""
        layers = [f"ff/layer_{k}/loss" for k in range(len(algorithm.stack.blocks))]
        sums = dict.fromkeys(["train/loss", *(layers if hasattr(algorithm, "layer_losses") else [])], 0.0)
        for names, totals, _ in algorithm.train_means.state():
            sums |= {name: total for name, total in zip(names, totals.tolist(), strict=True) if name in sums}
        return sums


def first_losses(case: str, directory: Path) -> list[list[float]]:
    chosen = settings(*CASES[case], "trainer.max_epochs=1", f"trainer.limit_train_batches={STEPS}")
    chosen["callbacks"] = {"losses": {"_target_": f"{Losses.__module__}.Losses"}}
    run.train(chosen, directory, bar=False)
    return Losses.noted


@pytest.mark.parametrize("case", CASES)
def test_the_first_losses_are_the_golden_ones(case, tmp_path):
    golden = json.loads(GOLDEN.read_text())[case]
    found = first_losses(case, tmp_path)
    assert len(found) == len(golden) == STEPS
    for losses, expected in zip(found, golden, strict=True):
        assert losses == pytest.approx(expected, rel=TOLERANCE)


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        written = {case: first_losses(case, Path(name) / case) for case in CASES}
    GOLDEN.write_text(json.dumps(written, indent=1) + "\n")
