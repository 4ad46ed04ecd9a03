"""Forward-Forward on MNIST: a layer learns from its own activity, no error comes back (Hinton 2022, arXiv:2212.13345).

    python examples/forward_forward.py data    # has MNIST/raw (else digits): 97.2 % of validation images, in 25 s
    python examples/forward_forward.py data --epochs 100 --lr 6e-3 --dropout 0.3    # 98.4 %: paper_ff, no weight decay

A true label written into an image makes it positive data, a false one negative: there the layer learns to be quieter.
"""

import argparse

import torch
from sklearn import datasets, model_selection
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import MNIST


def load(folder: str) -> list[Tensor]:
    """Images to train on and to validate on, (N, 784) in [0, 1], then the labels of both, (N,)."""
    try:
        images, labels = MNIST(folder).data / 255, MNIST(folder).targets  # (60000, 28, 28), (60000,)
    except RuntimeError:  # no MNIST there: 1,797 digits of 8x8 pixels, drawn as large
        small, labels = (torch.tensor(part) for part in datasets.load_digits(return_X_y=True))  # (1797, 64), (1797,)
        images = F.pad(F.interpolate(small.float().view(-1, 1, 8, 8) / 16, scale_factor=3, mode="bilinear"), [2] * 4)
    held_out = {"test_size": len(labels) // 12, "stratify": labels, "random_state": 0}  # 5,000 of MNIST, as in ffbp
    return model_selection.train_test_split(images.flatten(1), labels, **held_out)


class ForwardForward(nn.Module):
    """A layer, 784-128, and a softmax head that watches it; `steps` is how many batches the training will have."""

    def __init__(self, lr: float, steps: int) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(784, 128), nn.Linear(128, 10)
        self.optimizer = torch.optim.Adam(self.parameters(), lr)
        self.cooldown = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda n: min(1, 2 - (2 * n + 1) / steps))

    def activity(self, images: Tensor, label: Tensor) -> Tensor:  # (B, 784); (B, 10), or (10,) for the same in all
        shown = torch.cat([label.expand(len(images), 10), images[:, 10:]], dim=1)  # (B, 784): first pixels replaced
        return self.layer(shown).relu()  # (B, 128)

    def goodness(self, images: Tensor, label: Tensor) -> Tensor:
        return self.activity(images, label).square().mean(dim=1)  # (B,)

    def goodness_readout(self, images: Tensor) -> Tensor:  # ten passes: which label is the layer most active on?
        return torch.stack([self.goodness(images, label) for label in torch.eye(10)], dim=1)  # (B, 10)

    def softmax_readout(self, images: Tensor) -> Tensor:  # one pass, under a neutral label
        activity = self.activity(images, images.new_full((10,), 0.1)).detach()  # (B, 128): the head's error ends here
        return self.head(F.rms_norm(activity, (128,), eps=1e-8))  # (B, 10)

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        logits = self.softmax_readout(images)  # (B, 10)
        wrong = logits.scatter(1, labels.unsqueeze(1), -torch.inf).softmax(dim=1)  # (B, 10): 0 at the true label
        false = torch.multinomial(wrong, num_samples=1).squeeze(1)  # (B,): likely what the head takes the image for
        positive = self.goodness(images, F.one_hot(labels, 10))  # (B,)
        negative = self.goodness(images, F.one_hot(false, 10))  # (B,): ffbp shares the product of all but ten pixels
        loss = F.softplus(-4 * (positive - negative)).mean() + F.cross_entropy(logits, labels)  # arXiv:2303.08418
        self.optimizer.zero_grad()
        loss.backward()  # each term through one layer: they have no weight in common
        self.optimizer.step()
        self.cooldown.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default="data")
    for name, default in {"epochs": 10, "lr": 3e-3, "dropout": 0.0}.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()
    torch.manual_seed(0)
    images, val_images, labels, val_labels = load(args.folder)
    model = ForwardForward(args.lr, steps=args.epochs * -(-len(images) // 100))
    for epoch in range(args.epochs):
        for batch in torch.randperm(len(images)).split(100):  # (100,)
            model.train_step(F.dropout(images[batch], args.dropout), labels[batch])
        with torch.no_grad():
            answers = model.goodness_readout(val_images), model.softmax_readout(val_images)  # (N, 10) both
        right = [f"{(answer.argmax(dim=1) == val_labels).float().mean():.2%}" for answer in answers]
        print(f"epoch {epoch + 1}: {right[0]} right by goodness, {right[1]} by the softmax head")
