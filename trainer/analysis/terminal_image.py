"""Small images in a terminal: two pixels in each character cell, or an ASCII ramp. Torch-free."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.color import Color, ColorType
from rich.color_triplet import ColorTriplet
from rich.segment import Segment
from rich.style import Style

ColorMode = Literal["true", "256", "grey", "16", "ascii"]
"""24-bit colour, the 256-colour palette, gray in the palette, the four grays among 16 colours, or
no colour at all."""
Pixels = NDArray[np.uint8]

UPPER_HALF = "▀"
RAMP = " .:-=+*#%@"
"""From dark to light."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_GRAYS = np.array([16, 240, 248, 231], np.int64)
"""Of the palette: what black, bright black, white and bright white are the nearest to."""
_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])
"""Ordered dithering: Bayer, "An optimum method for two-level rendition of continuous-tone
pictures", ICC 1973."""
_TRUE = ColorType.TRUECOLOR
_COLOR = tuple.__new__
_CUBE = np.array([0, 95, 135, 175, 215, 255], np.int32)


class Cell(NamedTuple):
    """Equal cells side by side; colours as 0xRRGGBB, in palette modes as the palette's number."""

    text: str
    foreground: int | None
    background: int | None


def color_mode(color_system: str | None, no_color: bool) -> ColorMode:
    """What a terminal can show of an image, by Rich's name of its colours; ``no_color``: gray."""
    if color_system in ("truecolor", "256"):
        return "grey" if no_color else "256" if color_system == "256" else "true"
    return "16" if color_system in ("standard", "windows") else "ascii"


def half_blocks(image: Pixels, *, color: ColorMode = "true", scale: float = 1) -> list[list[Cell]]:
    """An image as rows of cells; equal neighbours are one.

    Args:
        image: uint8 [H, W, 3] or [3, H, W].
        color: what the terminal can do.
        scale: size relative to one column a pixel: above 1 whole numbers, below 1 by area mean.

    Returns:
        ceil(H/2) rows of W columns at scale 1; an odd last row has the terminal's background.

    Raises:
        ValueError: not such an image, or a scale that is not positive.
    """
    pixels = _scaled(_as_rows(image), scale)
    if color == "ascii":
        return [[Cell(row, None, None)] for row in _ramp(pixels)]
    codes = _codes(pixels, color)
    height, width = codes.shape
    rows = []
    for top in range(0, height, 2):
        upper = codes[top]
        lower = codes[top + 1] if top + 1 < height else np.full(width, -1, np.int64)
        # where either colour changes, a new run begins
        change = np.flatnonzero((upper[1:] != upper[:-1]) | (lower[1:] != lower[:-1])) + 1
        starts = [0, *change.tolist()]
        ends = [*change.tolist(), width]
        colors = zip(upper[starts].tolist(), lower[starts].tolist(), strict=True)
        rows.append(
            [
                Cell(UPPER_HALF * (end - start), above, None if below < 0 else below)
                for start, end, (above, below) in zip(starts, ends, colors, strict=True)
            ]
        )
    return rows


def to_segments(
    image: Pixels, *, color: ColorMode = "true", scale: float = 1
) -> list[list[Segment]]:
    """As ``half_blocks``, as Rich segments: one list a line, without line ends.

    ``Strip(line, width)`` takes a line as it is.
    """
    rows = half_blocks(image, color=color, scale=scale)
    style = _TrueStyles() if color == "true" else _palette_style
    return [[Segment(text, style(above, below)) for text, above, below in row] for row in rows]


def size(image_height: int, image_width: int, scale: float = 1) -> tuple[int, int]:
    """Columns and lines that an image takes."""
    height, width = _target(image_height, image_width, scale)
    return width, math.ceil(height / 2)


def _as_rows(image: Pixels) -> Pixels:
    """[H, W, 3] of either order; only bytes, only three channels."""
    if image.dtype != np.uint8 or image.ndim != 3:
        raise ValueError(f"need a uint8 image of three axes, not {image.dtype} {image.shape}")
    if image.shape[2] == 3:
        return image
    if image.shape[0] == 3:
        return image.transpose(1, 2, 0)
    raise ValueError(f"need three channels first or last, not {image.shape}")


def _target(height: int, width: int, scale: float) -> tuple[int, int]:
    if not scale > 0 or not math.isfinite(scale):
        raise ValueError(f"scale must be positive, not {scale}")
    if scale >= 1:
        return height * round(scale), width * round(scale)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _scaled(pixels: Pixels, scale: float) -> Pixels:
    height, width = _target(pixels.shape[0], pixels.shape[1], scale)
    if scale >= 1:
        times = round(scale)
        return pixels if times == 1 else pixels.repeat(times, 0).repeat(times, 1)
    mean = _area_weights(height, pixels.shape[0]) @ pixels.reshape(pixels.shape[0], -1)
    mean = mean.reshape(height, pixels.shape[1], 3)
    mean = np.einsum("wx,hxc->hwc", _area_weights(width, pixels.shape[1]), mean)
    smaller: Pixels = (mean + 0.5).astype(np.uint8)
    return smaller


@lru_cache(maxsize=32)
def _area_weights(target: int, source: int) -> NDArray[np.float64]:
    """Share of each source pixel in each target pixel, [target, source]; rows add up to 1."""
    edges = np.arange(target + 1) * (source / target)
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(source)
    covered = np.minimum(high, pixel + 1) - np.maximum(low, pixel)
    weights: NDArray[np.float64] = covered.clip(0) * (target / source)
    return weights


def _codes(pixels: Pixels, color: ColorMode) -> NDArray[np.int64]:
    """One number a pixel, [H, W]: 0xRRGGBB, or a number of the palette."""
    if color == "true":
        values = pixels.astype(np.int64)
        return values[..., 0] << 16 | values[..., 1] << 8 | values[..., 2]
    if color == "grey":
        return _luma(pixels) * 24 // 256 + 232
    if color == "16":
        return _dithered(_luma(pixels))
    # the nearer of the 6x6x6 cube's colour and the gray of the same lightness
    values = pixels.astype(np.int32)
    steps = np.where(values < 48, 0, np.where(values < 115, 1, (values - 35) // 40))
    cube = _CUBE[steps]
    gray = (values.sum(2) // 3 - 3).clip(0) // 10
    gray = gray.clip(0, 23)
    shade = (8 + 10 * gray)[..., None]
    cube_error = ((values - cube) ** 2).sum(2)
    gray_error = ((values - shade) ** 2).sum(2)
    number = 16 + 36 * steps[..., 0] + 6 * steps[..., 1] + steps[..., 2]
    nearest: NDArray[np.int64] = np.where(gray_error < cube_error, 232 + gray, number)
    return nearest.astype(np.int64)


def _dithered(luma: NDArray[np.int64]) -> NDArray[np.int64]:
    """Four grays over the image's own range: few images have all of black to white."""
    low, high = np.percentile(luma, (2, 98))
    share = ((luma - low) / max(1.0, high - low)).clip(0, 1)
    height, width = luma.shape
    threshold = np.tile((_BAYER + 0.5) / 16, (height // 4 + 1, width // 4 + 1))[:height, :width]
    steps: NDArray[np.int64] = np.floor(3 * share + threshold).clip(0, 3).astype(np.int64)
    return _GRAYS[steps]


def _luma(pixels: Pixels) -> NDArray[np.int64]:
    """ITU-R BT.601 luma, 0 to 255."""
    luma: NDArray[np.int64] = (pixels @ _LUMA + np.float32(0.5)).clip(0, 255).astype(np.int64)
    return luma


def _ramp(pixels: Pixels) -> list[str]:
    """One character for two pixels above each other."""
    luma = _luma(pixels)
    if len(luma) % 2:
        luma = np.concatenate([luma, luma[-1:]])
    mean = (luma[::2] + luma[1::2]) // 2
    return ["".join(RAMP[i] for i in row) for row in (mean * len(RAMP) // 256).tolist()]


class _TrueStyles:
    """Styles of 24-bit colours: an image has some 500, hardly one of them twice.

    So nothing is kept, and what Rich and Textual would work out of each style is put in at once:
    a page of images takes a quarter of the time.
    """

    def __call__(self, foreground: int | None, background: int | None) -> Style | None:
        """The style of a cell; ``None`` without colours."""
        if foreground is None:
            return None
        r, g, b = foreground >> 16, foreground >> 8 & 255, foreground & 255
        upper = _COLOR(Color, (f"#{foreground:06x}", _TRUE, None, _COLOR(ColorTriplet, (r, g, b))))
        if background is None:
            return Style.from_color(upper)
        x, y, z = background >> 16, background >> 8 & 255, background & 255
        lower = _COLOR(Color, (f"#{background:06x}", _TRUE, None, _COLOR(ColorTriplet, (x, y, z))))
        style = Style.from_color(upper, lower)
        style._ansi = f"38;2;{r};{g};{b};48;2;{x};{y};{z}"
        return style


@lru_cache(maxsize=4096)
def _palette_style(foreground: int | None, background: int | None) -> Style | None:
    if foreground is None:
        return None
    lower = None if background is None else Color.from_ansi(background)
    return Style.from_color(Color.from_ansi(foreground), lower)
