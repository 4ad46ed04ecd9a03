"""Our training against bare PyTorch loops that do the same mathematics, side by side in one process.

    python benchmarks/speed.py            # all figures, median of 5, results/speed.json
    python benchmarks/speed.py bp_mlp --repeats 3

Each pair runs in turn, A B A B ..., one epoch of MNIST each, and the median of the ratios counts: the machine may be
shared, and its speed drifts. Ours runs with TensorBoard, metrics.csv and a drawn progress bar; time spent in
validation and saving is in neither side, as in `time/train_seconds`.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from machine import machine
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, embedding, linear, one_hot, relu, softplus
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from ffbp.algorithms import Algorithm
from ffbp.build import build_algorithm
from ffbp.data.sources import idx_set
from ffbp.files import CONF
from ffbp.lifecycle.train import train
from ffbp.settings import Settings

BATCH = 100


def settings(*overrides: str) -> Settings:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["data.val_size=0", "trainer.max_epochs=1", *overrides])
    OmegaConf.update(config, "paths.output_dir", "unused")
    return OmegaConf.to_container(config, resolve=True)


def ours(*overrides: str) -> Callable[[], float]:
    """One epoch of training with all logging switched on; returns its seconds."""
    chosen = settings(*overrides)

    def epoch() -> float:
        with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            chosen["logger"]["tensorboard"]["save_dir"] = folder
            return train(chosen, Path(folder), bar=True)["time/train_seconds"]

    return epoch


def fresh(*overrides: str) -> Algorithm:
    chosen = settings(*overrides)
    return build_algorithm(chosen["algo"], chosen["model"], (1, 28, 28), 10)


def bare_backprop(images: Tensor, labels: Tensor, model: str) -> Callable[[], float]:
    """The training loop of any tutorial, with the images as floats in memory."""

    def epoch() -> float:
        stack = fresh("algo=bp", f"model={model}").stack
        optimizer = torch.optim.Adam(stack.parameters(), lr=3e-3, fused=True)
        started = time.perf_counter()
        order = torch.randperm(len(images))
        for batch in range(0, len(images), BATCH):
            index = order[batch : batch + BATCH]
            loss = cross_entropy(stack(images[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - started

    return epoch


def forward_forward_epoch(
    images: Tensor, labels: Tensor, losses: Callable[[nn.Linear, nn.Linear, Tensor, Tensor], Tensor]
) -> Callable[[], float]:
    """784-128 trained by `losses(layer, head, images, labels)`, a parameter group each for the layer and the head."""
    images = images.flatten(1)

    def epoch() -> float:
        layer, head = nn.Linear(784, 128), nn.Linear(128, 10)
        groups = [{"params": layer.parameters()}, {"params": head.parameters()}]
        optimizer = torch.optim.Adam(groups, lr=3e-3, fused=True)
        started = time.perf_counter()
        order = torch.randperm(len(images))
        for batch in range(0, len(images), BATCH):
            index = order[batch : batch + BATCH]
            loss = losses(layer, head, images[index], labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - started

    return epoch


def plain_losses(layer: nn.Linear, head: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """Hard negatives, margin and a softmax head: three images a sample, each with its label in the first pixels."""
    neutral, positive, negative = x.clone(), x.clone(), x.clone()
    neutral[:, :10] = 0.1
    with torch.no_grad():
        activity = relu(layer(neutral))
        activity = activity * (activity.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    logits = head(activity)
    wrong = logits.detach().scatter(1, y[:, None], -torch.inf).softmax(1)
    positive[:, :10] = one_hot(y, 10).float()
    negative[:, :10] = one_hot(torch.multinomial(wrong, 1).squeeze(1), 10).float()
    difference = relu(layer(positive)).square().mean(1) - relu(layer(negative)).square().mean(1)
    return softplus(-4 * difference).mean() + cross_entropy(logits, y)


def shared_losses(layer: nn.Linear, head: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """The same losses from one matrix product in place of three, as in ours, written out for this one network."""
    x[:, :10] = 0
    product = linear(x, layer.weight, layer.bias)  # (B, 128)
    patterns = layer.weight[:, :10].T  # (10, 128)
    with torch.no_grad():
        activity = relu(product + patterns.mean(0))
        activity = activity * (activity.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    logits = head(activity)
    wrong = logits.detach().scatter(1, y[:, None], -torch.inf).softmax(1)
    false = torch.multinomial(wrong, 1).squeeze(1)
    positive = relu(product + embedding(y, patterns)).square().mean(1)
    negative = relu(product + embedding(false, patterns)).square().mean(1)
    return softplus(-4 * (positive - negative)).mean() + cross_entropy(logits, y)


def per_image_pipeline(data_dir: str) -> Callable[[], float]:
    """What many templates do: torchvision's dataset, ToTensor and Normalize for each image, a DataLoader."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    source = datasets.MNIST(data_dir, train=True, transform=transform)

    def epoch() -> float:
        stack = fresh("algo=bp", "model=mlp").stack
        optimizer = torch.optim.Adam(stack.parameters(), lr=3e-3, fused=True)
        started = time.perf_counter()
        for images, labels in DataLoader(source, BATCH, shuffle=True):
            loss = cross_entropy(stack(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - started

    return epoch


def timed(task: Callable[[], object]) -> Callable[[], float]:
    def seconds() -> float:
        started = time.perf_counter()
        task()
        return time.perf_counter() - started

    return seconds


def label_inference(images: Tensor) -> tuple[Callable[[], float], Callable[[], float]]:
    """All ten labels of 10,000 images judged by goodness, against one forward pass of 784-128-10."""
    judge = fresh("algo=ff", "algo.readout=goodness").eval()
    stack = fresh("algo=bp", "model=mlp").stack.eval()

    @torch.no_grad()
    def forward() -> Tensor:
        return stack(images).argmax(1)

    return timed(lambda: judge.predict(images)), timed(forward)


def compare(repeats: int, a: Callable[[], float], b: Callable[[], float]) -> dict[str, float]:
    """Run both once to warm up, then in turn, and take the medians."""
    a(), b()
    pairs = [(a(), b()) for _ in range(repeats)]
    return {
        "ours_seconds": statistics.median(pair[0] for pair in pairs),
        "other_seconds": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
        "least": min(pair[0] / pair[1] for pair in pairs),
        "most": max(pair[0] / pair[1] for pair in pairs),
    }


def main() -> None:
    cases = {
        "bp_cnn": ("backprop, the article's CNN, against a bare loop", 1.10),
        "bp_mlp": ("backprop, 784-128-10, against a bare loop", 1.8),
        "ff_mlp": ("Forward-Forward, 784-128, against a bare loop", 1.3),
        "ff_mlp_shared": ("Forward-Forward, 784-128, against a bare loop with our shared product", None),
        "pipeline": ("backprop, 784-128-10, against torchvision's per-image pipeline", 0.2),
        "label_inference": ("goodness of ten labels, 10,000 images, against one forward pass", 2.0),
    }
    parser = argparse.ArgumentParser()
    parser.add_argument("case", nargs="*", help=", ".join(cases))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()

    data_dir = settings()["data"]["data_dir"]
    training, test = idx_set("mnist", Path(data_dir))
    images, labels = training.images.float() / 255, training.labels
    pairs = {
        "bp_cnn": lambda: (ours("algo=bp", "model=cnn"), bare_backprop(images, labels, "cnn")),
        "bp_mlp": lambda: (ours("algo=bp", "model=mlp"), bare_backprop(images, labels, "mlp")),
        "ff_mlp": lambda: (ours("algo=ff", "model=mlp"), forward_forward_epoch(images, labels, plain_losses)),
        "ff_mlp_shared": lambda: (ours("algo=ff", "model=mlp"), forward_forward_epoch(images, labels, shared_losses)),
        "pipeline": lambda: (ours("algo=bp", "model=mlp"), per_image_pipeline(data_dir)),
        "label_inference": lambda: label_inference(test.images.float() / 255),
    }
    figures = {}
    for case in arguments.case or cases:
        if case not in cases:
            parser.error(f"{case}: one of {', '.join(cases)} expected")
        what, limit = cases[case]
        figures[case] = {"what": what, "limit": limit, **compare(arguments.repeats, *pairs[case]())}
        row = figures[case]
        wanted = f", at most {limit} wanted" if limit else ""
        print(f"{what}: {row['ratio']:.2f} ({row['least']:.2f} to {row['most']:.2f}){wanted};", end=" ")
        print(f"{row['ours_seconds']:.3f} s and {row['other_seconds']:.3f} s", flush=True)
    about = machine() | {"repeats": arguments.repeats, "threads": torch.get_num_threads()}
    if arguments.out:
        arguments.out.write_text(json.dumps({"about": about, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
