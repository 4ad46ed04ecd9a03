"""Runs of earlier versions, as this version understands them."""

from collections.abc import Mapping
from typing import Any

SETTINGS_ADDED_LATER: dict[str, dict[str, Any]] = {
    "ffbp.algorithms.ForwardForward": {
        "goodness_per": "layer",
        "normalization_per": "position",
        "normalize_images": False,
        "peer_normalization": None,
        "peer_weight": 0.03,
        "peer_momentum": 0.9,
        "readout_share": 0.0,
        "head": {"dropout": None},
    },
    "ffbp.algorithms.Backprop": {"loss": "cross_entropy"},
    "ffbp.models.cnn": {"batch_norm": False},
    "ffbp.models.conv": {"pools": None, "widths": None, "batch_norm": False},
    "ffbp.models.local": {"widths": None, "batch_norm": False},
    "ffbp.models.mlp": {"initial_window": None},
    "ffbp.data.ImageData": {"data_dir": None},  # in checkpoints, where it is left open
}
"""By target, the settings added later, with the value that keeps the old behaviour."""

LAYER_MEASURES = ("loss", "goodness_pos", "goodness_neg", "separation")  # of Forward-Forward's up to format 3


def upgrade_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what the settings of an earlier run, from a checkpoint or its .hydra, could not say yet."""
    upgraded = dict(settings)
    if "trainer" in settings:  # the settings of a run, and not what a checkpoint says of itself
        upgraded.setdefault("threads", None)
        if isinstance(settings.get("checkpoint"), dict):  # anything else is named when the settings are checked
            upgraded["checkpoint"] = {"best": "accuracy", **settings["checkpoint"]}
    for name, part in settings.items():
        if isinstance(part, dict) and str(part.get("_target_")) in SETTINGS_ADDED_LATER:
            upgraded[name] = _filled_in(SETTINGS_ADDED_LATER[part["_target_"]], part)
    if settings["algo"].get("_target_") == "ffbp.algorithms.ForwardForward":
        _keep_meaning(upgraded["algo"], settings["algo"], dense=settings["model"].get("_target_") == "ffbp.models.mlp")
    return upgraded


def _keep_meaning(algo: dict[str, Any], before: Mapping[str, Any], *, dense: bool) -> None:
    """Set what meant something else `before` in Forward-Forward, on a dense first layer or on maps."""
    embedding = before.get("label_embedding", "fourier")
    overlay = embedding == "overlay" or (embedding is None and dense)
    if overlay and "goodness_per" not in before:
        algo["label_strength"] = None  # it was that of fourier's waves alone
    if algo["normalization_per"] == "position" and (dense or algo["goodness_per"] == "position"):
        algo["normalization_per"] = None  # the same there


def _filled_in(added: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """`part` with what it lacks of `added`, at every depth."""
    filled = {**added, **part}
    for name, later in added.items():
        if isinstance(later, dict) and isinstance(filled[name], dict):
            filled[name] = _filled_in(later, filled[name])
    return filled


def upgrade_checkpoint(content: Mapping[str, Any]) -> dict[str, Any]:
    """Bring a checkpoint's content into today's format.

    Up to format 3 an epoch's sums were among the weights, without names, the number of images last; up to format 2
    the sums of the measures stood between the others and that number.
    """
    weights = content["state_dict"]
    sums = {name: weights[name] for name in weights if "_means." in name and name.endswith("sums")}
    parts = []
    if any(total.dim() != 1 or len(total) > 10_000 for total in sums.values()):
        raise ValueError("sums that no run has")
    if "train_means.sums" in sums:
        train = sums["train_means.sums"]
        measures = sums.get("measure_means.sums", train[2:])
        layers = range((len(measures) - 1) // len(LAYER_MEASURES))
        names = [f"ff/layer_{k}/{measure}" for k in layers for measure in LAYER_MEASURES]
        parts = [[["train/loss", "train/acc"], train[:2], int(train[-1])], [names, measures[:-1], int(measures[-1])]]
    return {
        **content,
        "ffbp": upgrade_settings(content["ffbp"]),
        "state_dict": {name: tensor for name, tensor in weights.items() if name not in sums},
        "train_means": content.get("train_means", [part for part in parts if part[2]]),
    }
