from __future__ import annotations

import sys

import numpy as np
import pytest
from rich.segment import Segment

from trainer.analysis.terminal_image import (
    RAMP,
    Cell,
    half_blocks,
    size,
    to_segments,
)

RED, BLUE = 0xFF0000, 0x0000FF


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def two_by_two() -> np.ndarray:
    """Red above blue, and blue above blue."""
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0, 0] = 255
    image[0, 1, 2] = image[1, :, 2] = 255
    return image


def test_a_cell_is_two_pixels() -> None:
    assert half_blocks(two_by_two()) == [[Cell("▀", RED, BLUE), Cell("▀", BLUE, BLUE)]]


def test_either_order_of_the_axes() -> None:
    image = noise(32, 32, 3)
    assert half_blocks(image) == half_blocks(image.transpose(2, 0, 1))


def test_every_pixel_is_where_it_belongs() -> None:
    image = noise(32, 32, 3)
    rows = half_blocks(image)
    assert len(rows) == 16
    for y, row in enumerate(rows):
        cells = [cell for cell in row for _ in cell.text]
        assert len(cells) == 32
        for x, cell in enumerate(cells):
            for pixel, code in (
                (image[2 * y, x], cell.foreground),
                (image[2 * y + 1, x], cell.background),
            ):
                assert code == int(pixel[0]) << 16 | int(pixel[1]) << 8 | int(pixel[2])


def test_equal_neighbours_are_one_run() -> None:
    image = np.zeros((2, 10, 3), np.uint8)
    image[0, 4:] = 255
    image[1, 7:] = 255
    assert [(len(c.text), c.foreground, c.background) for c in half_blocks(image)[0]] == [
        (4, 0, 0),
        (3, 0xFFFFFF, 0),
        (3, 0xFFFFFF, 0xFFFFFF),
    ]


def test_an_odd_last_row_keeps_the_terminal_s_background() -> None:
    rows = half_blocks(two_by_two()[:1])
    assert rows == [[Cell("▀", RED, None), Cell("▀", BLUE, None)]]
    assert size(33, 32) == (32, 17)


def test_scaling_up_repeats_pixels() -> None:
    rows = half_blocks(two_by_two(), scale=2)
    assert rows == [
        [Cell("▀▀", RED, RED), Cell("▀▀", BLUE, BLUE)],
        [Cell("▀▀▀▀", BLUE, BLUE)],
    ]
    assert size(2, 2, 2) == (4, 2)


def test_scaling_down_is_the_mean_of_the_area() -> None:
    image = noise(32, 32, 3)
    small = half_blocks(image, scale=0.5)
    assert size(32, 32, 0.5) == (16, 8) == (sum(len(c.text) for c in small[0]), len(small))
    mean = image[:2, :2].reshape(4, 3).mean(0) + 0.5
    red, green, blue = (int(x) for x in mean)
    assert small[0][0].foreground == red << 16 | green << 8 | blue
    # a scale that does not divide: the mean of the whole stays
    third = half_blocks(np.full((32, 32, 3), 77, np.uint8), scale=0.3)
    assert {cell.foreground for row in third for cell in row} == {0x4D4D4D}
    assert half_blocks(image, scale=1e-9) != []


@pytest.mark.parametrize(
    ("pixel", "code"),
    [
        ((0, 0, 0), 16),
        ((255, 0, 0), 196),
        ((95, 135, 175), 67),
        ((128, 128, 128), 244),
        ((255, 255, 255), 231),
        ((8, 8, 8), 232),
        ((255, 250, 253), 231),
    ],
)
def test_palette_takes_the_nearest_colour(pixel: tuple[int, int, int], code: int) -> None:
    image = np.full((2, 1, 3), pixel, np.uint8)
    assert half_blocks(image, color="256") == [[Cell("▀", code, code)]]


def test_palette_is_near_everywhere() -> None:
    image = noise(40, 40, 3)
    for y, row in enumerate(half_blocks(image, color="256")):
        cells = [cell for cell in row for _ in cell.text]
        for x, cell in enumerate(cells):
            assert cell.foreground is not None
            index = cell.foreground
            if index >= 232:
                shown = np.full(3, 8 + 10 * (index - 232))
            else:
                number = index - 16
                steps = np.array([number // 36, number // 6 % 6, number % 6])
                shown = np.array([0, 95, 135, 175, 215, 255])[steps]
            assert np.abs(shown - image[2 * y, x]).max() <= 48


def test_gray_follows_luma() -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    image[:, 1] = (0, 255, 0)
    image[:, 2] = 255
    codes = [cell.foreground for cell in half_blocks(image, color="grey")[0]]
    assert codes == [232, 232 + int(0.587 * 255 + 0.5) * 24 // 256, 255]


def test_four_grays_are_dithered_over_the_image_s_own_range() -> None:
    ramp = np.repeat(np.linspace(100, 150, 32).round().astype(np.uint8), 32)
    image = np.repeat(ramp.reshape(32, 32, 1), 3, 2)
    steps = {16: 0, 240: 1, 248: 2, 231: 3}
    cells = [
        (steps[code], place)
        for row in half_blocks(image, color="16")
        for cell in row
        for code, place in ((cell.foreground, 0), (cell.background, 1))
        if code is not None
        for _ in cell.text
    ]
    assert {step for step, _ in cells} == {0, 1, 2, 3}
    means = [np.mean([step for step, _ in cells[i : i + 128]]) for i in range(0, 1024, 128)]
    assert means == sorted(means)
    assert np.mean([step for step, _ in cells]) == pytest.approx(1.5, abs=0.1)
    flat = half_blocks(np.full((3, 5, 3), 77, np.uint8), color="16")
    assert [cell.foreground for row in flat for cell in row] == [16, 16]


def test_ascii_has_no_colour() -> None:
    image = np.zeros((4, 2, 3), np.uint8)
    image[:2] = 255
    assert half_blocks(image, color="ascii") == [
        [Cell(RAMP[-1] * 2, None, None)],
        [Cell(RAMP[0] * 2, None, None)],
    ]
    for row in half_blocks(noise(3, 32, 32), color="ascii"):
        assert all(cell.text.isascii() for cell in row)


def test_segments_carry_the_colours() -> None:
    ((first, second),) = to_segments(two_by_two())
    assert isinstance(first, Segment)
    assert first.style is not None
    assert first.style.color is not None
    assert first.style.bgcolor is not None
    assert first.style.color.get_truecolor() == (255, 0, 0)
    assert first.style.bgcolor.get_truecolor() == (0, 0, 255)
    assert second.text == "▀"
    for color in ("true", "256", "grey", "16", "ascii"):
        for line in to_segments(noise(3, 32, 32), color=color):
            assert sum(segment.cell_length for segment in line) == 32


@pytest.mark.parametrize(
    "image", [noise(32, 32), noise(4, 32, 32), np.zeros((32, 32, 3)), noise(1, 3, 32, 32)]
)
def test_other_arrays_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="need"):
        half_blocks(image)


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_scales_that_make_no_sense(scale: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        half_blocks(two_by_two(), scale=scale)


def test_a_page_of_images_is_fast() -> None:
    """Counted in calls, which no other program on the machine changes: some 7 ms in all."""
    images = noise(12, 3, 32, 32)
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        for image in images:
            to_segments(image)
    finally:
        sys.setprofile(before)
    assert 0 < calls < 16 * 12 * 16 * 32  # for each cell of each image; it takes twelve
