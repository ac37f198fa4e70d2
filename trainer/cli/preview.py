"""A grid of training images in the terminal: as they are, and as a preset augments them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.text import Text

from trainer.cli.output import clean, out
from trainer.config import AugmentSettings
from trainer.terminal_image import ColorMode, to_segments

if TYPE_CHECKING:
    from trainer.data.dataset import Dataset

SIDE = 32
IMAGES = 4
GAP = "  "


def grid(
    dataset: Dataset, settings: AugmentSettings, width: int, color: ColorMode = "true"
) -> list[Text]:
    """Rows of half blocks: left the image, right of it what the net sees in epochs 1, 2, ….

    Args:
        dataset: its first training images are shown.
        settings: the augmentation.
        width: columns of the terminal.
        color: what the terminal can do.
    """
    import torch

    from trainer.augment import Augment

    # at half the size when few would fit otherwise
    scale = 1.0 if width >= 4 * (SIDE + len(GAP)) else 0.5
    views = max(2, (width + len(GAP)) // (round(SIDE * scale) + len(GAP)))
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
    for epoch in range(1, views):
        draws = augment.draw(len(dataset.train.labels), epoch=epoch, seed=0)
        seen = augment(originals, index, draws) + torch.tensor(dataset.mean).view(1, 3, 1, 1)
        columns.append((seen * 255).round().clamp(0, 255).to(torch.uint8).numpy())
    lines: list[Text] = []
    for i in range(len(originals)):
        lines.append(Text(clean(dataset.classes[int(dataset.train.labels[i])])))
        pictures = [to_segments(column[i], color=color, scale=scale) for column in columns]
        lines += [Text(GAP).join(map(_text, parts)) for parts in zip(*pictures, strict=True)]
    return lines


def _text(segments: list[Segment]) -> Text:
    return Text.assemble(*((s.text, s.style or "") for s in segments))


def show(dataset: Dataset, settings: AugmentSettings, width: int) -> None:
    """Write the grid with its heading."""
    heading = "left: the image; right of it: what the net sees, epoch by epoch"
    modes: dict[str | None, ColorMode] = {"truecolor": "true", "256": "256"}
    out.lines(heading, *grid(dataset, settings, width, modes.get(out.colours(), "ascii")))
