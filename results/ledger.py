"""Every learning rule on the same networks and images: search learning rates, train three seeds, keep what came out.

python results/ledger.py tune mlp [row ...]      # learning rates by validation accuracy, see `tune`
python results/ledger.py run mnist_mlp [row ...] # three seeds at the learning rate found
python results/ledger.py cost mlp [row ...]      # seconds, memory and multiply-adds, on an idle machine
What is finished in logs/ledger is not trained again. FFBP_DATA_DIR says where the images are.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from recorded import recorded

from ffbp.report.runs import Run, find_runs

RESULTS = Path(__file__).parent
ROOT = RESULTS.parent
LOGS = ROOT / "logs" / "ledger"
TUNING, RUNS, COSTS = (RESULTS / f"ledger{name}.json" for name in ("_tuning", "", "_costs"))

ADAM = (3e-4, 1e-3, 3e-3)
GROWTH = 10**0.5  # from one learning rate that is tried to the next, rounded to a digit
MOST = 5  # learning rates that are tried for a row


class Row(NamedTuple):
    """A rule as the ledger has it."""

    title: str
    words: tuple[str, ...]  # settings that make it
    rates: tuple[float, ...] = ADAM  # learning rates to try first
    networks: tuple[str, ...] = ("mlp", "cnn")  # where it stands


ROWS = {
    "bp": Row("backpropagation", ("algo=bp",)),
    "deep_supervision": Row("deep supervision", ("algo=local_loss", "algo.loss=pred", "algo.cut=False")),
    "pred": Row("local loss, pred", ("algo=local_loss", "algo.loss=pred")),
    "predsim": Row("local loss, predsim", ("algo=local_loss", "algo.loss=predsim")),
    "bp_norm": Row("backpropagation, batch norm", ("algo=bp", "model.batch_norm=True"), networks=("mlp",)),
    "predsim_norm": Row(
        "local loss, predsim, batch norm",
        ("algo=local_loss", "algo.loss=predsim", "model.batch_norm=True"),
        networks=("mlp",),
    ),
    "mono_forward": Row(
        "Mono-Forward", ("algo=local_loss", "algo.loss=pred", "algo.readout=sum", "algo.readout_inputs=null")
    ),
    "sign": Row("sign symmetry", ("algo=feedback", "algo.feedback=sign")),
    "fa": Row("feedback alignment", ("algo=feedback", "algo.feedback=fa")),
    "dfa": Row("direct feedback alignment", ("algo=feedback", "algo.feedback=dfa")),
    "drtp": Row("direct random target projection", ("algo=feedback", "algo.feedback=drtp")),
    "pepita": Row("PEPITA", ("algo=pepita",), (0.03, 0.1, 0.3), networks=("mlp",)),  # it refuses pooling
    "class_groups": Row("class groups", ("algo=class_groups",)),
    "predictive_coding": Row("predictive coding", ("algo=predictive_coding",)),
    "forward_gradient": Row("forward gradient, by activities", ("algo=forward_gradient",)),
    "ff": Row("Forward-Forward", ("algo=ff",)),
    "softhebb": Row("SoftHebb", ("algo=softhebb",), (0.01, 0.03, 0.1)),
    "random_features": Row("random features", ("algo=random_features",)),
}
NETWORKS = {
    "mlp": ("model=mlp", "model.widths=[500,500]", "model.input_dropout=0.2"),
    "cnn": ("model=cnn", "model.batch_norm=True"),
}
OF_NETWORK = {  # what a row needs there
    "mlp": {"drtp": ("model.activation=tanh",)},
    "cnn": {"class_groups": ("algo.readout=last",)},
}
OF_TABLE = {"fashion_mlp": {"predictive_coding": ("algo.rate=0.001",)}}  # at 0.01, its activities overshoot there
EPOCHS = {"mlp": 20, "cnn": 5}
TUNING_EPOCHS = {"mlp": 5, "cnn": 1}
TABLES = {"mnist_mlp": ("mnist", "mlp"), "mnist_cnn": ("mnist", "cnn"), "fashion_mlp": ("fashion_mnist", "mlp")}


def sweep(directory: Path, words: Iterable[str]) -> list[Run]:
    """Train the jobs of a sweep that are not finished, and read all that are: one that met NaN never is.

    Raises:
        SystemExit: if a job was killed or interrupted, which says nothing of its settings.
    """
    command = [sys.executable, str(ROOT / "train.py"), "-m", f"hydra.sweep.dir={directory}", *words]
    directory.mkdir(parents=True, exist_ok=True)
    with Path(f"{directory}.log").open("a") as log:
        subprocess.run(
            command, cwd=ROOT, env={"OMP_NUM_THREADS": "1", **os.environ}, stdout=log, stderr=log, check=False
        )
    found = find_runs(directory)
    if stopped := [run for run in found.unfinished if "NaN" not in run.reason]:
        sys.exit(f"{directory / stopped[0].directory}: {stopped[0].reason or stopped[0].state}; then start this again.")
    return found.runs


def keep(path: Path, table: str, row: str, content: dict[str, Any]) -> None:
    """Write one row of a table into a file that may have others."""
    found = json.loads(path.read_text()) if path.exists() else {}
    found.setdefault(table, {})[row] = content
    lines = [
        f"{json.dumps(table)}: {{\n"
        + ",\n".join(f" {json.dumps(name)}: {json.dumps(rows[name])}" for name in rows)
        + "}"
        for table, rows in found.items()
    ]
    path.write_text("{" + ",\n".join(lines) + "}\n")


def tune(network: str, names: list[str]) -> None:
    """Find a learning rate for each row: the best validation accuracy of one seed after a shorter training.

    Three rates are tried for every row, half a power of ten apart; while the best one lies at the edge, one more beyond
    it, at most five in all. A rate that ends in NaN counts as an accuracy of 0.
    """
    for name in names:
        row, found = ROWS[name], {}
        wanted = list(row.rates)
        while wanted and len(found) < MOST:
            model = [word for word in NETWORKS[network] if "dropout" not in word]  # which a short training needs least
            words = [*model, *row.words, *OF_NETWORK[network].get(name, ()), "data=mnist", "seed=0"]
            rates = [f"{rate:g}" for rate in wanted]
            words += [f"trainer.max_epochs={TUNING_EPOCHS[network]}", f"algo.optimizer.lr={','.join(rates)}"]
            found |= dict.fromkeys(wanted, 0.0)
            for run in sweep(LOGS / f"tune_{network}" / "_".join([name, *rates]), words):
                [rate] = [word for word in run.overrides if word.startswith("algo.optimizer.lr=")]
                found[float(rate.partition("=")[2])] = run.metrics["val/acc"]
            best = max(found, key=lambda rate: found[rate])
            low, high = min(found), max(found)
            wanted = [float(times(best, 1 / GROWTH if best == low else GROWTH))]
            wanted = wanted if best in (low, high) else []
        accuracy = {f"{rate:g}": found[rate] for rate in sorted(found)}
        keep(TUNING, network, name, {"lr": best, "val/acc": accuracy, "epochs": TUNING_EPOCHS[network]})
        print(network, name, f"{best:g}", accuracy, flush=True)


def run(table: str, names: list[str]) -> None:
    """Train a table's rows with seeds 0, 1 and 2, with the learning rate that is best on seed 0's validation images.

    A long training may want a smaller learning rate than the short one that `tune` looked at: the rate found and the
    one below it are both trained in full.
    """
    data, network = TABLES[table]
    tuned = json.loads(TUNING.read_text())[network]
    for name in names:
        words = [*NETWORKS[network], *ROWS[name].words, *OF_NETWORK[network].get(name, ())]
        words += [*OF_TABLE.get(table, {}).get(name, ()), f"data={data}"]
        words += [
            f"trainer.max_epochs={EPOCHS[network]}",
            "callbacks=alignment",
            "callbacks.alignment.every_n_steps=50",
        ]
        place, rate = LOGS / table / name, tuned[name]["lr"]
        rates = (f"{rate:g}", times(rate, 1 / GROWTH))
        tried = {each: validated(place, [*words, f"algo.optimizer.lr={each}"]) for each in rates}
        words.append(f"algo.optimizer.lr={max(tried, key=lambda each: tried[each])}")
        runs = [recorded(run, kinds=("alignment/",)) for run in full_runs(place, words, "0,1,2")]
        if len(runs) < 3:
            sys.exit(f"{name}: {len(runs)} of 3 runs finished, see {place}.log")
        command = f"python train.py -m {' '.join(words)} seed=0,1,2"
        keep(RUNS, table, name, {"command": command, "lr": words[-1].partition("=")[2], "val/acc": tried, "runs": runs})
        print(table, name, tried, [each["metrics"]["test/acc"] for each in runs], flush=True)


def times(rate: float, factor: float) -> str:
    """A learning rate times a factor, rounded to a digit, as a command has it."""
    return f"{float(f'{rate * factor:.0e}'):g}"


def full_runs(place: Path, words: list[str], seeds: str) -> list[Run]:
    """The finished runs in `place` of exactly these settings, trained now where they are missing."""
    runs = sweep(place, [*words, f"seed={seeds}"])
    return [run for run in runs if {*run.overrides} == {*words, f"seed={run.metrics['seed']}"}]


def validated(place: Path, words: list[str]) -> float:
    """The validation accuracy of seed 0, and 0 if it met NaN."""
    return sum(run.metrics["val/acc"] for run in full_runs(place, words, "0") if run.metrics["seed"] == 0)


def cost(network: str, names: list[str]) -> None:
    """Measure what each row costs, one after the other, in an epoch of MNIST; `time/epoch_seconds` is the best of two.

    Figures of the runs themselves would depend on what else ran at the time.
    """
    for name in names:
        words = [*NETWORKS[network], *ROWS[name].words, *OF_NETWORK[network].get(name, ()), "data=mnist"]
        runs = sweep(LOGS / f"cost_{network}" / name, [*words, "trainer.max_epochs=1", "seed=0,1"])
        first, *_ = (run.metrics for run in sorted(runs, key=lambda run: run.metrics["time/epoch_seconds"]))
        costs = {key: first[key] for key in ("time/epoch_seconds", "memory/step_mib", "work/train_macs")}
        keep(
            COSTS, network, name, costs | {key: first[key] for key in ("work/answer_macs", "device", "threads", "git")}
        )
        print(network, name, costs, flush=True)


def main() -> None:
    what, where, *names = sys.argv[1:]
    network = TABLES[where][1] if what == "run" else where
    rows = names or [name for name, row in ROWS.items() if network in row.networks]
    {"tune": tune, "run": run, "cost": cost}[what](where, rows)


if __name__ == "__main__":
    main()
