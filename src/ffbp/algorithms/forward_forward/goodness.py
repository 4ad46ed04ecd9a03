"""The goodness of a layer's activity, and the normalisation that hides it from the next layer.

Activities have shape (B, D) or (B, C, H, W).
"""

from math import prod
from typing import Literal

from torch import Tensor
from torch.linalg import vector_norm

Per = Literal["layer", "position"]
"""Of what something is the goodness or the length: a whole layer or each position of its maps, the same if dense."""


def sum_square(activity: Tensor, per: Per = "layer") -> Tensor:
    """The sum of an image's squared activities in single precision or better.

    Returns:
        the goodness of each layer, shape (B,), or of each position, shape (B,) of dense layers and (B, H, W) of maps.

    Source: Hinton 2022, section 2, equation 1.
    """
    return _single(activity).square().sum(_dimensions(activity, per))


def mean_square(activity: Tensor, per: Per = "layer") -> Tensor:
    """The mean of an image's squared activities; otherwise like `sum_square`."""
    # `mean` would divide its whole gradient, of the activity's size, and lay it out without looking at the activity
    return sum_square(activity, per) / prod(activity.shape[dimension] for dimension in _dimensions(activity, per))


def rms(activity: Tensor, per: Per = "position", eps: float = 1e-8) -> Tensor:
    """Divide by the root mean square of a layer's units, or, per position of maps, of the channels there.

    `eps` is added to the mean square, so that a silent layer stays finite. Shape and precision do not change; the mean
    is in single precision or better.

    Source: Hinton 2022, section 2, and his Matlab code.
    """
    scale = (_single(activity).square().mean(_dimensions(activity, per), keepdim=True) + eps).rsqrt()  # (B, 1, ...)
    return activity * scale.to(activity.dtype)


def l2(activity: Tensor, per: Per = "position", eps: float = 1e-8) -> Tensor:
    """Divide by the Euclidean length plus `eps`; otherwise like `rms`.

    Source: the article, equation 9.
    """
    single = _single(activity)
    length: Tensor = vector_norm(single, dim=_dimensions(activity, per), keepdim=True)  # (B, 1, ...)
    return (single / (length + eps)).to(activity.dtype)


def _dimensions(activity: Tensor, per: Per) -> tuple[int, ...]:
    return (1,) if per == "position" else tuple(range(1, activity.dim()))


def _single(activity: Tensor) -> Tensor:
    """At least single precision, since the squares of half-precision numbers are too coarse to be added up."""
    return activity if activity.dtype.itemsize >= 4 else activity.float()


GOODNESS = {"sum_square": sum_square, "mean_square": mean_square}
NORMALIZATION = {"rms": rms, "l2": l2}
