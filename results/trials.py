"""Search learning rate, weight decay and dropout of experiments and of their controls, with as many trials for each.

Forward-Forward with labels has the brightness of the label as well, in no more trials.

python results/trials.py                        # all of them: many hours
python results/trials.py paper_ff control_bp    # some

Optuna draws twelve trials of an experiment from a grid around its YAML, with seed 0 and a fifth of its epochs; the best
two of them and the YAML as it is are then trained in full. On Fashion-MNIST, those that are long have half as many.
trials.json has the validation accuracy of each: the test images know nothing. What wins is written into the YAML by
hand. What is finished in logs/trials is not trained again.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from ledger import ROOT, sweep, validated
from recorded import recorded

FILE = Path(__file__).with_suffix(".json")
LOGS = ROOT / "logs" / "trials"
# trials, and how many of them are trained in full: the best of a short training need not be the best of a long one
MANY = 12, 2
FEWER = 6, 1  # on Fashion-MNIST, see ON_FASHION
FACTORS = (0.25, 0.5, 1, 2, 4)  # of the YAML's learning rates
DECAYS = (0.0, 0.001, 0.01, 0.03, 0.1)  # decoupled
DROPOUTS = (0.0, 0.1, 0.2, 0.3, 0.4)
PAIRS = {  # an experiment, its control, and the dropout that is searched
    "paper_ff": ("control_bp", "model.input_dropout"),
    "paper_ff_shifts": ("control_bp_shifts", "model.input_dropout"),
    "hinton_supervised": ("hinton_supervised_bp", "model.input_dropout"),
    "hinton_shifts": ("hinton_shifts_bp", "model.input_dropout"),
    "hinton_unsupervised": ("hinton_unsupervised_bp", "model.input_dropout"),
    "self_contrastive": ("self_contrastive_bp", "model.input_dropout"),
    "hinton_local": ("hinton_local_bp", "model.dropout"),
    "conv_ff": ("conv_ff_bp", "model.dropout"),
    "conv_ff_labels": ("conv_ff_bp", "model.dropout"),
    "fashion_ff": ("fashion_bp", "model.input_dropout"),
}
ON_FASHION = {  # the long ones, whose settings begin where the search on MNIST has ended
    "fashion_ff_shifts": ("fashion_bp_shifts", "model.input_dropout"),
    **{
        f"fashion_{name}": (f"fashion_{control}", key)
        for name, (control, key) in PAIRS.items()
        if name.startswith(("hinton", "self", "conv"))
    },
}
PAIRS |= ON_FASHION
BRIGHTNESS = ("1", "2", "4", "8")  # of the label, where white is 1
DROPPED = {name: key for ours, (control, key) in PAIRS.items() for name in (ours, control)}
DROPPED["fashion_paper_bp"] = "model.dropout"  # which controls nothing


def composed(name: str) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [f"experiment={name}"])


def rates(name: str) -> list[str]:
    """The learning rates at each factor, as words of the command line; the head of Forward-Forward keeps its own."""
    given = composed(name).algo.optimizer.lr
    each = [[f"{factor * rate:g}" for rate in ([given] if isinstance(given, float) else given)] for factor in FACTORS]
    return [words[0] if isinstance(given, float) else f"[{','.join(words)}]" for words in each]


def search(name: str) -> dict[str, Any]:
    """The trials of an experiment, and its accuracy in full as it is and with the settings of the best trials."""
    epochs = composed(name).trainer.max_epochs
    count, finalists = FEWER if any(name in (ours, control) for ours, (control, _) in ON_FASHION.items()) else MANY
    grid: dict[str, Sequence[str]] = {
        "algo.optimizer.lr": rates(name),
        "algo.optimizer.weight_decay": [f"{decay:g}" for decay in DECAYS],
        DROPPED[name]: [f"{share:g}" for share in DROPOUTS],
    }
    if composed(name).algo.get("negatives") == "hard":
        grid["algo.label_strength"] = BRIGHTNESS
    fixed = [f"experiment={name}", "algo.optimizer.name=adamw", "seed=0"]
    words = [*fixed, f"trainer.max_epochs={max(1, epochs // 5)}", "trainer.check_val_every_n_epoch=1"]
    words += ["hydra/sweeper=optuna", f"hydra.sweeper.n_trials={count}"]
    words += [f"{key}=choice({','.join(choices)})" for key, choices in grid.items()]
    trials, revisions = {}, set()
    for run in sweep(LOGS / name, words):
        revisions.add(recorded(run)["metrics"]["git"])
        drawn = [word for word in run.overrides if word.partition("=")[0] in grid]
        trials[" ".join(drawn)] = run.metrics["val/acc"]
    best = sorted(trials, key=lambda words: -trials[words])[:finalists]
    variants = {"": [f"experiment={name}"]} | {words: [*fixed[:2], *words.split()] for words in best}
    in_full = {words: validated(LOGS / f"{name}_in_full", said) for words, said in variants.items()}
    return {"git": sorted(revisions), "epochs": epochs, "trials": trials, "in full": in_full}


def trials_table() -> str:
    """A line for each experiment searched: its accuracy in full as it was, and with the settings of the best trials."""
    found = json.loads(FILE.read_text()) if FILE.exists() else {}
    columns = (
        "validation accuracy, %, seed 0",
        "trials",
        "best of them, of a fifth of the epochs",
        "in full",
        "settings",
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name in [name for name in DROPPED if name in found]:
        trials, in_full = found[name]["trials"], found[name]["in full"]
        for words in sorted(in_full, key=lambda words: -in_full[words]):
            settings = f"`{words}`" if words else "as it was"
            short = f"{100 * trials[words]:.2f}" if words else ""
            cells = (f"`{name}`", str(len(trials)), short, f"{100 * in_full[words]:.2f}", settings)
            lines.append(f"| {' | '.join(cells)} |")
    missing = ", ".join(f"`{name}`" for name in DROPPED if name not in found)
    return "\n".join([*lines, "", f"Not searched yet: {missing}."] if missing else lines)


def main(names: list[str]) -> None:
    for name in names or DROPPED:
        found = json.loads(FILE.read_text()) if FILE.exists() else {}
        found[name] = search(name)
        FILE.write_text(json.dumps(found, indent=1) + "\n")
        print(name, found[name]["in full"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
