"""What a run received from somebody else may make this program do: build parts of known packages, and no more."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from ffbp.errors import CheckpointError

OURS = ("ffbp.algorithms", "ffbp.callbacks", "ffbp.data", "ffbp.models")
TRUSTED = (*OURS, "lightning.pytorch.callbacks", "lightning.pytorch.loggers", "torch.optim")
"""Where the targets of a saved run may lie; everything else needs the user's word."""

OWN_LOOKUPS = ("${oc.env:FFBP_DATA_DIR,data}", "${hydra:runtime.output_dir}")
"""What our own settings look up when a run starts or resumes."""


def require_trust(settings: Any, trusted: Iterable[str]) -> None:
    """Raise a CheckpointError if the settings of a saved run name a target outside the packages we know.

    A target must lie there and be made there: `ffbp.models.mlp.nn.Linear` does not count, nor does an `os.system` that
    one of our modules has imported. `trusted` are further packages that the user vouches for.
    """
    allowed = (*TRUSTED, *trusted)
    for name, target in _leaves(settings):
        if name == "_target_" and not (_within(str(target), allowed) and _within(_origin(str(target)), allowed)):
            raise CheckpointError(
                f"{target}: refused, since this saved run would execute code outside ffbp. If that code is yours, or "
                f"you trust it, add trust=[{str(target).split('.')[0]}]"
            )


def require_no_lookups(settings: Any, trusted: Iterable[str]) -> None:
    """Raise a CheckpointError if a saved run's settings, unresolved, look something up here, such as ${oc.env:HOME}.

    Our own lookups are allowed, and the resolvers in `trusted`, which the user vouches for.
    """
    for _, value in _leaves(settings):
        for resolver in re.findall(r"\$\{\s*([\w.]+)\s*:", str(value)) if value not in OWN_LOOKUPS else ():
            if resolver not in trusted:
                raise CheckpointError(
                    f"{value}: refused, since this saved run would read it on this machine. If you trust it, add "
                    f"trust=[{resolver}]"
                )


def _leaves(node: Any, name: Any = None) -> Iterator[tuple[Any, Any]]:
    """All values of nested settings, each with its key."""
    if isinstance(node, dict | list):
        for key, child in node.items() if isinstance(node, dict) else ((name, child) for child in node):
            yield from _leaves(child, key)
    else:
        yield name, node


def _within(name: str, packages: Iterable[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _origin(target: str) -> str:
    """The module in which a target of a trusted package was made."""
    from hydra.utils import get_object

    try:
        return str(get_object(target).__module__)
    except Exception as error:  # whatever an import may raise
        raise CheckpointError(f"{target}: cannot be imported ({error}); a run of another version?") from error
