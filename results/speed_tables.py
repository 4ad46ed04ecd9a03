"""The tables of docs/speed.md, from the files that the benchmarks write; tables.py calls what is here."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent


def read(name: str) -> dict[str, Any]:
    """The content of a benchmark's file."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)])


def limit(number: float | None, *, least: bool = False) -> str:
    """A goal in words; empty where there is none."""
    return "" if number is None else f"at {'least' if least else 'most'} {number:g}"


def spread(figures: dict[str, float], digits: int = 2) -> str:
    """Median, and the range of all repetitions."""
    median, low, high = (f"{figures[key]:.{digits}f}" for key in ("median", "least", "most"))
    return f"{median} ({low} to {high})"


def epochs_table() -> str:
    rows = [
        (
            figure["what"].replace("the paper", "the article"),
            spread({"median": figure["ratio"], **figure}),
            limit(figure["limit"]),
        )
        for figure in read("speed")["figures"].values()
    ]
    return table(("one epoch of MNIST, batch 100", "ratio of times", "goal"), rows)


STEPS = {"steps": "Intel Xeon without bf16", "steps_zen4": "AMD Zen 4"}
"""The files of benchmarks/steps.py, and the processor of each."""


def steps_table() -> str:
    steps, *others = (read(name) for name in STEPS)
    rows = []
    for row in steps["ratios"]:
        if not row["sides"][1].endswith("products"):
            elsewhere = [{each["what"]: spread(each) for each in other["ratios"]} for other in others]
            times = [spread(steps["cases"][row["case"]][side]) for side in row["sides"]]
            ratios = [spread(row), *(known.get(row["what"], "") for known in elsewhere)]
            rows.append((row["what"], *ratios, limit(row["wanted"]), *times))
    head = ("a batch", *(f"ratio, {processor}" for processor in STEPS.values()), "goal")
    return table((*head, "ms, left of the /, Intel", "ms, right of the /, Intel"), rows)


def products_table() -> str:
    rows = []
    for name, processor in STEPS.items():
        steps = read(name)
        for row in steps["ratios"]:
            step, bare = (steps["cases"][row["case"]][side] for side in row["sides"])
            native = steps["about"].get("bf16", True) or "bf16" not in row["what"]  # elsewhere a share says nothing
            if row["sides"][0] + " products" == row["sides"][1] and native:
                rates = [f"{side['gflop_per_second']:.0f}" for side in (step, bare)]
                share = " to ".join(f"{100 / row[key]:.0f}" for key in ("most", "least"))
                goal = f"{100 / row['wanted']:.0f} %" if row["wanted"] else ""
                what = row["what"].removeprefix("ff 3x1000, ").removesuffix(" / bare products")
                rows.append((processor, what, *rates, f"{100 / row['median']:.0f} % ({share})", goal))
    head = ("", "Forward-Forward, 784-3x1000", "GFLOP/s of the step", "of its bare products", "share", "goal, at least")
    return table(head, rows)


THREADS = {"threads_zen4": "AMD", "threads": "Intel"}
"""The files of benchmarks/threads.py, and the processor of each."""
WAYS = {
    "1 thread": "1 thread",
    "2 threads, spinning as OpenMP does": "2, spinning long",
    "2 threads, spinning briefly": "2, spinning briefly",
}


def threads_table() -> str:
    found = {processor: read(name)["cases"] for name, processor in THREADS.items()}
    rows = []
    for case, about in read("threads")["cases"].items():
        for place in ("alone", "beside a busy process"):
            figures = (cases[case]["figures"][way][place] for cases in found.values() for way in WAYS)
            rows.append((about["what"] if place == "alone" else "", place, *(spread(each) for each in figures)))
    return table(("ms a batch", "", *(f"{processor}: {way}" for processor in found for way in WAYS.values())), rows)


def seeds_table() -> str:
    seeds = read("seeds")
    rows = [
        (
            case["what"],
            str(case["seeds"]),
            str(case["threads"]),
            f"{case['wall']['one_ms']:.2f}",
            f"{case['wall']['together_ms']:.2f}",
            spread({"median": case["wall"]["ratio"], **case["wall"]}),
            limit(seeds["about"]["goal"]),
        )
        for case in seeds["cases"]
    ]
    return table(("", "seeds", "threads", "ms a batch of one", "of all together", "ratio", "goal"), rows)


def pipeline_table() -> str:
    pipeline = read("pipeline")
    measured = pipeline["measured"]
    rows = [
        ("measured", spread(measured["speedup"]), limit(pipeline["about"]["goal"], least=True)),
        ("what the division of the layers allows", spread(measured["limit"]), ""),
    ]
    return table(("two processes, 784-4x2000, one thread each", "times as fast as one", "goal"), rows)


STARTS = {
    "python": "Python itself",
    "torch": "`import torch`",
    "torch_lightning": "`import torch, lightning`",
    "help": "`train.py --help`",
    "refusal_name": "`train.py trainr.max_epochs=1`, refused",
    "refusal_value": "`train.py seed=-1`, refused",
    "completion": "completion of `train.py algo=f`",
    "step_digits": "`train.py algo=bp model=mlp data=digits`, first step",
    "step_mnist": "`train.py algo=ff`, first step on MNIST",
}


def startup_table() -> str:
    figures = read("startup")["figures"]
    rows = []
    for name, what in STARTS.items():
        found = figures[name]
        beyond = f"{found['beyond_imports']:.2f}" if "beyond_imports" in found else ""
        rows.append((what, spread(found["seconds"]), beyond, limit(found["limit"])))
    return table(("", "seconds", "beyond the imports", "goal"), rows)


def memory_table() -> str:
    figures = read("memory")["figures"]
    depths = list(next(iter(figures.values())))
    rows = [(name, *(f"{found[depth]:.0f}" for depth in depths)) for name, found in figures.items()]
    return table(("MiB of a step, by number of layers", *depths), rows)


def fast_table() -> str:
    rows = []
    for name in ("fast_ff", "fast_bp"):
        metrics = [run["metrics"] for run in read(name)["runs"]]
        each = {
            key: ", ".join(f"{factor * run[key]:.{digits}f}" for run in metrics)
            for key, factor, digits in (
                ("val/acc", 100, 2),
                ("test/acc", 100, 2),
                ("time/train_seconds", 1, 1),
                ("time/total_seconds", 1, 1),
            )
        }
        rows.append((f"`{name}`", *each.values(), FAST[name]))
    return table(("each seed", "validation, %", "test, %", "s of training", "s with the test", "goal"), rows)


FAST = {"fast_ff": "98 % in 15 s", "fast_bp": "99 % in 60 s"}
TABLES = {
    "fast": fast_table,
    "epochs": epochs_table,
    "steps": steps_table,
    "products": products_table,
    "threads": threads_table,
    "seeds": seeds_table,
    "pipeline": pipeline_table,
    "startup": startup_table,
    "memory": memory_table,
}
