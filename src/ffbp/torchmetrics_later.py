"""Import torchmetrics when it is used, and not with Lightning, which needs one base class of it.

The whole of torchmetrics brings SciPy's signals, torchvision's models and more: a quarter of what `import
lightning.pytorch` computes. This package does not use it. Whoever does gets all of it, at the first name that they ask
for besides Lightning's two.
"""

import importlib
import importlib.metadata
import importlib.util
import logging
import sys
from types import ModuleType
from typing import Any

PACKAGE = "torchmetrics"
OF_LIGHTNING = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}
"""What Lightning imports from torchmetrics, and the modules that define it."""


class _Later(ModuleType):
    """torchmetrics, whose own code has not run yet."""

    def __getattr__(self, name: str) -> Any:
        if name in OF_LIGHTNING:
            importlib.import_module(f"{PACKAGE}.utilities")  # which its other modules import first, in a circle
            return getattr(importlib.import_module(OF_LIGHTNING[name]), name)
        if name == "__version__":
            return importlib.metadata.version(PACKAGE)
        if name.startswith("__"):  # what the import system asks of any module
            raise AttributeError(f"module {PACKAGE!r} has no attribute {name!r}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        assert self.__spec__ is not None
        assert self.__spec__.loader is not None
        self.__spec__.loader.exec_module(self)
        return getattr(self, name)


def postpone_torchmetrics() -> None:
    """Let the next import of torchmetrics run only what is used of it; nothing happens if it has been imported."""
    spec = None if PACKAGE in sys.modules else importlib.util.find_spec(PACKAGE)
    if spec is not None:
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _Later
        module._logger = logging.getLogger(PACKAGE)  # type: ignore[attr-defined]  # which its modules log to
        sys.modules[PACKAGE] = module
