"""A list of images as one picture with captions. Torch-free."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from trainer.analysis import mistake_words
from trainer.analysis.mistakes import Indices, Mistakes
from trainer.errors import ConfigError
from trainer.files.whole_file import whole_file
from trainer.foreign import short_name

MOST = 1000
"""Images in a picture: more than anyone looks at, and a picture that opens everywhere."""
SCALE = 4
"""Pixels of the picture for each of the image's."""
GAP, LINE, FONT_SIZE = 10, 14, 12
_BACKGROUND, _TEXT, _DIM = (255, 255, 255), (20, 20, 20), (110, 110, 110)
_RIGHT, _WRONG = (0, 110, 60), (190, 30, 30)


def draw(
    images: Mistakes,
    chosen: Indices,
    pixels: NDArray[np.uint8],
    classes: Sequence[str],
    *,
    columns: int | None = None,
    title: str = "",
) -> Image.Image:
    """The chosen images in rows, each with ``actual>predicted``, its confidence and its index.

    Args:
        images: all ``N`` images of the evaluation.
        chosen: int64 [K], indices of those to draw, in order; 1 to ``MOST``.
        pixels: uint8 [N, 3, 32, 32].
        classes: names, index = label.
        columns: images side by side; default: about twice as many as rows.
        title: a line above.

    Raises:
        ConfigError: none are chosen, or more than ``MOST``.
    """
    count = len(chosen)
    if not count:
        raise ConfigError("there are no images to draw: nothing fits the filter")
    if count > MOST:
        raise ConfigError(f"{count:,} images are too many for one picture: at most {MOST:,}")
    wide = columns or min(count, max(4, math.ceil(math.sqrt(2 * count))))
    side = pixels.shape[-1] * SCALE
    cell_width, cell_height = side + GAP, side + 2 * LINE + GAP
    top = GAP + (LINE + GAP if title else 0)
    size = GAP + wide * cell_width, top + math.ceil(count / wide) * cell_height
    picture = Image.new("RGB", size, _BACKGROUND)
    brush = ImageDraw.Draw(picture)
    font = ImageFont.load_default(FONT_SIZE)
    if title:
        _write(brush, (GAP, GAP), title, size[0] - 2 * GAP, _TEXT, font)
    for place, index in enumerate(chosen.tolist()):
        row, column = divmod(place, wide)
        x, y = GAP + column * cell_width, top + row * cell_height
        image = Image.fromarray(np.ascontiguousarray(pixels[index].transpose(1, 2, 0)))
        picture.paste(image.resize((side, side), Image.Resampling.NEAREST), (x, y))
        actual, predicted = int(images.actual[index]), int(images.predicted[index])
        names = f"{short_name(classes[actual])}>{short_name(classes[predicted])}"
        colour = _RIGHT if actual == predicted else _WRONG
        _write(brush, (x, y + side + 1), names, side, colour, font)
        sure = mistake_words.percent(float(images.confidence[index]), 1, exact=images.exact)
        figures = f"{sure}  #{index}"
        _write(brush, (x, y + side + LINE), figures, side, _DIM, font)
    return picture


def encoded(picture: Image.Image) -> bytes:
    """A picture as PNG; half again as fast as by default, a tenth larger."""
    file = BytesIO()
    picture.save(file, format="PNG", compress_level=3)
    return file.getvalue()


def save(picture: Image.Image, path: Path) -> None:
    """Write a PNG whole or not at all; through a link, which stays.

    Raises:
        ConfigError: the file cannot be written, or a device or a pipe has its name.
    """
    try:
        if not path.name or path.is_dir():
            raise ConfigError(f"cannot write {path}: it is no name for a file")
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(path.stat().st_mode):  # a device would be replaced by the picture
                raise ConfigError(f"cannot write {path}: it is no regular file")
        target = Path(os.path.realpath(path))
        target.parent.stat()  # a folder that is not there is told, not made
        with whole_file(target, synced=False) as file:
            file.write(encoded(picture))
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None


def _write(
    brush: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    width: int,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """One line that fits; the font has no more than Latin letters."""
    shown = text.encode("latin-1", "replace").decode("latin-1")
    while len(shown) > 1 and brush.textlength(shown, font=font) > width:
        shown = shown[:-3] + ".." if shown.endswith("..") else shown[:-2] + ".."
    brush.text(place, shown, fill=colour, font=font)
