"""Stacks: their sizes, and what their parts do."""

import pytest
import torch
from conftest import fresh, settings
from torch import nn
from torch.nn.functional import conv2d, max_pool2d

from ffbp.build import build
from ffbp.errors import ConfigError
from ffbp.models import Stack
from ffbp.models.dropout import Dropout
from ffbp.models.local_layer import LocalConv2d


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


def test_units_start_in_gaussian_windows_that_lie_in_the_image():
    torch.manual_seed(0)
    everywhere = stack("model=mlp").blocks[0].affine.weight.double()
    torch.manual_seed(0)
    in_windows = stack("model=mlp", "model.initial_window=3").blocks[0].affine.weight.double()
    torch.testing.assert_close(in_windows.norm(dim=1), everywhere.norm(dim=1), rtol=1e-5, atol=0)
    windows = (in_windows / everywhere).view(128, 28, 28).log()
    for window in (windows, windows.mT):  # the logarithm of a Gaussian is a parabola
        torch.testing.assert_close(window.diff(n=2), torch.full_like(window[..., 2:], -1 / 9), rtol=1e-3, atol=1e-3)
        # its greatest value is within half a pixel of its middle, which is three pixels or more from the edge
        assert all(3 <= place <= 24 for place in window.amax(1).argmax(1))
    assert len(windows.flatten(1).argmax(1).unique()) > 60  # each unit has a place of its own


def test_dense_layers_may_follow_convolutions():
    small = ("model.channels=[4]", "model.kernel_sizes=[5]", "model.strides=[2]", "model.pools=[2]")
    network = stack("model=conv", *small, "model.widths=[7,3]", "model.dropout=0.5").eval()
    assert network.activity_shapes() == [(4, 7, 7), (7,), (3,)]
    assert [block.dropout.p for block in network.blocks] == [0, 0.5, 0.5]
    first, second, third, head = (block.affine for block in (*network.blocks, network.head))
    images = torch.rand(3, 1, 28, 28)
    maps = max_pool2d(conv2d(images, first.weight, first.bias, stride=2, padding=2).relu(), 2)
    units = (maps.flatten(1) @ second.weight.T + second.bias).relu() @ third.weight.T + third.bias
    torch.testing.assert_close(network(images), units.relu() @ head.weight.T + head.bias)


def test_dropout_drops_in_training_only():
    network = stack("model=mlp", "model.input_dropout=0.5")
    images = torch.rand(3, 1, 28, 28)
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))


@pytest.mark.parametrize(
    "wrong",
    ["model.widths=[]", "model.widths=[0]", "model.widths=[1.5]", "model.activation=gelu", "model.dropout=1",
     "model.dropout=nan", "model.batch_norm=maybe", "model.initial_window=0.4"],
)  # fmt: skip
def test_what_no_mlp_can_be_is_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=wrong.split("=")[0].replace(".", r"\.")):
        stack("model=mlp", wrong)


def test_a_local_layer_equals_its_formula():
    layer = LocalConv2d(2, 3, (6, 5), kernel_size=2, stride=2)
    maps = torch.rand(4, 2, 6, 5)
    product = layer(maps)
    assert product.shape == (4, 3, 3, 2)
    for row in range(3):
        for column in range(2):
            place = row * 2 + column
            field = maps[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            field = field.movedim(1, -1).flatten(1)  # (4, inputs)
            expected = field @ layer.weight[place] + layer.bias[place]
            torch.testing.assert_close(product[:, :, row, column], expected)


def test_hintons_local_network_has_about_two_thousand_units_a_layer():
    network = stack("model=local")
    assert network.activity_shapes() == [(128, 4, 4), (220, 3, 3), (512, 2, 2)]
    assert count(network.blocks[0]) == 16 * (100 + 1) * 128
    assert count(network.blocks[1]) == 9 * (128 * 4 + 1) * 220
    assert count(network.blocks[2]) == 4 * (220 * 4 + 1) * 512


def test_peers_are_all_units_with_weights_of_their_own():
    assert stack("model=conv").unit_shapes() == [(32, 1, 1), (64, 1, 1), (128, 1, 1)]
    assert stack("model=local").unit_shapes() == [(128, 4, 4), (220, 3, 3), (512, 2, 2)]
    assert stack("model=mlp").unit_shapes() == [(128,)]


@pytest.mark.parametrize(
    "wrong",
    ["model.kernel_sizes=[10,2]", "model.kernel_sizes=[29,2,2]", "model.kernel_sizes=[10,9,2]", "model.strides=[6,1]"],
)  # fmt: skip
def test_fields_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"model\.(kernel_sizes|channels|strides)"):
        stack("model=local", wrong)


@pytest.mark.parametrize("wrong", ["model.kernel_sizes=[4,5,3]", "model.strides=[2,2,0]", "model.strides=[2,2]"])
def test_windows_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"model\.(kernel_sizes|channels|strides)"):
        stack("model=conv", wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.3, 0.0013])  # of which bfloat16 has no more than 0 and 0.0039 next to a mask of ones
def test_dropout_drops_a_share_of_p_and_scales_the_rest_as_pytorchs_does(p, dtype):
    ones, count = torch.ones(1000, 1000, dtype=dtype, requires_grad=True), 1_000_000
    torch.manual_seed(0)
    dropped = Dropout(p)(ones)
    assert dropped.dtype == dtype
    assert dropped.unique().tolist() == nn.Dropout(p)(ones).unique().tolist()  # 0 and 1 / (1 - p)
    assert abs(int((dropped == 0).sum()) - p * count) < 5 * (count * p * (1 - p)) ** 0.5  # five standard deviations
    dropped.sum().backward()
    torch.testing.assert_close(ones.grad, dropped.detach(), rtol=0, atol=0)
    torch.manual_seed(0)
    assert (Dropout(p)(ones) == dropped).all()
    assert not (Dropout(p)(ones) == dropped).all()
    assert Dropout(p).eval()(ones) is Dropout(0.0)(ones) is ones
