"""Curvature: Jacobians of a network's answer, Hessians of its loss, and the largest eigenvalues of these.

Every function takes a module from images (B, C, H, W) to logits (B, classes), such as a `Stack`, or a rule that
`ffbp.load` has loaded, whose answer counts. It is looked at as it answers: without dropout, batch norm with its running
statistics. Its parameters are one vector of length P here, in the order of `model.parameters()`, in single precision or
better. Nothing about the model is changed, and no random numbers are drawn but those of a given seed.
"""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vjp, vmap
from torch.nn.functional import cross_entropy

from ffbp.algorithms.answering import evaluating
from ffbp.algorithms.measured import Measured
from ffbp.errors import NumericError
from ffbp.memory import require_memory

Loss = Callable[[Tensor, Tensor], Tensor]  # from logits (B, classes) and labels (B,) to a scalar
ROWS_AT_ONCE = 64  # of a Jacobian or a Hessian


def input_jacobian(model: nn.Module, images: Tensor) -> Tensor:
    """The derivative of each image's logits by its pixels.

    Args:
        model: see the top of this file.
        images: shape (B, C, H, W).

    Returns:
        the Jacobians, shape (B, classes, C, H, W).
    """
    with evaluating(model):
        answer, weights = _by_vector(model)
        one = jacrev(lambda image: answer(weights, image.unsqueeze(0))[0])  # (C, H, W) -> (classes, C, H, W)
        return cast(Tensor, vmap(one, chunk_size=ROWS_AT_ONCE)(images.to(weights.dtype)))


def parameter_jacobian(model: nn.Module, images: Tensor) -> Tensor:
    """The derivative of each image's logits by the parameters, shape (B, classes, P); `input_jacobian` has the rest.

    Raises:
        ResourceError: if the Jacobians do not fit into memory.
    """
    with evaluating(model):
        answer, weights = _by_vector(model)
        images = images.to(weights.dtype)
        with torch.no_grad():
            rows = answer(weights, images).numel()
        arithmetic = f"{rows:,} logits x {weights.numel():,} parameters x {weights.itemsize} bytes"
        require_memory(rows * weights.numel() * weights.itemsize, arithmetic, weights.device)
        one = jacrev(lambda vector, image: answer(vector, image.unsqueeze(0))[0])  # (P,) -> (classes, P)
        return cast(Tensor, vmap(one, in_dims=(None, 0), chunk_size=ROWS_AT_ONCE)(weights, images))


def hessian_product(
    model: nn.Module, images: Tensor, labels: Tensor, loss: Loss = cross_entropy
) -> Callable[[Tensor], Tensor]:
    """The Hessian of a loss by the parameters as a function: it multiplies a vector (P,), and gives one (P,).

    The forward pass is done once, here; each product costs about two backward passes, and no P x P matrix is made.
    Where the answer sends no gradient to a parameter, as below a detached activity, its rows are 0.

    Args:
        model: see the top of this file.
        images, labels: shapes (B, C, H, W) and (B,).
        loss: of logits (B, classes) and labels, a scalar.

    Source: Pearlmutter 1994, Neural Computation 6.
    """
    with evaluating(model):
        answer, weights = _by_vector(model)
        images = images.to(weights.dtype)
        gradient = grad(lambda vector: loss(answer(vector, images), labels))
        pull: Callable[[Tensor], tuple[Tensor]] = vjp(gradient, weights)[1]
    return lambda vector: pull(vector)[0]  # H^T v, which is H v


def hessian(model: nn.Module, images: Tensor, labels: Tensor, loss: Loss = cross_entropy) -> Tensor:
    """The whole Hessian of a loss by the parameters, shape (P, P), symmetric up to rounding: for small models.

    The arguments are those of `hessian_product`.

    Raises:
        ResourceError: if it does not fit into memory.
    """
    _, weights = _by_vector(model)
    size = weights.numel()
    arithmetic = f"a Hessian of {size:,} x {size:,} parameters x {weights.itemsize} bytes"
    require_memory(size**2 * weights.itemsize, arithmetic, weights.device)
    product = hessian_product(model, images, labels, loss)
    full = weights.new_empty(size, size)
    for rows in torch.split(torch.arange(size, device=weights.device), ROWS_AT_ONCE):
        units = weights.new_zeros(len(rows), size).scatter_(1, rows.unsqueeze(1), 1.0)  # rows of the identity
        full[rows] = vmap(product)(units)
    return full


class Eigenvalues(NamedTuple):
    """The largest eigenvalues of a symmetric matrix A, and how exact they are."""

    values: Tensor  # (count,), the largest first, in double precision
    errors: Tensor  # (count,), |A v - value v| of each: an eigenvalue of A is no further than this from each value
    steps: int  # how many products with A they took
    vectors: Tensor | None  # (count, P), of length 1, if they were asked for


def largest_eigenvalues(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Loss = cross_entropy,
    *,
    count: int = 1,
    seed: int = 0,
    tolerance: float = 1e-4,
    most_steps: int = 100,
    vectors: bool = False,
) -> Eigenvalues:
    """The largest eigenvalues of the Hessian of a loss by the parameters; the first is called the sharpness.

    Args:
        model, images, labels, loss: those of `hessian_product`.
        count, tolerance, most_steps, vectors: those of `lanczos`.
        seed: of the vector to start from.

    Raises:
        ResourceError: if `most_steps` vectors of length P do not fit into memory.
        NumericError: if the loss or a derivative is NaN or infinite.
    """
    _, weights = _by_vector(model)
    steps, size = min(most_steps, weights.numel()), weights.numel()
    arithmetic = f"{steps} vectors of {size:,} parameters x {weights.itemsize} bytes"
    require_memory(steps * size * weights.itemsize, arithmetic, weights.device)
    start = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(weights)
    product = hessian_product(model, images, labels, loss)
    return lanczos(product, start, count=count, tolerance=tolerance, most_steps=steps, vectors=vectors)


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    *,
    count: int = 1,
    tolerance: float = 1e-4,
    most_steps: int = 100,
    vectors: bool = False,
) -> Eigenvalues:
    """The largest eigenvalues of a symmetric matrix by the Lanczos method, with full re-orthogonalisation.

    An eigenvalue that occurs more than once may be found once only.

    Args:
        product: multiplies the matrix by a vector.
        start: shape (P,), not 0: where the search starts, such as a random vector.
        count: how many eigenvalues, 1 to P.
        tolerance: it stops once each error is at most this share of the largest absolute eigenvalue seen.
        most_steps: it stops after so many products in any case, and the errors say how far it came.
        vectors: whether to return the eigenvectors as well.

    Raises:
        NumericError: if a product is NaN or infinite.

    Source: Golub and Van Loan, Matrix Computations, chapter 10.
    """
    size, most_steps = len(start), min(most_steps, len(start))
    if not 1 <= count <= most_steps:
        raise ValueError(f"count={count}: 1 to {most_steps} expected, the number of steps or of parameters")
    basis = start.new_empty(most_steps, size)
    tridiagonal = torch.zeros(most_steps, most_steps, dtype=torch.double)
    candidate, length = start, 0.0
    for step in range(most_steps):
        basis[step] = candidate / candidate.norm()
        if step:
            tridiagonal[step, step - 1] = tridiagonal[step - 1, step] = length
        candidate = product(basis[step])
        tridiagonal[step, step] = (basis[step] @ candidate).item()
        if not candidate.isfinite().all():
            raise NumericError("a product with the Hessian is NaN or infinite.")
        candidate = _orthogonal(candidate, basis[: step + 1])
        length = candidate.norm().item()
        values, parts = torch.linalg.eigh(tridiagonal[: step + 1, : step + 1])  # ascending
        scale = values.abs().max().item()
        values, parts = values.flip(0)[:count], parts.flip(1)[:, :count]
        errors = length * parts[-1].abs()  # (count,)
        if len(values) == count and bool((errors <= tolerance * scale).all()):
            break
        if length <= torch.finfo(start.dtype).eps * scale:  # the space so far is closed: go on in another direction
            fresh = torch.randn(size, generator=torch.Generator().manual_seed(step)).to(start)
            candidate, length = _orthogonal(fresh, basis[: step + 1]), 0.0
    found = (parts.T.to(basis) @ basis[: step + 1]) if vectors else None
    return Eigenvalues(values, errors, step + 1, found)


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    """A vector (P,) without its parts along a basis (k, P); twice, since the first time leaves rounding errors."""
    for _ in range(2):
        vector = vector - basis.T @ (basis @ vector)
    return vector


class _Answer(nn.Module):
    """A rule as a module whose output is the rule's answer."""

    def __init__(self, rule: Measured) -> None:
        super().__init__()
        self.rule = rule

    def forward(self, images: Tensor) -> Tensor:
        return self.rule.answer(images)


def _by_vector(model: nn.Module) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """A model as a function of its parameters (P,) and of images (B, C, H, W), and the parameters as they are."""
    module = _Answer(model) if isinstance(model, Measured) else model
    named = {name: _at_least_single(parameter) for name, parameter in module.named_parameters()}
    buffers = {name: _at_least_single(buffer) for name, buffer in module.named_buffers()}
    sizes = [parameter.numel() for parameter in named.values()]

    def answer(vector: Tensor, images: Tensor) -> Tensor:
        parts = zip(named.items(), torch.split(vector, sizes), strict=True)
        weights = {name: part.view_as(parameter) for (name, parameter), part in parts}
        return cast(Tensor, functional_call(module, weights | buffers, (images,)))

    return answer, torch.cat([parameter.flatten() for parameter in named.values()])


def _at_least_single(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.to(torch.promote_types(tensor.dtype, torch.float)) if tensor.is_floating_point() else tensor
