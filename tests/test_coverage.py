"""Strides that skip inputs and fields that stop short: against positions counted one by one."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from model.coverage import layer_skips, short, skipped, skipping


@pytest.mark.parametrize(
    ("k", "s", "d"), itertools.product((1, 2, 3, 5), (1, 2, 3, 4), (1, 2, 3, 4))
)
def test_the_share_is_that_of_positions_counted(k: int, s: int, d: int) -> None:
    size = 20 * 12
    seen = {s * i + d * j for i in range(size // s + 1) for j in range(k)}
    middle = range(60, 180)
    unseen = sum(x not in seen for x in middle) / len(middle)
    assert skipped((k, 1), (s, 1), (d, 1)) == pytest.approx(unseen)
    both = 1 - (1 - unseen) ** 2
    assert skipped((k, k), (s, s), (d, d)) == pytest.approx(both)


def test_a_pointwise_stride_skips_three_of_four_and_a_dilated_one_may_too() -> None:
    assert skipping((1, 1), (2, 2), (1, 1)).startswith("stride 2×2 skips 75 %")  # noqa: RUF001
    assert skipping((3, 3), (2, 2), (2, 2)).startswith("stride 2×2 skips 75 %")  # noqa: RUF001
    assert skipping((3, 3), (2, 2), (1, 1)) == ""
    assert "skips 99.6 % of" in skipping((1, 1), (16, 16), None)
    assert "skips >99.9 % of" in skipping((1, 1), (100, 100), None)
    assert skipping((2, 2), (2, 2), None) == ""
    assert skipping(None, None, None) == ""


def test_a_field_that_stops_short_of_the_image() -> None:
    assert "stops short of the 32×32 image" in short((31, 40), (3, 32, 32), pooled=True)  # noqa: RUF001
    assert short((32, 32), (3, 32, 32), pooled=True) == ""
    assert short((1, 1), (3, 32, 32), pooled=False) == "", "a linear layer sees all"
    assert short(None, (3, 32, 32), pooled=True) == ""
    assert short((1, 1), (10,), pooled=True) == ""


@pytest.mark.parametrize("kind", ["Conv2d", "MaxPool2d", "ConvTranspose2d"])
def test_a_transposed_layer_skips_nothing(kind: str) -> None:
    layer = SimpleNamespace(type=kind, kernel=(1, 1), stride=(2, 2), dilation=(1, 1))
    assert ("skips 75 % of the inputs" in layer_skips(layer)) == ("Transpose" not in kind)
