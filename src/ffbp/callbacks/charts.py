"""Which curves TensorBoard's tab Custom Scalars draws in one chart."""

import re
from collections.abc import Iterable

from ffbp.names import by_numbers

Layout = dict[str, dict[str, list[object]]]

READOUT = "readout/layer_{}/acc"


def layout(names: Iterable[str]) -> Layout:
    """Group the measures of a run into charts: for each group, titles and the curves of each.

    Accuracies stand together, and losses; so do the positive and negative goodness of each layer; of all else that is
    measured layer by layer, all layers.
    """
    groups: dict[str, dict[str, list[str]]] = {"Accuracy and loss": {}, "Goodness": {}, "Layers": {}}
    for name in sorted(names, key=by_numbers):
        layer = re.fullmatch(r"(\w+)/layer_(\d+)(?:/(\w+))?", name)
        # a chart is the same whatever run asks for it, so that TensorBoard draws all runs in it
        if layer and layer[1] == "ff" and (layer[3] or "").startswith("goodness_"):
            title = f"layer {layer[2]}: goodness of positives and negatives"
            groups["Goodness"][title] = [f"^ff/layer_{layer[2]}/goodness_{side}$" for side in ("pos", "neg")]
        elif layer and layer[1] == "readout":
            groups["Layers"]["accuracy of a linear read-out of each layer"] = [r"^readout/layer_\d+/acc$"]
        elif layer:
            rest = f"/{layer[3]}" if layer[3] else ""
            title = f"{layer[3] or layer[1]} of each layer ({layer[1]})"
            groups["Layers"][title] = [rf"^{layer[1]}/layer_\d+{rest}$"]
        elif what := re.fullmatch(r"(?:train|val)/(acc|loss)", name):
            word = {"acc": "accuracy", "loss": "loss"}[what[1]]
            title = f"{word} in training and validation"
            groups["Accuracy and loss"][title] = [f"^train/{what[1]}$", f"^val/{what[1]}$"]
        elif name.startswith("val/acc_"):
            groups["Accuracy and loss"]["validation accuracy of each read-out"] = [r"^val/acc_\w+$"]
    groups["Layers"] = groups.pop("Goodness") | groups["Layers"]  # one group: TensorBoard opens the first two
    return {
        group: {title: ["Multiline", tags] for title, tags in charts.items()}
        for group, charts in groups.items()
        if charts
    }
