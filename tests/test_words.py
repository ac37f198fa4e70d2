"""How shares are written, on the screens and by the commands."""

from __future__ import annotations

import math
import time

import pytest

from tests import sample_log
from trainer.cli import output
from trainer.config import LimitSettings
from tui import formatting
from tui.widgets.limits_panel import checks


@pytest.mark.parametrize(
    ("share", "digits", "words"),
    [
        (0.87312, 2, "87.31 %"),
        (1.0, 2, "100.00 %"),
        (0.0, 2, "0.00 %"),
        (49_999 / 50_000, 2, ">99.99 %"),
        (0.9999, 2, "99.99 %"),
        (1 / 50_000, 2, "<0.01 %"),
        (0.9996, 1, ">99.9 %"),
        (0.0004, 1, "<0.1 %"),
        (0.997, 0, ">99 %"),
        (0.004, 0, "<1 %"),
    ],
)
def test_one_mistake_is_not_none(share: float, digits: int, words: str) -> None:
    assert formatting.percent(share, digits) == words
    assert len(words) <= len(formatting.percent(1.0, digits)), "it fits where all of it does"
    if digits == 2:
        assert output.percent(share) == words


@pytest.mark.parametrize("share", [None, math.nan, math.inf])
def test_no_share_is_a_dash(share: float | None) -> None:
    assert formatting.percent(share) == output.percent(share) == formatting.DASH


def test_a_target_that_is_missed_by_little_reads_as_more() -> None:
    limits = LimitSettings(target_accuracy=0.8755)
    check = checks(limits, sample_log.described(), 0.8752)[-1]
    assert (check.met, check.actual, check.required) == (False, "87.52 %", "≥ 87.55 %")


def test_when_is_told_by_the_clock_or_the_date(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_764_191_640.0  # 2025-11-26, 21:14 UTC
    day = 86_400
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "UTC")
        time.tzset()
        assert formatting.moment(now - 60, now) == "21:13"
        assert formatting.moment(now - day, now) == "11-25 21:14"
        assert formatting.moment(now + 3 * 3600, now) == "11-27 00:14", "another clock"
        assert formatting.moment(now, now + 40 * day) == "11-26 21:14", "of last year, not long ago"
        assert formatting.moment(now - 300 * day, now) == "2025-01-30"
        for never in (0.0, -1.0, 1e300, math.inf, math.nan):
            assert formatting.moment(never, now) == formatting.DASH
    time.tzset()
