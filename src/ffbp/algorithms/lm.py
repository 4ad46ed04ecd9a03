"""Levenberg-Marquardt: Gauss-Newton steps with a damping that follows how well the model of the loss predicts it."""

from collections.abc import Sequence
from functools import reduce
from typing import Annotated, NamedTuple, cast

import lightning.pytorch as pl
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.functional import one_hot, unfold

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.output_loss import OUTPUT_LOSS, LossName
from ffbp.algorithms.step import Step
from ffbp.data import Batch, MemoryData
from ffbp.errors import ConfigError
from ffbp.memory import require_memory
from ffbp.models import Block, Stack
from ffbp.models.local_layer import LocalConv2d
from ffbp.settings import Positive, checked

MOST_DAMPING = 1e12
Factor = Annotated[float, Field(gt=1, le=1e6)]


class LevenbergMarquardt(Algorithm):
    """Move all parameters by w <- w - (J^T J / B + damping I)^-1 J^T r / B, once for each batch of B images.

    With the squared error, r holds the n = B x classes residuals, answer less target, and J is their Jacobian by the P
    parameters. With the cross-entropy, J^T J is the generalised Gauss-Newton matrix, see `residuals_of`. The system is
    solved among the residuals or among the parameters, whichever are fewer, in double precision:
    (J^T J + d I)^-1 J^T = J^T (J J^T + d I)^-1.

    The gain ratio is the decrease of the batch's loss over the decrease that the quadratic model predicted. Above 0.75
    the damping is divided, below 0.25 multiplied. A step that does not lower the loss, or whose system cannot be
    solved, is taken back, and the damping multiplied. A pass that is repeated drops the same units.

    Args:
        stack: what is trained.
        loss: of the logits, see `output_loss`.
        damping: what it starts from.
        least_damping: what it does not fall below; a small batch wants much, since it is fitted at others' expense.
        factor: by which it is divided or multiplied.

    Raises:
        ConfigError: if there are parameters besides weights and biases of layers, such as those of batch norm, which
            makes each answer depend on the whole batch.

    Source: Marquardt 1963, SIAM Journal 11; cross-entropy: Schraudolph 2002, Neural Computation 14.
    """

    damping: Tensor
    calls_whole_layers = False
    against_16_bits = "solves a system of equations"

    @checked
    def __init__(
        self, stack: Stack, *, loss: LossName, damping: Positive, least_damping: Positive, factor: Factor
    ) -> None:
        super().__init__(stack, optimizer=None, schedule="constant")
        self.loss, self.least_damping, self.factor = loss, least_damping, factor
        self._blocks = (*stack.blocks, stack.head)  # a tuple, which registers no module twice
        self.register_buffer("damping", torch.tensor(damping))  # with which a resumed run goes on
        layers = {parameter for block in self._blocks for parameter in block.affine.parameters()}
        if other := [name for name, parameter in stack.named_parameters() if parameter not in layers]:
            raise ConfigError(
                f"algo=lm: {other[0]} is no weight of a layer; batch norm in particular makes each answer depend on "
                f"the whole batch. Take model.batch_norm=false, or another rule."
            )

    def check_batches(self, trainer: pl.Trainer, data: MemoryData) -> None:
        super().check_batches(trainer, data)
        parameters = sum(parameter.numel() for parameter in self.stack.parameters())
        images = min(data.batch_size, len(data.train.labels))
        residuals = images * self.stack.classes
        smaller, real = min(residuals, parameters), 8 if trainer.precision == "64-true" else 4
        # at a time: two matrices as they are made, two in double precision to be solved, and rows of a Jacobian
        convolutions = [block.affine for block in self._blocks if isinstance(block.affine, nn.Conv2d)]
        largest = max((affine.weight.numel() for affine in convolutions), default=0)
        rows = 2 * residuals * (parameters if parameters < residuals else largest)
        needed = smaller**2 * (2 * real + 16) + rows * real
        arithmetic = (
            f"algo=lm: {images:,} images x {self.stack.classes} classes = {residuals:,} residuals, and {parameters:,} "
            f"parameters; take a smaller data.batch_size or model: four matrices of {smaller:,} x {smaller:,} and "
            f"{rows:,} numbers of a Jacobian"
        )
        require_memory(needed, arithmetic, trainer.strategy.root_device)

    def step(self, batch: Batch) -> Step:
        layers, logits, residuals = self._linearized(batch)
        with torch.no_grad():
            damping = self.damping.double()
            fewer = len(residuals) <= sum(parameter.numel() for parameter in self.stack.parameters())
            solve = among_residuals if fewer else among_parameters
            move, slope, solved = solve(layers, residuals, damping * len(logits))
            size = sum(part.double().square().sum() for part in move.values())  # |move|^2
            predicted = (slope / len(logits) + damping * size) / 2

            before = self._halved_loss(logits, batch.labels)
            kept = [parameter.clone() for parameter in move]
            for parameter, part in move.items():
                parameter.sub_(part)
            with self.second_pass(batch):
                after = self._halved_loss(self.stack(batch.images), batch.labels)
            better = solved & (after < before)  # False where something is NaN
            for parameter, old in zip(move, kept, strict=True):
                parameter.copy_(torch.where(better, parameter, old))

            gain = (before - after) / predicted
            raised, lowered = ~better | (gain < 0.25), better & (gain > 0.75)
            measures = {"lm/damping": self.damping.clone(), "lm/kept": better.float()}
            self.damping.mul_(torch.where(raised, self.factor, torch.where(lowered, 1 / self.factor, 1.0)))
            self.damping.clamp_(self.least_damping, MOST_DAMPING)
        if self.loss == "squared_error":
            measures["train/squared_error"] = 2 * before
        return Step(logits, measures=measures)

    def _halved_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss whose gradient is J^T r / B: half of the squared error, or the cross-entropy; in doubles."""
        loss = OUTPUT_LOSS[self.loss](logits.double(), labels)
        return loss / 2 if self.loss == "squared_error" else loss

    def _linearized(self, batch: Batch) -> tuple[list["Layer"], Tensor, Tensor]:
        """Each layer's part of the Jacobian of the residuals, the logits (B, classes), and the residuals (n,)."""
        inputs, products, activity = [], [], batch.images
        with torch.enable_grad():
            for block in self._blocks:
                inputs.append(block.dropout(activity))
                products.append(block.product(inputs[-1]))
                activity = block.after(products[-1].clone())  # a copy, since some work in place
        logits = activity.detach()
        residuals, factor = residuals_of(self.loss, logits, batch.labels)
        errors = torch.autograd.grad(activity, products, factor, is_grads_batched=True)  # for each (classes, B, ...)
        parts = zip(self._blocks, inputs, errors, strict=True)
        return [Layer(block, below.detach(), error.transpose(0, 1)) for block, below, error in parts], logits, residuals


class Layer(NamedTuple):
    """A layer's part of the Jacobian of the residuals."""

    block: Block
    below: Tensor  # input of the product, (B, ...)
    errors: Tensor  # derivative of each image's residuals by its product, (B, classes, units) or (B, classes, C, H, W)


def residuals_of(loss: LossName, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What is to become small, and how it follows from the logits.

    With the squared error, r = z - y. With the cross-entropy, whose Hessian by an image's logits is diag(p) - p p^T =
    S S^T with S = diag(sqrt p) - p sqrt(p)^T, the Jacobian of the logits is multiplied by S^T, and r = -y / sqrt(p), so
    that S r = p - y: J^T J is the Gauss-Newton matrix, J^T r the gradient.

    Args:
        loss: squared_error or cross_entropy.
        logits, labels: shapes (B, classes) and (B,).

    Returns:
        the residuals, shape (B * classes,), in double precision; the derivative of each image's k-th one by its logits,
        shape (classes, B, classes), k first.
    """
    classes, z = logits.shape[1], logits.double()
    targets = one_hot(labels, classes).double()
    if loss == "squared_error":
        factor = torch.eye(classes, dtype=logits.dtype, device=logits.device).unsqueeze(1).expand(-1, len(z), -1)
        return (z - targets).flatten(), factor
    p = z.softmax(1).clamp_min(1e-30)  # (B, classes)
    factor = torch.diag_embed(p.sqrt()) - p.sqrt().unsqueeze(2) * p.unsqueeze(1)  # (B, k, classes)
    return -(targets / p.sqrt()).flatten(), factor.transpose(0, 1).to(logits.dtype)


Solution = tuple[dict[nn.Parameter, Tensor], Tensor, Tensor]


def among_residuals(layers: Sequence[Layer], residuals: Tensor, damping: Tensor) -> Solution:
    """Solve for m = J^T (J J^T + damping I)^-1 r.

    Args:
        layers: whose parts side by side are J, (n, P).
        residuals: r, shape (n,), in double precision.
        damping: above 0, a scalar.

    Returns:
        m by parameter; the scalar r^T J m; whether the system could be solved.
    """
    kernel = reduce(torch.add, map(kernel_of, layers)).double()  # (n, n)
    solution, solved = _solve(kernel, residuals, damping)
    shares = solution.view(layers[0].errors.shape[:2])  # (B, classes)
    move: dict[nn.Parameter, Tensor] = {}
    for layer in layers:
        move |= layer.block.pull(layer.below, torch.einsum("bk,bk...->b...", shares.to(layer.errors), layer.errors))
    return move, residuals @ (kernel @ solution), solved


def among_parameters(layers: Sequence[Layer], residuals: Tensor, damping: Tensor) -> Solution:
    """Solve for m = (J^T J + damping I)^-1 J^T r, see `among_residuals`."""
    jacobian = torch.cat([jacobian_of(layer) for layer in layers], 1)  # (n, P)
    pull = jacobian.T.double() @ residuals  # (P,)
    solution, solved = _solve((jacobian.T @ jacobian).double(), pull, damping)
    parameters = [parameter for layer in layers for parameter in layer.block.affine.parameters()]
    parts = torch.split(solution, [parameter.numel() for parameter in parameters])
    move = {p: part.view_as(p).to(p.dtype) for p, part in zip(parameters, parts, strict=True)}
    return move, pull @ solution, solved


def _solve(matrix: Tensor, right: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Solve (matrix + damping I) x = right, and say whether it could be; else x is anything."""
    damped = matrix.clone()
    damped.diagonal().add_(damping)
    factor, failed = torch.linalg.cholesky_ex(damped)
    return torch.cholesky_solve(right.unsqueeze(1), factor).squeeze(1), failed == 0


def kernel_of(layer: Layer) -> Tensor:
    """J J^T of a layer's own J, shape (n, n).

    A weight's derivative is error times input, so that of two residuals it is the inner product of their errors times
    that of their inputs, to which the bias adds 1. Of a convolution, whose positions share weights, J is needed itself.
    """
    affine, (images, classes) = layer.block.affine, layer.errors.shape[:2]
    if isinstance(affine, nn.Conv2d):
        jacobian = jacobian_of(layer)
        return jacobian @ jacobian.T
    errors = layer.errors.flatten(3).movedim(3, 0) if isinstance(affine, LocalConv2d) else layer.errors.unsqueeze(0)
    inputs = affine.fields(layer.below) if isinstance(affine, LocalConv2d) else layer.below.flatten(1).unsqueeze(0)
    total = errors.new_zeros(images, classes, images, classes)
    for x, e in zip(inputs, errors.flatten(1, 2), strict=True):  # (B, inputs) and (n, units) of each position
        total += (e @ e.T).view_as(total) * (x @ x.T + 1).view(images, 1, images, 1)
    return total.view(images * classes, -1)


def jacobian_of(layer: Layer) -> Tensor:
    """A layer's own part of J, shape (n, P of the layer)."""
    affine = layer.block.affine
    if isinstance(affine, nn.Conv2d):
        padding = cast(tuple[int, int], affine.padding)
        fields = unfold(layer.below, affine.kernel_size, padding=padding, stride=affine.stride)  # (B, inputs, L)
        errors = layer.errors.flatten(3)  # (B, classes, C, L)
        weights = errors.flatten(1, 2) @ fields.transpose(1, 2)  # (B, classes * C, inputs), L positions added up
        return torch.cat([weights.view(*errors.shape[:2], -1), errors.sum(3)], 2).flatten(0, 1)

    def row(below: Tensor, error: Tensor) -> Tensor:
        pulled = layer.block.pull(below.unsqueeze(0), error.unsqueeze(0))
        return torch.cat([part.flatten() for part in pulled.values()])

    return vmap(vmap(row, in_dims=(None, 0)))(layer.below, layer.errors).flatten(0, 1)
