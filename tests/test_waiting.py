"""A training step asks nothing of the device that it would have to wait for, and computes everything there.

Tensors on the device `meta` have a shape and no content: a value read from one (.item(), bool, float, cpu()) raises an
error, and so does an operation that mixes it with a tensor on the CPU. What passes here therefore queues its work on a
GPU without waiting, with no copy to or from it.
"""

import pytest
import torch
from conftest import fresh

from ffbp.algorithms import ForwardForward
from ffbp.data import Batch
from ffbp.files import CONF

RULES = sorted(path.stem for path in (CONF / "algo").glob("*.yaml"))
WAITS = {"lm": "accepts or takes back each step by its loss"}
VARIANTS = (
    [[rule] for rule in RULES]
    + [["ff", f"algo.negatives={kind}"] for kind in ("uniform", "all", "hybrid", "blend", "noise")]
    + [
        ["ff", "algo.peer_normalization=hinton", "model.widths=[20,10]", "model.input_dropout=0.1"],
        ["ff", "model=conv", "algo.negatives=hybrid", "algo.goodness_per=position"],
        ["bp", "model=mlp", "model.batch_norm=true", "model.dropout=0.1"],
    ]
)


class NoContent:
    """A batch's draws: their shapes alone."""

    key = (0, 0, 0)

    def uniform(self, *shape):
        return torch.empty(8, *shape, device="meta")


def step_without_content(rule):
    """Take a step up to the gradients; returns those parameters that got one."""
    batch = Batch(
        torch.empty(8, 1, 28, 28, device="meta"), torch.empty(8, device="meta", dtype=torch.long), NoContent()
    )
    if isinstance(rule, ForwardForward):
        for loss in rule.losses(batch):
            loss.backward()
    else:
        step = rule.step(batch)
        rule.record(step, batch)
        for parameter, gradient in step.gradients.items():
            parameter.grad = gradient
        if step.loss is not None:
            step.loss.backward()
    return [parameter for parameter in rule.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("words", VARIANTS, ids=" ".join)
def test_a_step_waits_for_no_device(words):
    name, *changes = words
    rule = fresh(f"algo={name}", *changes).to("meta").train()
    if name in WAITS:
        pytest.skip(f"{name} {WAITS[name]}")
    assert step_without_content(rule)


def test_a_step_that_reads_a_value_is_noticed():
    rule = fresh("algo=bp", "model=mlp").to("meta")
    plain = rule.record
    rule.record = lambda step, batch: plain(step._replace(measures={"norm": step.loss * float(step.loss)}), batch)
    with pytest.raises(RuntimeError, match="meta"):
        step_without_content(rule)
