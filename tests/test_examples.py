"""The examples fit on a page, run anywhere, and take the framework's steps."""

import copy
import importlib.util
import re

import lightning.pytorch as pl
import pytest
import torch
from conftest import ROOT, settings

from ffbp.data.draws import stream_seed
from ffbp.lifecycle import train as run
from ffbp.models.dropout import Dropout

EXAMPLES = ROOT / "examples"
STEPS = 10
RIGHT = {"forward_forward": 85, "backpropagation": 90}  # %, of digits after 10 epochs; by chance it would be 10
RULES = {"forward_forward": "ff", "backpropagation": "bp"}


def example(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", RIGHT)
def test_an_example_fits_on_a_page_and_needs_no_framework(name):
    source = (EXAMPLES / f"{name}.py").read_text()
    assert len(source.splitlines()) <= 80
    imported = set(re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE))
    assert imported <= {"argparse", "torch", "torchvision", "sklearn"}


def test_both_read_the_data_alike():
    one, other = ((EXAMPLES / f"{name}.py").read_text() for name in RIGHT)
    load = re.compile(r"^def load.*?(?=^class)", re.DOTALL | re.MULTILINE)
    assert load.search(one).group() == load.search(other).group()


@pytest.mark.parametrize("name", RIGHT)
def test_an_example_has_the_learning_rate_of_its_rule(name):
    written = re.search(r'"lr": ([\d.e-]+)', (EXAMPLES / f"{name}.py").read_text()).group(1)
    assert float(written) == settings(f"algo={RULES[name]}", "model=mlp")["algo"]["optimizer"]["lr"]


@pytest.mark.parametrize("name", RIGHT)
def test_an_example_learns_the_digits_where_there_is_no_mnist(name, warm):
    script = warm("nowhere", "--epochs", "10", script=f"examples/{name}.py")
    assert script.wait() == 0, script.stderr
    lines = script.stdout.splitlines()
    assert len(lines) == 10
    right = [float(word) for word in re.findall(r"([\d.]+)%", lines[-1])]
    assert len(right) == (2 if name == "forward_forward" else 1)
    assert min(right) > RIGHT[name]


class Steps(pl.Callback):
    """Note each batch before it is trained on, the weights before the first and after each, and the read-outs."""

    def on_train_start(self, trainer, pl_module):
        Steps.batches, Steps.weights = [], [self.now(pl_module)]

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        Steps.batches.append((batch.images.flatten(1).clone(), batch.labels.clone(), copy.deepcopy(batch.draws)))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        Steps.weights.append(self.now(pl_module))

    @torch.no_grad()
    def on_train_end(self, trainer, pl_module):
        pl_module.eval()
        images, _, _ = Steps.batches[0]
        images = images.view(-1, 1, 28, 28)
        Steps.readouts, Steps.answer = pl_module.readouts(images), pl_module.answer(images)

    @staticmethod
    def now(algorithm):
        return [parameter.detach().clone() for parameter in algorithm.parameters()]  # layer, then head


@pytest.fixture
def in_double():
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float)


def framework_steps(directory, *overrides: str) -> float:
    """Train 784-128 for ten batches of digits, everything noted in `Steps`; returns the learning rate."""
    short = ("trainer.precision=64-true", "trainer.max_epochs=1", f"trainer.limit_train_batches={STEPS}")
    chosen = settings("model=mlp", *overrides, *short)
    chosen["callbacks"] = {"steps": {"_target_": f"{Steps.__module__}.Steps"}}
    run.train(chosen, directory, bar=False)
    assert len(Steps.batches) == STEPS
    return chosen["algo"]["optimizer"]["lr"]


def assert_same(found, expected):
    torch.testing.assert_close(list(found), list(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_forward_forward_takes_the_frameworks_steps(rate, in_double, tmp_path, monkeypatch):
    lr = framework_steps(tmp_path, "algo=ff", f"model.input_dropout={rate}")
    model = example("forward_forward").ForwardForward(lr, steps=STEPS)
    parameters = list(model.parameters())
    with torch.no_grad():
        for parameter, weight in zip(parameters, Steps.weights[0], strict=True):
            parameter.copy_(weight)
    for (images, labels, draws), weights in zip(Steps.batches, Steps.weights[1:], strict=True):

        def same_draw(wrong, num_samples, labels=labels, draws=draws):
            """Draw classes with the probabilities `wrong` as the framework does, from its numbers, by Gumbel noise."""
            assert (wrong.gather(1, labels.unsqueeze(1)) == 0).all()
            return (wrong.log() - torch.log(-torch.log(draws.uniform(10)))).argmax(1, keepdim=True)

        monkeypatch.setattr(torch, "multinomial", same_draw)
        torch.manual_seed(stream_seed(*draws.key, 0))  # as the framework seeds dropout
        model.train_step(Dropout(rate)(images), labels)
        assert_same(parameters, weights)
    images, _, _ = Steps.batches[0]
    assert_same([model.goodness_readout(images)], [Steps.readouts["goodness"]])
    assert_same([model.softmax_readout(images)], [Steps.readouts["softmax"]])


def test_backpropagation_takes_the_frameworks_steps(in_double, tmp_path):
    lr = framework_steps(tmp_path, "algo=bp")
    model = example("backpropagation").Backpropagation(lr, steps=STEPS)
    for weight, start in zip(model.weights, Steps.weights[0], strict=True):
        weight.copy_(start)
    for (images, labels, _), weights in zip(Steps.batches, Steps.weights[1:], strict=True):
        model.train_step(images, labels)
        assert_same(model.weights, weights)
    images, _, _ = Steps.batches[0]
    _, answer = model.forward(images)
    assert_same([answer], [Steps.answer.softmax(1)])
