"""What a run received from somebody else may make this program do: build parts of known packages, and no more."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ffbp.errors import CheckpointError

TRUSTED = (
    "ffbp.algorithms",
    "ffbp.callbacks",
    "ffbp.data",
    "ffbp.models",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "torch.optim",
)
"""Where the targets of a saved run may lie; more is a matter of the user's trust."""

OWN_RESOLVERS = ("${oc.env:FFBP_DATA_DIR,data}", "${hydra:runtime.output_dir}")
"""What our own settings look up when a run begins or goes on."""


def require_trust(settings: Mapping[str, Any], trusted: Iterable[str]) -> None:
    """Refuse the settings of a saved run that name a target outside the packages we know.

    A target must lie there and be made there: `ffbp.models.mlp.nn.Linear` does not count, nor does an `os.system` that
    one of our modules has imported.

    Args:
        settings: of the run, nested.
        trusted: names of further packages that the user vouches for.

    Raises:
        CheckpointError: with the target.
    """
    for target in _targets(settings):
        allowed = (*TRUSTED, *trusted)
        if not _within(target, allowed) or not _within(_origin(target), allowed):
            package = target.split(".")[0]
            raise CheckpointError(f"{target}: refused, this saved run would run it. If you trust it: trust=[{package}]")


def require_no_lookups(node: Any, trusted: Iterable[str]) -> None:
    """Refuse the settings of a saved run that look something up here, such as ${oc.env:HOME}, but for our own.

    Args:
        node: settings as they are written, interpolations unresolved.
        trusted: names of resolvers that the user vouches for.

    Raises:
        CheckpointError: with the interpolation.
    """
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            require_no_lookups(child, trusted)
    elif isinstance(node, str) and node not in OWN_RESOLVERS:
        for name in re.findall(r"\$\{\s*([\w.]+)\s*:", node):
            if name not in trusted:
                raise CheckpointError(
                    f"{node}: refused, this saved run would read it here. If you trust it: trust=[{name}]"
                )


def _targets(node: Any) -> Iterable[str]:
    if isinstance(node, Mapping):
        for name, child in node.items():
            if name == "_target_":
                yield str(child)
            yield from _targets(child)
    elif isinstance(node, list):
        for child in node:
            yield from _targets(child)


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _origin(target: str) -> str:
    """The module in which a target of a trusted package was made."""
    from hydra.utils import get_object

    try:
        return str(get_object(target).__module__)
    except Exception as error:  # whatever an import may raise
        raise CheckpointError(f"{target}: cannot be imported ({error}); a run of another version?") from error
