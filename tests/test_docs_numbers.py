"""The pages below docs/: their numbers are right, and the code that they quote and the pictures are what they were."""

import inspect
import json
import re
import statistics
from functools import cache
from importlib import import_module
from math import prod

import matplotlib as mpl
import numpy as np
import pytest
import torch
from conftest import ROOT, a_batch, fresh, settings
from pages import DOCS, PAGES, rows
from torch import nn

from ffbp.algorithms import Algorithm
from ffbp.build import build
from ffbp.data import Batch
from ffbp.models import Block, Stack

ROUNDED = 5.1e-7  # half of the sixth decimal


# -- teaching.md: one step of Forward-Forward

HEADS = ("layer 1", "layer 2", "after the step")


def written(head: str) -> dict[str, np.ndarray]:
    return {row[0].strip("`"): np.array(json.loads(row[-1].strip("`")), float) for row in rows("teaching.md", head)}


GIVEN = written("given")


def softplus(u: float) -> float:
    return np.log1p(np.exp(u))


def layer_by_numpy(k: int, weight, bias, positive, negative) -> dict[str, np.ndarray]:
    """Goodness, loss and gradients of a layer, by the page's formulas."""
    z = {"+": weight @ positive + bias, "-": weight @ negative + bias}
    h = {sign: np.maximum(product, 0) for sign, product in z.items()}
    g = {sign: np.square(activity).mean() for sign, activity in h.items()}
    slope = GIVEN["alpha"] / (1 + np.exp(GIVEN["alpha"] * (g["+"] - g["-"])))
    e = {"+": -slope * 2 / len(bias) * h["+"], "-": slope * 2 / len(bias) * h["-"]}
    found = {f"{name}{k}{sign}": part[sign] for name, part in (("z", z), ("h", h), ("g", g), ("e", e)) for sign in "+-"}
    found |= {f"J{k}": softplus(-GIVEN["alpha"] * (g["+"] - g["-"])), f"k{k}": slope}
    return found | {f"dW{k}": np.outer(e["+"], positive) + np.outer(e["-"], negative), f"db{k}": e["+"] + e["-"]}


def both_layers(w: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = layer_by_numpy(1, w["W1"], w["b1"], GIVEN["x+"], GIVEN["x-"])
    for sign in "+-":
        found[f"n1{sign}"] = found[f"h1{sign}"] / np.sqrt(np.square(found[f"h1{sign}"]).mean())
    return found | layer_by_numpy(2, w["W2"], w["b2"], found["n1+"], found["n1-"])


def by_numpy() -> list[dict[str, np.ndarray]]:
    before = both_layers(GIVEN)
    moved = {name: GIVEN[name] - GIVEN["eta"] * before[f"d{name}"] for name in ("W1", "b1", "W2", "b2")}
    return [before, moved | both_layers(moved)]


def by_the_rule() -> list[dict[str, np.ndarray]]:
    """The same by `algo=ff`: losses, goodness and gradients; with two classes, one label is false."""
    layers = [Block(nn.Linear(4, 2), nn.ReLU()), Block(nn.Linear(2, 2), nn.ReLU())]
    stack = Stack(layers, image_shape=(1, 1, 4), classes=2)
    rate = GIVEN["eta"].item()
    chosen = settings("algo=ff", "algo.negatives=uniform", "algo.optimizer.name=sgd", f"algo.optimizer.lr={rate}")[
        "algo"
    ]
    rule = build("algo", {**chosen, "schedule": "constant"}, stack=stack)
    rule.double()
    names = ("W1", "b1", "W2", "b2")
    parameters = dict(zip(names, [p for block in rule.stack.blocks for p in block.parameters()], strict=True))
    for name, parameter in parameters.items():
        parameter.data = torch.tensor(GIVEN[name])
    batch = Batch(torch.tensor(GIVEN["x+"]).view(1, 1, 1, 4), torch.tensor([0]), a_batch(1).draws)
    found = []
    for _ in range(2):
        rule.train_means.reset()
        _, *losses = rule.losses(batch)
        gradients = torch.autograd.grad(losses, list(parameters.values()))
        measured = {f"J{k + 1}": loss.item() for k, loss in enumerate(losses)}
        means = rule.train_means.by_name()
        for k, sign, name in ((k, *pair) for k in (1, 2) for pair in (("+", "pos"), ("-", "neg"))):
            measured[f"g{k}{sign}"] = means[f"ff/layer_{k - 1}/goodness_{name}"].item()
        pairs = list(zip(parameters.items(), gradients, strict=True))
        measured |= {name: parameter.detach().numpy().copy() for name, parameter in parameters.items()}
        found.append(measured | {f"d{name}": gradient.numpy() for (name, _), gradient in pairs})
        for (_, parameter), gradient in pairs:
            parameter.data -= rate * gradient
    return found


@pytest.mark.parametrize("computed", [by_numpy, by_the_rule])
def test_every_number_of_the_step_by_hand_is_right(computed):
    before, after = computed()
    checked = 0
    for head, expected in zip(HEADS, (before, before, after), strict=True):
        for name, value in written(head).items():
            if name in expected:
                np.testing.assert_allclose(value, expected[name], rtol=0, atol=ROUNDED, err_msg=f"{head}: {name}")
                checked += 1
    assert checked == (len(written("layer 1")) + len(written("layer 2")) + 10 if computed is by_numpy else 20)


def test_the_first_exercise_swaps_the_classes():
    gap = written("layer 1")["g1+"] - written("layer 1")["g1-"]
    for value in (softplus(4 * gap), 4 / (1 + np.exp(-4 * gap))):
        assert f"{value:.6f}" in PAGES["exercises.md"]


# -- forward_forward.md


def test_the_code_that_forward_forward_quotes_is_where_it_says():
    found = 0
    place = re.compile(r"`(\w+)\.(\w+)`")
    for line in PAGES["forward_forward.md"].splitlines():
        *cells, last = [cell.strip() for cell in line.split("|")[1:-1]] or [""]
        if where := place.match(last):
            module = import_module(f"ffbp.algorithms.forward_forward.{where[1]}")
            source = " ".join(inspect.getsource(getattr(module, where[2])).split())
            for code in re.findall(r"`([^`]+)`", cells[-1]):
                assert " ".join(code.split()) in source, code
                found += 1
    assert found > 15


@pytest.mark.parametrize("row", rows("forward_forward.md", "setting"), ids=lambda row: row[0])
def test_what_pitfalls_cost_is_what_the_runs_had(row):
    words, (readout,) = set(re.findall(r"`([^`]+)`", row[0])), re.findall(r"`(\w+)`", row[1])
    name = re.search(r"\((.*)\)", row[3])[1]
    runs = [run for run in json.loads((DOCS / name).read_text())["runs"] if words <= set(run["overrides"])]
    assert len(runs) == 3
    accuracy = statistics.mean(run["metrics"][f"val/acc_{readout}"] for run in runs)
    assert f"{100 * accuracy:.2f}" == row[2]


# -- scaling.md

NETWORKS = {"784-128-10": "[128]", "784-4x2000-10": "[2000,2000,2000,2000]"}


@cache
def untrained(network: str, algo: str) -> Algorithm:
    return fresh(f"algo={algo}", "model=mlp", f"model.widths={NETWORKS[network]}")


def numbers(cells: list[str]) -> list[int]:
    return [int(cell.replace(",", "")) for cell in cells]


def test_the_bytes_of_data_parallel_are_those_of_the_parameters():
    for name, *cells in rows("scaling.md", "data parallel, a step"):
        rule = untrained(*re.match(r"(\S+), `(\w+)`", name).groups())
        parameters = sum(parameter.numel() for parameter in rule.parameters())
        size = 4 * parameters
        assert numbers(cells) == [parameters, size, 2 * size * 1 // 2, 2 * size * 7 // 8]


def test_the_bytes_of_a_pipeline_are_those_of_the_activities():
    for network, batch, *cells in rows("scaling.md", "pipeline, a step"):
        rule = untrained(network, "ff")
        borders = [4 * int(batch) * prod(shape) for shape in rule.stack.activity_shapes()]  # the last is the head's
        read = sum(borders[k] for k in rule.readout_layers)
        expected = [sum(borders), sum(borders), 2 * sum(borders[:-1]), sum(borders[:-1]) + read, 8 * int(batch)]
        assert numbers(cells) == expected
    each = 2 * sum(4 * prod(shape) for shape in rule.stack.activity_shapes())  # of an image, under backpropagation
    gradients = numbers(rows("scaling.md", "data parallel, a step")[2][1:])[1]
    assert f"below some {round(gradients / each, -1):.0f} images" in " ".join(PAGES["scaling.md"].split())


def test_the_shares_of_waiting_are_those_of_the_formulas_and_of_the_chart(monkeypatch):
    monkeypatch.syspath_prepend(DOCS / "pictures")
    waits = import_module("waits")
    for layers, *cells in rows("scaling.md", "layers $k$"):
        k = int(layers)
        monkeypatch.setattr(waits, "LAYERS", k)
        formulas = [(k - 1) / (m + k - 1) for m in (1, 4, 16)]
        formulas += [2 * (k - 1) / (4 * n + 2 * (k - 1)) for n in (10, 10_000)]
        assert cells == [f"{100 * share:.1f} %" for share in formulas]
        charted = [waits.idle(waits.backprop(3, pieces)) for pieces in (1, 4, 16)] + [
            waits.idle(waits.forward_forward(10))
        ]
        assert charted == pytest.approx(formulas[:-1])


# -- reliability.md


def test_the_long_series_had_what_the_page_says():
    resumes, fuzz = (json.loads((ROOT / "results" / f"{name}.json").read_text()) for name in ("resumes", "fuzz"))
    said = " ".join(PAGES["reliability.md"].split())
    assert f"{resumes['cases']} runs were killed {resumes['kills']} times" in said
    assert f"compared {resumes['comparisons']} times, with {len(resumes['differences'])} differences" in said
    kinds = {"checkpoints": "spoiled checkpoints", "settings": "spoiled settings", "overrides": "command lines"}
    for name, what in kinds.items():
        assert f"{fuzz[name]['attempts']} {what}" in said
        assert not fuzz[name]["findings"]


# -- pictures


def test_the_pictures_are_those_that_their_scripts_draw(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(DOCS / "pictures")
    panel, *scripts = map(import_module, ("panel", "flows", "waits"))
    with mpl.rc_context(panel.LOOK):
        for name, figure in [pair for script in scripts for pair in script.figures().items()]:
            path = tmp_path / f"{name}.svg"
            panel.save(figure, path)
            committed = (DOCS / "pictures" / path.name).read_text()
            if f"matplotlib {mpl.__version__}<" in committed:  # another version may draw otherwise
                assert path.read_text() == committed
