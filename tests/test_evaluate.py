"""What an evaluation comes to, and how many images it takes at once."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from trainer.config import AugmentSettings, Tta
from trainer.loop import evaluate as evaluation
from trainer.loop.augment import Augment
from trainer.loop.evaluate import DeviceTestSplit, Evaluation, evaluate

CPU = torch.device("cpu")


class Counting(nn.Module):
    """A linear net that notes how many images it gets."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3 * 32 * 32, 10)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        logits: Tensor = self.head(x.flatten(1))
        return logits


def evaluated(net: Counting, images: int, batch_size: int, tta: Tta, told: list[int]) -> Evaluation:
    torch.manual_seed(1)
    split = DeviceTestSplit(
        torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8),
        torch.randint(0, 10, (images,)),
        10,
    )
    augment = Augment(
        AugmentSettings(), mean=(0.5,) * 3, std=(0.25,) * 3, device=CPU, dtype=torch.float32
    )
    return evaluate(
        net,
        split,
        augment,
        batch_size=batch_size,
        autocast=lambda: contextlib.nullcontext(),  # type: ignore[arg-type, return-value]
        tta=tta,
        on_batch=lambda done, total: told.append(total),
    )


@pytest.mark.parametrize("tta", ["none", "flip"])
def test_on_a_cpu_few_images_are_taken_at_once_and_all_are_counted(
    monkeypatch: pytest.MonkeyPatch, tta: Tta
) -> None:
    net, told = Counting(), list[int]()
    monkeypatch.setattr(evaluation, "CPU_IMAGES", 1 << 20)
    whole = evaluated(net, 130, 2000, tta, told)
    views = len(net.sizes)
    assert net.sizes == [130] * views
    assert told == [1]
    net.sizes.clear()
    monkeypatch.setattr(evaluation, "CPU_IMAGES", 50)
    parts = evaluated(net, 130, 2000, tta, told)
    assert net.sizes == [50] * (2 * views) + [30] * views
    assert told[1:] == [3, 3, 3]
    assert parts.images == 130
    assert (parts.confusion == whole.confusion).all()
    assert parts.loss == pytest.approx(whole.loss)
    net.sizes.clear()
    assert evaluated(net, 130, 40, tta, told).images == 130
    assert max(net.sizes) == 40
