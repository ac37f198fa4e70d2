"""How shares are written, on the screens and by the commands."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from tests import sample_log
from trainer import words
from trainer.analysis import confusion
from trainer.cli import output
from trainer.cli.progress import TerminalView
from trainer.config import LimitSettings
from trainer.lifecycle.alerts import Watcher
from trainer.runs.follower import Follower
from trainer.runs.runstate import RunState
from tui import formatting
from tui.widgets import confusion_pane, image_view, progress_line
from tui.widgets.limits_panel import checks


@pytest.mark.parametrize(
    ("share", "digits", "written"),
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
def test_one_mistake_is_not_none(share: float, digits: int, written: str) -> None:
    assert formatting.percent(share, digits) == written
    assert len(written) <= len(formatting.percent(1.0, digits)), "it fits where all of it does"
    if digits == 2:
        assert output.percent(share) == written


@pytest.mark.parametrize("share", [None, math.nan, math.inf])
def test_no_share_is_a_dash(share: float | None) -> None:
    assert formatting.percent(share) == output.percent(share) == formatting.DASH


def test_a_target_that_is_missed_by_little_reads_as_more() -> None:
    limits = LimitSettings(target_accuracy=0.8755)
    check = checks(limits, sample_log.described(), 0.8752)[-1]
    assert (check.met, check.actual, check.required) == (False, "87.52 %", "≥ 87.55 %")


@pytest.mark.parametrize(
    ("value", "digits", "written"),
    [
        (0.8731, 2, "0.87"),
        (1.0, 2, "1.00"),
        (0.0, 3, "0.000"),
        (0.996, 2, ">.99"),
        (0.0004, 3, "<.001"),
        (0.00049, 2, "<.01"),
    ],
)
def test_a_probability_is_certain_only_where_it_is(value: float, digits: int, written: str) -> None:
    assert words.probability(value, digits) == written
    assert len(written) == len(words.probability(1.0, digits)), "it fits where the others do"


COLOURS = dict.fromkeys(("secondary", "accent", "panel", "foreground", "success", "error"), "red")
CLASSES = ("cat", "dog")


def test_no_share_of_the_matrix_is_rounded_to_all_or_nothing() -> None:
    matrix = np.array([[2_999, 1], [0, 3_000]])
    pair = confusion_pane._pair_line(confusion.most_confused(matrix, 1)[0], CLASSES, 40)
    assert pair.plain.endswith(" 1  <0.1 %")
    assert len(pair.plain) == 40
    lines = confusion_pane._class_lines(
        confusion.per_class(matrix), CLASSES, dict.fromkeys(("secondary", "warning"), "red")
    ).plain.splitlines()
    assert lines[1].split() == ["cat", "100.0", ">99.9", ">99.9", "3000"]
    assert len({len(line) for line in lines}) == 1


def test_probabilities_of_an_image_are_not_rounded_to_all_or_nothing() -> None:
    drawn = image_view.bars(
        np.array([0.9999, 0.0001]),
        CLASSES,
        actual=0,
        predicted=0,
        colours=COLOURS,
        width=40,
        limit=2,
        people=np.array([0.997, 0.003]),
    ).plain
    assert " >.999 people >.99" in drawn
    assert " <.001 people <.01" in drawn


def _almost_done() -> Follower:
    """A run of 1,000 steps before its last one."""
    started = msgspec.structs.replace(sample_log.started(), total_steps=1000)
    point = msgspec.structs.replace(sample_log.progress(3, 3), step=999)
    state = RunState()
    for at, event in enumerate((sample_log.queued(), started, point)):
        state.apply(sample_log.envelope(at, event))
    return SimpleNamespace(state=state, status="crashed")  # type: ignore[return-value]


def test_a_run_has_not_done_all_before_its_last_step() -> None:
    run = _almost_done()
    assert " >99%" in progress_line._run_line(run, COLOURS, 40).text
    assert ">99% of run" in progress_line._narrow(run, COLOURS, 60, []).text
    view = TerminalView()
    try:
        view.state = run.state
        view._move()
        assert view._bar.tasks[0].fields["share"] == ">99 %"
    finally:
        view.close()


def test_news_of_an_accuracy_does_not_round_it_up() -> None:
    watcher, state = Watcher(), RunState()
    state.apply(sample_log.envelope(0, sample_log.eval_ended(1, 0.5)))
    watcher.look(state, "training", None)
    state.apply(sample_log.envelope(1, sample_log.eval_ended(2, 0.99998)))
    assert watcher.look(state, "training", None)[0].text.startswith("best test accuracy >99.99 %")
    assert watcher.look(state, "completed", None)[0].text.endswith("best test accuracy >99.99 %")


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
