"""What tests of formulas share: a rule in double precision, its gradients, and the forward pass in NumPy."""

import numpy as np
import torch
from conftest import a_batch, fresh

MLP = ("model=mlp", "model.widths=[12,11]")
CONV = ("model=conv", "model.channels=[11,12]", "model.kernel_sizes=[3,3]", "model.strides=[2,2]")


def ready(*words: str, size: int = 6):
    """A rule with random read-outs, in double precision, and a batch for it."""
    algorithm, batch = fresh(*words).double(), a_batch(size)
    for name, parameter in algorithm.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return algorithm, batch._replace(images=batch.images.double())


def gradients_of(algorithm, step) -> dict:
    """By parameter, whether the rule has a loss or writes gradients; zero where it has none."""
    parameters = list(algorithm.parameters())
    if step.gradients:
        return {p: step.gradients[p] for p in parameters}
    found = torch.autograd.grad(step.loss, parameters, allow_unused=True)
    return {p: torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)}


def assert_close(found: torch.Tensor, expected) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=1e-6, atol=1e-12)


def arrays(block) -> tuple[np.ndarray, np.ndarray]:
    return block.affine.weight.detach().numpy(), block.affine.bias.detach().numpy()


def softmax(z: np.ndarray) -> np.ndarray:
    exp = np.exp(z - z.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def forward(algorithm, x: np.ndarray) -> list[np.ndarray]:
    """The image, the activity of each relu layer, and the logits."""
    passed = [x]
    for block in algorithm.stack.blocks:
        w, b = arrays(block)
        passed.append(np.maximum(passed[-1] @ w.T + b, 0))
    w, b = arrays(algorithm.stack.head)
    return [*passed, passed[-1] @ w.T + b]
