"""What a network answered in an evaluation: which classes it confuses, and its worst mistakes."""

import torch
from torch import Tensor

from ffbp.callbacks.drawing import Picture, heat_map, tiles
from ffbp.data import Batch

MOST_CLASSES = 100  # of a confusion matrix
WORST = 16  # mistakes that are shown


class Answers:
    """Collect the answers to an evaluation's batches: a few numbers of each, and the images of the worst mistakes.

    Args:
        classes: how many there are.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.counts: Tensor | int = 0  # (classes * classes,), by label and answer
        self.worst: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # of each batch: margins, images, logits, labels

    def add(self, batch: Batch, logits: Tensor) -> None:
        """Add a batch and its logits (B, classes)."""
        if not batch.counted or logits.shape != (len(batch.labels), self.classes):
            return
        pairs = batch.labels * self.classes + logits.argmax(1)
        self.counts = self.counts + pairs.bincount(minlength=self.classes**2)
        right = logits.gather(1, batch.labels.unsqueeze(1)).squeeze(1)
        margins = logits.amax(1) - right  # (B,), 0 for a right answer
        margins, chosen = margins.topk(min(WORST, len(margins)))
        self.worst.append((margins, batch.images[chosen], logits[chosen], batch.labels[chosen]))

    def confusion(self, title: str) -> Picture | None:
        """Draw how often each class got each answer; None if nothing was answered, or for very many classes."""
        if isinstance(self.counts, int) or self.classes > MOST_CLASSES:
            return None
        counts = self.counts.view(self.classes, self.classes).cpu().double()
        shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
        wrong = shares - shares.diag().diag()
        shades = wrong / wrong.max().clamp_min(1e-9) * min(1.0, float(wrong.max()) / 0.02)
        shades += shares.diag().diag()
        right = 100 * float(counts.diag().sum() / counts.sum())
        names = [str(k) for k in range(self.classes)]
        words = [[f"{int(count)}" if count else "" for count in row] for row in counts]
        title = f"{title}: {right:.2f} % of {int(counts.sum()):,} right"
        return heat_map(
            title, shades.numpy(), words, rows=names, columns=names, heads=("is", "answered"), diagonal=True
        )

    def mistakes(self, title: str, *, as_goodness: bool) -> Picture | None:
        """Draw the wrong answers that were furthest from the right ones; None if there are none.

        `as_goodness` shows scores as they are; otherwise they are probabilities.
        """
        if not self.worst:
            return None
        margins, images, logits, labels = (torch.cat(parts) for parts in zip(*self.worst, strict=True))
        order = margins.argsort(descending=True, stable=True)[:WORST]
        order = order[margins[order] > 0]
        if not len(order):
            return None
        scores = (logits[order] if as_goodness else logits[order].softmax(1)).float().cpu()
        captions = []
        for row, label in zip(scores, labels[order].tolist(), strict=True):
            answer = int(row.argmax())
            captions.append(f"said {answer}: {row[answer]:.3g}\nis {label}: {row[label]:.2g}")
        shown = "goodness" if as_goodness else "probabilities"
        return tiles(f"{title}, with their {shown}", shown_colors(images[order]), captions, columns=8)


def shown_colors(images: Tensor) -> Tensor:
    """Images (B, C, H, W) with one or three channels; of any others, the mean."""
    return images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)
