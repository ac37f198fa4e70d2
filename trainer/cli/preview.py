"""A grid of training images in the terminal: as they are, and as a preset augments them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.text import Text

from trainer.analysis.terminal_image import ColorMode, color_mode, to_segments
from trainer.cli.output import clean, out
from trainer.config import AugmentSettings, TrainSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from trainer.data.dataset import Dataset

SIDE = 32
IMAGES = 4
GAP = "  "


def grid(
    dataset: Dataset,
    settings: AugmentSettings,
    width: int,
    color: ColorMode = "true",
    sides: Sequence[int] = (),
) -> list[Text]:
    """Rows of half blocks: left the image, right of it what the net sees in epochs 1, 2, ….

    Args:
        dataset: its first training images are shown.
        settings: the augmentation.
        width: columns of the terminal.
        color: what the terminal can do.
        sides: pixels of the images' side in these epochs; they are shown in one size. None: all.
    """
    import torch

    from trainer.loop.augment import Augment

    scale = _scale(width)
    originals = torch.from_numpy(dataset.train.images[:IMAGES])
    augment = Augment(
        settings,
        mean=dataset.mean,
        std=(1.0, 1.0, 1.0),
        device=torch.device("cpu"),
        dtype=torch.float32,
    )
    columns = [originals.numpy()]
    index = torch.arange(len(originals))
    for epoch in range(1, _epochs(width) + 1):
        draws = augment.draw(len(dataset.train.labels), epoch=epoch, seed=0)
        seen = augment(originals, index, draws) + torch.tensor(dataset.mean).view(1, 3, 1, 1)
        if epoch <= len(sides):
            seen = _shrunk(seen, sides[epoch - 1])
        columns.append((seen * 255).round().clamp(0, 255).to(torch.uint8).numpy())
    lines: list[Text] = []
    for i in range(len(originals)):
        lines.append(Text(clean(dataset.classes[int(dataset.train.labels[i])])))
        pictures = [to_segments(column[i], color=color, scale=scale) for column in columns]
        lines += [Text(GAP).join(map(_text, parts)) for parts in zip(*pictures, strict=True)]
    return lines


def sides_of(settings: TrainSettings, images: int, width: int) -> list[int]:
    """Pixels of the images' side at the first step of each epoch that is shown."""
    import torch

    from trainer.loop.hard_examples import HardExamples
    from trainer.schedule import side

    examples, step, found = HardExamples(images, settings, torch.device("cpu")), 0, []
    for epoch in range(1, _epochs(width) + 1):
        found.append(side(settings, step, examples.total()))
        step += examples.steps(epoch)
    return found


def _scale(width: int) -> float:
    # at half the size when few would fit otherwise
    return 1.0 if width >= 4 * (SIDE + len(GAP)) else 0.5


def _epochs(width: int) -> int:
    return max(2, (width + len(GAP)) // (round(SIDE * _scale(width)) + len(GAP))) - 1


def _shrunk(images: Tensor, side: int) -> Tensor:
    """As a run shrinks them, each pixel enlarged again to be shown."""
    import torch

    from trainer.loop.augment import resized

    places = torch.arange(SIDE) * side // SIDE
    return resized(images, side)[:, :, places][:, :, :, places]


def _text(segments: list[Segment]) -> Text:
    return Text.assemble(*((s.text, s.style or "") for s in segments))


def show(dataset: Dataset, settings: AugmentSettings, train: TrainSettings, width: int) -> None:
    """Write the grid with its heading."""
    heading = ["left: the image; right of it: what the net sees, epoch by epoch"]
    sides = sides_of(train, len(dataset.train.labels), width)
    if min(sides) < SIDE:
        pixels = ", ".join(map(str, sides))
        heading.append(f"shrunk to {pixels} pixels a side as these epochs begin, enlarged here")
    color = color_mode(*out.colours())
    out.lines(*heading)
    out.lines(*grid(dataset, settings, width, color, sides), grays=True)
