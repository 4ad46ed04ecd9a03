"""Stacks: their sizes, and what their parts do."""

import pytest
import torch
from conftest import fresh, settings
from torch import nn

from ffbp.build import build
from ffbp.errors import ConfigError
from ffbp.models import Stack


def stack(*overrides: str) -> Stack:
    model = {name: value for name, value in settings(*overrides)["model"].items() if name != "name"}
    return build("model", model, image_shape=[1, 28, 28], classes=10)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_papers_cnn_has_93322_parameters():
    network = stack("model=cnn")
    assert [count(block) for block in network.blocks] == [320, 18_496, 36_928, 36_928]
    assert count(network) == 93_322
    assert network.activity_shapes() == [(32, 13, 13), (64, 5, 5), (64, 3, 3), (64,)]


@pytest.mark.parametrize(
    ("overrides", "parameters"),
    [
        ((), 784 * 128 + 128 + 128 * 10 + 10),
        (("model.widths=[500,300]",), 784 * 500 + 500 + 500 * 300 + 300 + 300 * 10 + 10),
        (("model.batch_norm=true",), 784 * 128 + 128 + 2 * 128 + 128 * 10 + 10),
    ],
)
def test_an_mlp_has_as_many_parameters_as_its_widths_say(overrides, parameters):
    assert count(stack("model=mlp", *overrides)) == parameters


def test_forward_forward_has_as_many_parameters_as_backprop_on_one_hidden_layer():
    assert count(fresh("algo=ff", "model=mlp")) == count(fresh("algo=bp", "model=mlp")) == 101_770


@pytest.mark.parametrize(("name", "function"), [("relu", torch.relu), ("tanh", torch.tanh), ("sigmoid", torch.sigmoid)])
def test_an_mlp_equals_its_formula(name, function):
    network = stack("model=mlp", f"model.activation={name}").eval()
    images = torch.rand(3, 1, 28, 28)
    first, head = network.blocks[0].affine, network.head.affine
    expected = function(images.flatten(1) @ first.weight.T + first.bias) @ head.weight.T + head.bias
    torch.testing.assert_close(network(images), expected)


def test_dropout_drops_in_training_only():
    network = stack("model=mlp", "model.input_dropout=0.5")
    images = torch.rand(3, 1, 28, 28)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize(
    "wrong",
    ["model.widths=[]", "model.widths=[0]", "model.widths=[1.5]", "model.activation=gelu", "model.dropout=1",
     "model.dropout=nan", "model.batch_norm=maybe"],
)  # fmt: skip
def test_what_no_mlp_can_be_is_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=wrong.split("=")[0].replace(".", r"\.")):
        stack("model=mlp", wrong)
