"""Which curves TensorBoard's tab Custom Scalars draws in one chart."""

import re
from collections.abc import Iterable

Layout = dict[str, dict[str, list[object]]]

READOUT = "readout/layer_{}/acc"


def layout(names: Iterable[str]) -> Layout:
    """Group the measures of a run into charts: for each group, titles and the curves of each.

    Accuracies stand together, and losses; so do the positive and negative goodness of each layer; of all else that is
    measured layer by layer, all layers.
    """
    names = sorted(names, key=_in_order)
    charts: dict[str, dict[str, list[str]]] = {"Accuracy and loss": {}, "Goodness": {}, "Layers": {}}
    for name in names:
        layer = re.fullmatch(r"(\w+)/layer_(\d+)(?:/(\w+))?", name)
        if layer and (layer[1], layer[3]) in (("ff", "goodness_pos"), ("ff", "goodness_neg")):
            title = f"layer {layer[2]}: goodness of positives and negatives"
            charts["Goodness"].setdefault(title, []).append(name)
        elif layer and layer[1] == "readout":
            charts["Layers"].setdefault("accuracy of a linear read-out of each layer", []).append(name)
        elif layer:
            charts["Layers"].setdefault(f"{layer[3] or layer[1]} of each layer ({layer[1]})", []).append(name)
        elif name in ("train/acc", "val/acc"):
            charts["Accuracy and loss"].setdefault("accuracy in training and validation", []).append(name)
        elif name.startswith("val/acc_"):
            charts["Accuracy and loss"].setdefault("validation accuracy of each read-out", []).append(name)
        elif name in ("train/loss", "val/loss"):
            charts["Accuracy and loss"].setdefault("loss in training and validation", []).append(name)
    return {
        group: {title: ["Multiline", [f"^{tag}$" for tag in tags]] for title, tags in found.items()}
        for group, found in charts.items()
        if found
    }


def _in_order(name: str) -> list[tuple[int, str]]:
    """A key by which layer_10 comes after layer_9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
