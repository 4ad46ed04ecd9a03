"""What a layer minimises: high goodness on positive data, low goodness on negative data.

Each takes the goodness of positives and negatives, shape (B,) both, row by row of the same image, and gives the mean
over the batch, a scalar.
"""

from torch import Tensor
from torch.nn.functional import relu, softplus


def logistic(positive: Tensor, negative: Tensor, threshold: float) -> Tensor:
    """softplus(theta - G_pos) + softplus(G_neg - theta): each side is judged against a threshold.

    Source: Hinton 2022, section 2, equation 1, as the negative log-likelihood.
    """
    return (softplus(threshold - positive) + softplus(negative - threshold)).mean()


def margin(positive: Tensor, negative: Tensor, alpha: float = 4.0) -> Tensor:
    """softplus(-alpha (G_pos - G_neg)): positives need only beat the negatives of the same image.

    Source: Lee and Song 2023, SymBa (arXiv:2303.08418), with alpha = 4.
    """
    return softplus(-alpha * (positive - negative)).mean()


def linear(positive: Tensor, negative: Tensor, threshold: float) -> Tensor:
    """Ascend on G_pos always, descend on G_neg only while it is above the threshold.

    Source: the compared paper, equations 12 and 17.
    """
    return (relu(negative - threshold) - positive).mean()
