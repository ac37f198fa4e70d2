"""Evaluation of a whole test split: loss, accuracy, per class, confusion, probabilities."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer import events
from trainer.config import Tta
from trainer.device import synchronize
from trainer.loop.augment import Augment, tta_views
from trainer.runs.predictions import Figures

if TYPE_CHECKING:
    from trainer.distributed.group import Group

CPU_IMAGES = 500
"""At once on a CPU: what a layer leaves is still in its caches when the next one reads it. Nets of
the presets take 0.63 to 0.93 of the time that they take with 1,000 at once."""


@dataclass(frozen=True)
class DeviceTestSplit:
    """The test split on the device: images uint8 [N, 3, 32, 32], labels int64 [N].

    A type of its own, so that training images can never be evaluated in its place.
    """

    images: Tensor
    labels: Tensor
    classes: int


@dataclass(frozen=True)
class Evaluation:
    """Result over ``N`` images of ``C`` classes; all on the host."""

    loss: float
    """Mean cross-entropy without label smoothing."""
    predicted: NDArray[np.int64]
    """Class of the largest logit [N]."""
    probabilities: NDArray[np.float16]
    """[N, C]."""
    figures: Figures
    """Of each image, from the logits."""
    confusion: NDArray[np.int64]
    """[C, C], rows: actual, columns: predicted."""
    seconds: float

    @property
    def images(self) -> int:
        """Images evaluated."""
        return int(self.confusion.sum())

    @property
    def correct(self) -> int:
        """Images whose largest logit is their actual class."""
        return int(self.confusion.trace())

    @property
    def numbers(self) -> bool:
        """Whether the net gave numbers: the largest of logits that are none is always class 0."""
        return not np.isnan(self.probabilities).any()

    def event(self, *, epoch: int, step: int, variant: events.Variant) -> events.EvalEnded:
        """The event that records it."""
        per_class = [
            int(row[i]) / int(row.sum()) if row.sum() else None
            for i, row in enumerate(self.confusion)
        ]
        return events.EvalEnded(
            epoch=epoch,
            step=step,
            split="test",
            variant=variant,
            loss=events.finite(self.loss),
            accuracy=self.correct / max(1, self.images),
            correct=self.correct,
            images=self.images,
            per_class=tuple(per_class),
            confusion=tuple(tuple(row) for row in self.confusion.tolist()),
            seconds=self.seconds,
        )


@torch.inference_mode()
def evaluate(
    net: nn.Module,
    split: DeviceTestSplit,
    augment: Augment,
    *,
    batch_size: int,
    autocast: Callable[[], torch.autocast],
    tta: Tta = "none",
    on_batch: Callable[[int, int], None] = lambda done, total: None,
    group: Group | None = None,
) -> Evaluation:
    """Evaluate in eval mode; the net's mode is restored.

    With test-time augmentation the logits of the views are averaged by their weights. A batch has
    ``batch_size`` images at most, on a CPU ``CPU_IMAGES``.
    ``on_batch(done, total)`` is called before each batch and may raise to end the evaluation.
    Of a ``group`` each rank evaluates its part of the split; all have the same result, over all.
    """
    began = time.perf_counter()
    was_training = net.training
    net.eval()
    if split.images.device.type == "cpu":
        batch_size = min(batch_size, CPU_IMAGES)
    logits = []
    mine, longest = split.images, len(split.labels)
    if group is not None:
        mine = mine[group.part(longest)]
        longest = -(-longest // group.size)
    total = -(-longest // batch_size)
    batches = mine.split(batch_size) if len(mine) else ()
    try:
        for done in range(total):
            on_batch(done, total)  # as often on all ranks
            if done >= len(batches):
                continue
            images = batches[done]
            normalised = augment.normalise(images)
            with autocast():
                views = [weight * net(view).float() for view, weight in tta_views(normalised, tta)]
            logits.append(torch.stack(views).sum(0))
    finally:
        net.train(was_training)
    scores = torch.cat(logits) if logits else mine.new_empty((0, split.classes)).float()
    if group is not None:
        scores = group.gather_rows(scores, len(split.labels))
    loss = F.cross_entropy(scores, split.labels)
    predicted = scores.argmax(1)
    cells = torch.bincount(
        split.labels * split.classes + predicted, minlength=split.classes * split.classes
    )
    probabilities = scores.softmax(1).half().cpu().numpy()
    figures = Figures(*_figures(scores, split.labels, predicted).cpu().numpy())
    synchronize(split.labels.device)
    return Evaluation(
        loss=float(loss),
        predicted=predicted.cpu().numpy(),
        probabilities=probabilities,
        figures=figures,
        confusion=cells.view(split.classes, split.classes).cpu().numpy(),
        seconds=time.perf_counter() - began,
    )


def _figures(scores: Tensor, labels: Tensor, predicted: Tensor) -> Tensor:
    """``Figures`` from logits [N, C], float32 [4, N].

    From sums of positive terms alone, in logarithms: nothing cancels, and nothing is too small.
    """
    best = predicted[:, None]
    below = scores - scores.gather(1, best)  # 0 for the predicted class
    others = below.scatter(1, best, -torch.inf).clamp(min=torch.finfo(below.dtype).min)
    log_others = others.logsumexp(1)
    log_all = log_others.exp().log1p()
    # the entropy is log_all and the sum of p times -below of all others
    own = torch.where(log_others < -15, log_others, log_all.log())
    theirs = (others + others.neg().log()).logsumexp(1) - log_all
    return torch.stack(
        [
            log_all - below.gather(1, labels[:, None]).squeeze(1),
            (log_others - log_all).clamp(max=0),
            torch.logaddexp(own, theirs),
            (others.amax(1) - log_all).clamp(max=0),
        ]
    )
