"""Settings of older runs, as this version understands them."""

from collections.abc import Mapping
from typing import Any, cast

from omegaconf import OmegaConf

ADDED: dict[str, dict[str, Any]] = {
    "ffbp.algorithms.ForwardForward": {
        "goodness_per": "layer",
        "peer_normalization": None,
        "peer_weight": 0.03,
        "peer_momentum": 0.9,
        "readout_share": 0.0,
        "head": {"dropout": None},
    },
}
"""By target, the settings that it did not have from the first, with the value that means what was so before."""


def upgrade(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what the settings of an older run could not say.

    Args:
        settings: of a run, from a checkpoint or from its .hydra; groups with a `_target_` beside plain values.

    Returns:
        new settings; those given are left as they are.
    """
    upgraded = {
        name: _filled_in(part) if isinstance(part, dict) and part.get("_target_") in ADDED else part
        for name, part in settings.items()
    }
    if "goodness_per" not in settings["algo"] and _overlaid(settings):
        upgraded["algo"]["label_strength"] = None  # it was that of fourier's waves alone
    return upgraded


def _filled_in(part: dict[str, Any]) -> dict[str, Any]:
    merged = OmegaConf.merge(ADDED[part["_target_"]], part)  # at every depth, and what is given wins
    return cast(dict[str, Any], OmegaConf.to_container(merged))


def _overlaid(settings: Mapping[str, Any]) -> bool:
    embedding = settings["algo"].get("label_embedding", "fourier")
    return embedding == "overlay" or (embedding is None and settings["model"]["_target_"] == "ffbp.models.mlp")
