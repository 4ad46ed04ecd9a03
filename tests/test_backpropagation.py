"""docs/backpropagation.md: its numbers are right, by NumPy and by `algo=bp_explicit`; so are its variants."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import ROOT, a_batch, fresh, settings
from torch import nn

import ffbp
from ffbp.algorithms import bp_explicit
from ffbp.algorithms.bp_explicit import BackpropExplicit
from ffbp.algorithms.optimizers import make_optimizer
from ffbp.data import Batch
from ffbp.errors import ConfigError
from ffbp.lifecycle import train as run
from ffbp.models import Block, Stack, batch_norm
from ffbp.models.batch_norm import BatchNorm
from ffbp.settings import OptimizerSettings

PAGE = (ROOT / "docs" / "backpropagation.md").read_text()
ROUNDED = 5.1e-7  # half of the sixth decimal


def table(head: str) -> dict[str, np.ndarray]:
    """The values of a table of the page by quantity, scalars as vectors of one."""
    body = re.search(rf"\n\| {head} \|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", PAGE)[1]
    cells = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in body.splitlines()]
    return {name: np.atleast_1d(np.array(json.loads(value), dtype=float)) for name, *_, value in cells}


GIVEN = table("given")
STEPS = {head: table(head) for head in ("forward", "backward", "gradients", "after the step")}


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def forward(g: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    z1 = g["W(1)"] @ GIVEN["x"] + g["b(1)"]
    z2 = g["W(2)"] @ sigmoid(z1) + g["b(2)"]
    loss = np.square(GIVEN["y"] - sigmoid(z2)).sum(keepdims=True) / 2
    return {"z(1)": z1, "a(1)": sigmoid(z1), "z(2)": z2, "a(2)": sigmoid(z2), "J": loss}


def by_numpy() -> dict[str, dict[str, np.ndarray]]:
    passed = forward(GIVEN)
    a1, a2 = passed["a(1)"], passed["a(2)"]
    back = {"dJ/da(2)": a2 - GIVEN["y"], "f'(z(2))": a2 * (1 - a2), "f'(z(1))": a1 * (1 - a1)}
    back["e(2)"] = back["dJ/da(2)"] * back["f'(z(2))"]
    back["dJ/da(1)"] = GIVEN["W(2)"] * back["e(2)"]
    back["e(1)"] = back["dJ/da(1)"] * back["f'(z(1))"]
    gradients = {"dW(2)": back["e(2)"] * a1, "db(2)": back["e(2)"]}
    gradients |= {"dW(1)": np.outer(back["e(1)"], GIVEN["x"]), "db(1)": back["e(1)"]}
    moved = {name: GIVEN[name] - GIVEN["eta"] * gradients[f"d{name}"] for name in ("W(1)", "b(1)", "W(2)", "b(2)")}
    return {"forward": passed, "backward": back, "gradients": gradients, "after the step": moved | forward(moved)}


def by_the_rule() -> dict[str, dict[str, np.ndarray]]:
    """The same from the project's parts.

    Its networks end in a linear head. Here that is the number 1, so that what is trained is the sigmoid below. Its
    squared error has no 1/2: errors and gradients are twice the page's, and half the learning rate is the same step.
    """
    layers = [Block(nn.Linear(2, 2), nn.Sigmoid()), Block(nn.Linear(2, 1), nn.Sigmoid())]
    stack = Stack(layers, image_shape=(1, 1, 2), classes=1).double()
    values = [GIVEN["W(1)"], GIVEN["b(1)"], GIVEN["W(2)"][None], GIVEN["b(2)"], [[1.0]], [0.0]]
    for parameter, value in zip(stack.parameters(), values, strict=True):
        parameter.data = torch.tensor(np.array(value))
    settings = OptimizerSettings(name="sgd", lr=GIVEN["eta"].item() / 2, weight_decay=0, momentum=0)
    rule = BackpropExplicit(stack, loss="squared_error", optimizer=settings, schedule="constant")
    images = torch.tensor(GIVEN["x"]).view(1, 1, 1, 2)
    batch = Batch(images, torch.tensor([0]), a_batch(1).draws)  # class 0 of one: the target is 1
    names = ("W(1)", "b(1)", "W(2)", "b(2)")
    parameters = dict(zip(names, [p for block in layers for p in block.parameters()], strict=True))

    def passed() -> dict[str, torch.Tensor]:
        one, two, head = rule._forward(batch.images)
        loss = bp_explicit.OUTPUT_LOSS["squared_error"](head.activity, batch.labels) / 2
        products = {"z(1)": one.after[0][1], "z(2)": two.after[0][1]}
        return {"a(1)": one.activity, "a(2)": two.activity, "J": loss, **products}

    before = passed()
    found = {f"d{name}": rule.step(batch).gradients[p] / 2 for name, p in parameters.items()}
    back = {"dJ/da(2)": before["a(2)"] - 1, "e(2)": found["db(2)"], "e(1)": found["db(1)"]}
    for k in (1, 2):
        made = before[f"a({k})"]
        back[f"f'(z({k}))"] = bp_explicit.backward(nn.Sigmoid(), made, made, torch.ones_like(made))
    back["dJ/da(1)"] = layers[1].send_back(back["e(2)"][None], (1, 2))
    optimizer = make_optimizer([{"params": list(parameters.values()), "lr": settings.lr}], settings)
    for name, parameter in parameters.items():
        parameter.grad = 2 * found[f"d{name}"]
    optimizer.step()
    moved = {"forward": before, "backward": back, "gradients": found, "after the step": parameters | passed()}
    flat = {head: {k: v.detach().numpy() for k, v in part.items()} for head, part in moved.items()}
    return {
        head: {k: v if "(1)" in k and "W" in k else v.flatten() for k, v in part.items()} for head, part in flat.items()
    }


@pytest.mark.parametrize("computed", [by_numpy, by_the_rule])
def test_every_number_of_the_page_is_right(computed):
    assert GIVEN.keys() == {"x", "y", "W(1)", "b(1)", "W(2)", "b(2)", "eta"}
    expected = computed()
    for head, written in STEPS.items():
        assert written.keys() == expected[head].keys()
        for name, value in written.items():
            assert value.shape == expected[head][name].shape, name
            np.testing.assert_allclose(value, expected[head][name], rtol=0, atol=ROUNDED, err_msg=f"{head}: {name}")
    assert expected["after the step"]["J"] < expected["forward"]["J"]


def test_the_numbers_that_correct_others_are_right():
    a = sigmoid(np.float64(1.32))
    for value in (a, a - 1, a * (1 - a), (a - 1) * a * (1 - a), 4 / 27):
        assert f"{value:.6f}" in PAGE
    answers = np.linspace(0, 1, 3001)
    errors = np.abs((answers - 1) * answers * (1 - answers))
    assert errors.max() == pytest.approx(4 / 27)
    assert answers[errors.argmax()] == pytest.approx(1 / 3)


def test_the_code_that_the_page_quotes_is_there():
    code = (ROOT / "src" / "ffbp" / "algorithms" / "bp_explicit.py").read_text()
    rows = re.search(r"\| \| where \| code \|\n\|[-|]+\n((?:\|[^\n]*\n)+)", PAGE)[1].replace("\\|", "OR")
    quoted = [words.replace("OR", "|") for row in rows.splitlines() for words in re.findall(r"`([^`]+)`", row)]
    quoted = [words.split(".")[-1] if words.startswith("BackpropExplicit.") else words for words in quoted]
    assert len(quoted) > 12
    assert [words for words in quoted if words not in code and words != ".grad"] == []


# -- the variants


def moved(name: str, gradients: list[np.ndarray], w: np.ndarray, eta: float, decay: float, mu: float) -> np.ndarray:
    """The page's formulas for a weight."""
    v = m = s = np.zeros_like(w)
    for t, given in enumerate(gradients, 1):
        g = given if name == "adamw" else given + decay * w
        v = mu * v + g
        if name == "sgd":
            w = w - eta * g
        elif name == "momentum":
            w = w - eta * v
        elif name == "nesterov":
            w = w - eta * (g + mu * v)
        elif name == "rmsprop":
            s = 0.99 * s + 0.01 * g**2
            w = w - eta * g / (np.sqrt(s) + 1e-8)
        else:
            w = w - eta * decay * w if name == "adamw" else w
            m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
            w = w - eta * (m / (1 - 0.9**t)) / (np.sqrt(s / (1 - 0.999**t)) + 1e-8)
    return w


@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"])
def test_every_optimizer_moves_by_its_formula(name, decay):
    assert f"`algo.optimizer.name={name}`" in PAGE
    w, *gradients = np.random.default_rng(0).normal(size=(5, 7))
    parameter = nn.Parameter(torch.tensor(w))
    settings = OptimizerSettings(name=name, lr=0.05, weight_decay=decay, momentum=0.8)
    optimizer = make_optimizer([{"params": [parameter], "lr": settings.lr}], settings)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(parameter.detach(), moved(name, gradients, w, 0.05, decay, 0.8), rtol=1e-6)


@pytest.mark.parametrize("processes", [False, True], ids=["alone", "among processes"])
@pytest.mark.parametrize(
    ("shape", "order"),
    [((6, 3), torch.contiguous_format), ((6, 3, 5, 4), torch.contiguous_format), ((6, 3, 5, 4), torch.channels_last)],
    ids=["units", "maps", "maps, channels last"],
)
def test_batch_norm_equals_its_formula(shape, order, processes, monkeypatch):
    """On the way that several processes take, with one of them, too."""
    monkeypatch.setattr(batch_norm.distributed, "is_initialized", lambda: processes)
    monkeypatch.setattr(batch_norm.distributed, "all_reduce", lambda total: None)
    norm = BatchNorm(3).double()
    norm.weight.data, norm.bias.data = torch.rand(2, 3, dtype=torch.double)
    z = torch.randn(shape, dtype=torch.double).contiguous(memory_format=order).requires_grad_()
    rows = z.movedim(1, -1).reshape(-1, 3)  # each position of a map is a row
    mean, variance = rows.mean(0), rows.var(0, unbiased=False)
    expected = norm.weight * (rows - mean) / (variance + 1e-5).sqrt() + norm.bias
    made = norm(z)
    assert processes or made.is_contiguous(memory_format=order)  # no copy in another order
    torch.testing.assert_close(made.movedim(1, -1).reshape(-1, 3), expected)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * rows.var(0))
    outer = torch.randn_like(made)
    found, wanted = (torch.autograd.grad((y * outer).sum(), z, retain_graph=True)[0] for y in (
        made, expected.view(*shape[:1], *shape[2:], 3).movedim(-1, 1)))  # fmt: skip
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("model", "units"), [("cnn", [32, 64, 64, 64]), ("conv", [32, 64, 128]), ("local", [128, 220, 512])]
)
def test_convolutions_with_batch_norm_have_the_same_weights_at_first_and_a_norm_in_each_layer(model, units):
    words = ("algo=bp", f"model={model}")
    plain, normed = fresh(*words).stack, fresh(*words, "model.batch_norm=true").stack
    state = normed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    assert [block.after[0].num_features for block in normed.blocks if isinstance(block.after[0], BatchNorm)] == units


def test_batch_norm_is_refused_on_a_cnn_where_its_derivative_is_not_written_out():
    with pytest.raises(ConfigError, match="BatchNorm is not written out"):
        fresh("algo=bp_explicit", "model=cnn", "model.batch_norm=true")


@pytest.mark.parametrize("algo", ["bp", "ff", "local_loss"])
def test_the_cnn_learns_with_batch_norm_and_then_answers_for_each_image_alone(algo, tmp_path):
    words = (f"algo={algo}", "model=cnn", "model.batch_norm=true", "trainer.max_epochs=1")
    few = [f"trainer.limit_{part}_batches={count}" for part, count in (("train", 3), ("val", 1), ("test", 1))]
    run.train(settings(*words, *few, "data.eval_batch_size=20"), tmp_path, bar=False)
    model, images = ffbp.load(tmp_path), a_batch(8).images
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    assert all(norm.running_mean.any() and not torch.equal(norm.weight, torch.ones_like(norm.weight)) for norm in norms)
    assert torch.equal(model.predict(images), torch.cat([model.predict(image) for image in images]))
