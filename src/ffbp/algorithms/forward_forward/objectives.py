"""What a layer minimises, to reach high goodness on positive data and low goodness on negative data.

Each function compares the goodness of positives with that of negatives of the same images, in shapes that broadcast,
and returns the mean over all pairs, a scalar.
"""

from torch import Tensor
from torch.nn.functional import relu, softplus


def logistic(positive: Tensor, negative: Tensor, threshold: float) -> Tensor:
    """softplus(theta - G_pos) + softplus(G_neg - theta): each is compared with the threshold theta.

    Source: Hinton 2022, section 2, equation 1, as the negative log-likelihood.
    """
    return (softplus(threshold - positive) + softplus(negative - threshold)).mean()


def margin(positive: Tensor, negative: Tensor, alpha: float = 4.0) -> Tensor:
    """softplus(-alpha (G_pos - G_neg)): a positive is compared with the negative of the same image.

    Source: Lee and Song 2023, SymBa (arXiv:2303.08418), with alpha = 4.
    """
    return softplus(-alpha * (positive - negative)).mean()


def linear(positive: Tensor, negative: Tensor, threshold: float) -> Tensor:
    """relu(G_neg - theta) - G_pos: always raise G_pos, but lower G_neg only while it is above the threshold theta.

    Source: the article, equations 12 and 17.
    """
    return (relu(negative - threshold) - positive).mean()
