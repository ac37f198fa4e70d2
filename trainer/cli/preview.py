"""A grid of training images in the terminal: as they are, and as a preset augments them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from trainer.cli.output import clean, out
from trainer.config import AugmentSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainer.data.dataset import Dataset

SIDE = 32
IMAGES = 4
GAP = "  "


def grid(dataset: Dataset, settings: AugmentSettings, width: int) -> list[Text]:
    """Rows of half blocks: left the image, right of it what the net sees in epochs 1, 2, ….

    Args:
        dataset: its first training images are shown.
        settings: the augmentation.
        width: columns of the terminal.
    """
    import torch

    from trainer.augment import Augment

    # two pixels a column when they do not fit otherwise
    step = 1 if width >= 4 * (SIDE + len(GAP)) else 2
    views = max(2, (width + len(GAP)) // (SIDE // step + len(GAP)))
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
        pictures = [half_blocks(column[i][:, ::step, ::step]) for column in columns]
        lines += [Text(GAP).join(parts) for parts in zip(*pictures, strict=True)]
    return lines


def half_blocks(image: NDArray[np.uint8]) -> list[Text]:
    """An image [3, H, W] with even H as H/2 lines of W cells: two pixels a cell."""
    height, width = image.shape[1:]
    lines = []
    for y in range(0, height, 2):
        line = Text()
        for x in range(width):
            upper, lower = (image[:, y + k, x].tolist() for k in (0, 1))
            style = "rgb({},{},{}) on rgb({},{},{})".format(*upper, *lower)
            line.append("▀", style=style)
        lines.append(line)
    return lines


def show(dataset: Dataset, settings: AugmentSettings, width: int) -> None:
    """Write the grid with its heading."""
    heading = "left: the image; right of it: what the net sees, epoch by epoch"
    out.lines(heading, *grid(dataset, settings, width))
