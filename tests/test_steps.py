"""What a training step computes, and what it must not compute again."""

import os
import subprocess
import sys
from collections import Counter

import lightning.pytorch as pl
import pytest
import torch
from conftest import a_batch, fresh, settings
from same_run import assert_same_run
from test_resume import BreakAt, Broken
from torch import nn
from torch.nn.functional import conv2d, max_pool2d, relu
from torch.utils._python_dispatch import TorchDispatchMode

from ffbp.algorithms.forward_forward.goodness import mean_square, rms, sum_square
from ffbp.build import build
from ffbp.lifecycle import train as run
from ffbp.lifecycle.trainer import build_trainer
from ffbp.models import Block

# -- products


class Products(TorchDispatchMode):
    """Note the shapes of all products, and whether a convolution's gradient goes to its input."""

    def __init__(self):
        super().__init__()
        self.forward, self.backward = Counter(), Counter()

    def __torch_dispatch__(self, function, types, inputs=(), named=None):
        output, name = function(*inputs, **(named or {})), str(function)
        if name.startswith(("aten.addmm", "aten.convolution.")):
            self.forward[tuple(output.shape)] += 1
        elif name.startswith("aten.mm"):
            self.backward[tuple(output.shape)] += 1
        elif name.startswith("aten.convolution_backward"):
            assert inputs[-1][0] is False, "a gradient that nobody needs"
            self.backward[tuple(output[1].shape)] += 1
        return output


def products_of(algorithm) -> Products:
    batch = a_batch()
    with Products() as products:
        if hasattr(algorithm, "losses"):
            for loss in algorithm.losses(batch):
                loss.backward()
        else:
            algorithm.step(batch).loss.backward()
    return products


def weights_of(algorithm) -> Counter:
    return Counter(tuple(parameter.shape) for parameter in algorithm.parameters() if parameter.dim() > 1)


@pytest.mark.parametrize("model", [("model=mlp", "model.widths=[32,16]"), ("model=cnn",)], ids=["mlp", "cnn"])
def test_forward_forward_computes_a_product_for_each_version_and_a_gradient_for_each_weight(model):
    algorithm = fresh("algo=ff", *model)
    layers, products = len(algorithm.stack.blocks), products_of(algorithm)
    assert products.backward == weights_of(algorithm)  # one for each, and none for an input
    # the first layer shares one; above it, the neutral version, and positives with negatives; the head
    assert products.forward.total() == 1 + 2 * (layers - 1) + 1


def test_local_losses_send_no_error_from_layer_to_layer():
    algorithm = fresh("algo=local_loss", "algo.loss=pred", "model.widths=[32,16]")
    images, products = len(a_batch().labels), products_of(algorithm)
    of_readouts = Counter({(images, 32): 1, (images, 16): 1})  # from each read-out to its layer
    assert products.backward == weights_of(algorithm) + of_readouts
    assert products.forward.total() == 4


# -- faster ways to the same numbers


@pytest.mark.parametrize(("goodness", "plain"), [(sum_square, torch.sum), (mean_square, torch.mean)])
def test_goodness_has_the_bits_and_the_gradient_of_plain_squares(goodness, plain):
    generator = torch.Generator().manual_seed(0)
    activity = torch.randn(6, 3, 5, 5, generator=generator, requires_grad=True)
    weights = torch.rand(6, generator=generator)
    expected = plain(activity.square(), dim=(1, 2, 3))
    assert torch.equal(goodness(activity), expected)
    pairs = [torch.autograd.grad((value * weights).sum(), activity)[0] for value in (goodness(activity), expected)]
    assert torch.equal(*pairs)
    double = activity.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(goodness, double)
    assert torch.autograd.gradgradcheck(goodness, double)


def test_half_precision_is_normalised_in_half_precision_by_a_scale_from_single():
    activity = torch.randn(20, 1000, generator=torch.Generator().manual_seed(0)).relu().bfloat16()
    normal = rms(activity)
    assert normal.dtype == torch.bfloat16
    torch.testing.assert_close(normal.float(), rms(activity.float()), rtol=2**-7, atol=0)


@pytest.mark.parametrize("channels", [1, 4])
def test_a_pooled_convolution_with_channels_last_is_the_plain_one(channels):
    torch.manual_seed(0)
    block = Block(nn.Conv2d(channels, 8, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)).double()
    images = torch.randn(5, channels, 12, 12, dtype=torch.double)
    plain = max_pool2d(relu(conv2d(images, block.affine.weight, block.affine.bias)), 2)
    pooled = block(images)
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(pooled, plain, rtol=1e-12, atol=1e-12)
    parameters = list(block.parameters())
    gradients = [torch.autograd.grad(value.square().sum(), parameters) for value in (pooled, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def test_activations_change_no_view_in_place():
    seen, todo = set(), [loss.grad_fn for loss in fresh("algo=ff").losses(a_batch())]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [below for below, _ in node.next_functions]
    assert not [node for node in seen if "CopySlices" in node.name()]


# -- compile=true


def test_a_compiled_run_has_the_losses_of_a_plain_one_and_resumes_to_the_same_bits(tmp_path):
    words = ("algo=ff", "model.widths=[32]", "algo.negatives=uniform", "data.batch_size=600", "trainer.max_epochs=2")
    plain = settings(*words, "checkpoint.every_n_steps=2")  # in an epoch, full batches and then a smaller one
    compiled = plain | {"compile": True}
    expected = run.train(plain, tmp_path / "plain", bar=False)
    metrics = run.train(compiled, tmp_path / "whole", bar=False)
    assert metrics["test/loss"] == pytest.approx(expected["test/loss"], rel=1e-4)
    torch._dynamo.reset()  # as a new process
    moment = {"_target_": f"{BreakAt.__module__}.BreakAt", "moment": "batch", "number": 2}  # the first small one
    with pytest.raises(Broken):
        run.train(compiled | {"callbacks": {"break_at": moment}}, tmp_path / "broken", bar=False)
    torch._dynamo.reset()
    run.train(compiled, tmp_path / "broken", resume=True, bar=False)
    assert_same_run(tmp_path / "broken", tmp_path / "whole")


class Counting(pl.Callback):
    """It has one hook of its class and one of its own."""

    def __init__(self):
        self.called = Counter()
        self.on_after_backward = lambda *_: self.called.update(["on_after_backward"])

    def on_train_batch_end(self, *_):
        self.called["on_train_batch_end"] += 1


def test_lightning_calls_the_hooks_that_a_callback_has_written_and_no_others(monkeypatch):
    empty = Counter()
    for name in ("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_before_optimizer_step"):
        monkeypatch.setattr(pl.Callback, name, lambda *_, name=name: empty.update([name]))
    counting, algorithm = Counting(), fresh("algo=bp", "model=mlp", "data=digits")
    data = build("data", settings("data=digits")["data"], seed=0)
    chosen = settings("trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=3")["trainer"]
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = build_trainer(chosen | silent | {"limit_val_batches": 0}, callbacks=[counting], logger=False)
    trainer.fit(algorithm, data)
    assert counting.called == {"on_train_batch_end": 3, "on_after_backward": 3}
    assert not empty


# -- freed memory

FILL_TWICE = """
import ctypes, resource, sys
from ffbp.lifecycle.freed_memory import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def fill():
    place = libc.malloc(2**25)
    ctypes.memset(place, 1, 2**25)
    libc.free(place)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's malloc is told to keep memory")
@pytest.mark.parametrize("chosen", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}], ids=["kept", "the user's choice"])
def test_memory_that_a_step_frees_is_not_fetched_from_the_system_again(chosen):
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FILL_TWICE]
    faults = int(subprocess.run(command, env=usual | chosen, check=True, capture_output=True, text=True).stdout)
    assert faults < 100 if not chosen else faults > 1000  # 32 MiB are 8,192 pages
