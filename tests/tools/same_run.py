"""Whether two runs are the same, to the bit."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from ffbp.lifecycle.checkpoint import read_checkpoint

ROOT = Path(__file__).parents[2]


def start(directory: Path, *words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py"), *words]
    return subprocess.Popen(
        command, cwd=directory, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def no_times(value: Any) -> Any:
    """A checkpoint's content without its times."""
    if isinstance(value, dict):
        return {k: no_times(v) for k, v in value.items() if "time" not in str(k) and k not in ("clock", "ffbp")}
    return [no_times(v) for v in value] if isinstance(value, list | tuple) else value


def assert_equal(a: Any, b: Any, path: str = "") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for name in a:
            assert_equal(a[name], b[name], f"{path}/{name}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{path}/{number}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def count_tensors(node: Any) -> int:
    """How many there are in a checkpoint's content."""
    if isinstance(node, torch.Tensor):
        return 1
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
    return sum(map(count_tensors, children))


def assert_same_run(first: Path, second: Path) -> None:
    """Weights, optimizer, rows and metrics are the same to the bit, times and the revision that ran aside."""
    for name in ("last.ckpt", "best.ckpt"):
        a, b = (read_checkpoint(directory / "checkpoints" / name) for directory in (first, second))
        for content in (a, b):
            content.pop("loops")  # how a run was divided is all that they differ in
        assert_equal(no_times(a), no_times(b), name)
    rows = []
    for directory in (first, second):
        with (directory / "metrics.csv").open() as file:
            rows.append(no_times(list(csv.DictReader(file))))
    assert rows[0] == rows[1]
    metrics = [json.loads((directory / "metrics.json").read_text()) for directory in (first, second)]
    assert_equal(*({k: v for k, v in m.items() if not k.startswith(("time/", "memory/", "git"))} for m in metrics))
