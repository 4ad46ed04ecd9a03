"""Learning rules side by side: Forward-Forward and backpropagation on the same networks."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ffbp.torchmetrics_later import postpone_torchmetrics

if TYPE_CHECKING:
    from ffbp import curvature
    from ffbp.algorithms import Algorithm
    from ffbp.notebooks import history, list_runs

postpone_torchmetrics()  # before anything imports Lightning
__version__ = "0.1.0"
__all__ = ["curvature", "history", "list_runs", "load"]


def load(run: str | Path, *, trust: Sequence[str] = ()) -> Algorithm:
    """Load a trained model: `ffbp.load("logs/ff/...").predict(images)`. See `ffbp.lifecycle.load.load`."""
    from ffbp.lifecycle.load import load as load_run  # here, so that a mistyped setting need not wait for PyTorch

    return load_run(run, trust=trust)


def __getattr__(name: str) -> Any:
    if name == "curvature":  # not before somebody asks for it, since it brings PyTorch
        return import_module("ffbp.curvature")
    if name in ("history", "list_runs"):  # which bring pandas
        return getattr(import_module("ffbp.notebooks"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
