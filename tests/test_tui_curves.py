"""Curves: extraction, smoothing, reduction, axes, and the drawing of a plan."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import sample_log
from trainer import events
from trainer.runs.runstate import RunState
from tui.charts import curves, figure
from tui.charts.curves import Points
from tui.charts.figure import Curve, Plan
from tui.widgets.curve_chart import place, position

NUMBERS = st.floats(-1e3, 1e3) | st.just(math.nan)


def state(until: int | None = None) -> RunState:
    folded = RunState()
    for envelope in sample_log.whole()[:until]:
        folded.apply(envelope)
    return folded


def line(*ys: float | None) -> Points:
    return curves.points([float(i) for i in range(len(ys))], list(ys))


# ---- extraction -------------------------------------------------------------------------------


def test_epoch_points_name_their_split() -> None:
    folded = state()
    assert curves.epoch_points(folded, "accuracy", "test", "epoch").y.tolist() == [
        0.5,
        4 / 6,
        5 / 6,
    ]
    assert curves.epoch_points(folded, "accuracy", "train", "epoch").y.tolist() == pytest.approx(
        [0.4, 0.5, 0.6]
    )
    assert curves.epoch_points(folded, "loss", "test", "epoch").x.tolist() == [1, 2, 3]
    assert curves.epoch_points(folded, "loss", "train", "step").x.tolist() == [4, 8, 12]


def test_time_is_training_time_of_the_whole_run() -> None:
    times = curves.epoch_points(state(), "loss", "test", "time").x
    assert (np.diff(times) > 0).all()


def test_a_resumed_run_is_one_clean_curve() -> None:
    before = state(len(sample_log.first_attempt()))
    assert before.steps.step.tolist()[-1] == 10
    after = state()
    for axis in curves.AXES:
        x = curves.step_points(after, "loss", axis).x
        assert (np.diff(x) > 0).all(), axis
    assert curves.step_points(after, "loss", "step").x.tolist() == [2, 6, 10]
    # growing further is possible: nothing holds on to the arrays
    after.apply(sample_log.envelope(99, sample_log.progress(4, 2), attempt=2))
    assert len(curves.step_points(after, "loss", "step")) == 4


@pytest.mark.parametrize("axis", curves.AXES)
def test_a_position_that_is_damaged_does_not_lead_out_of_the_picture(axis: curves.Axis) -> None:
    """What plotext draws costs time and memory by the column, also far outside."""
    folded = state()
    steps = folded.steps
    steps.step[1], steps.epoch[1], steps.elapsed[1] = 2**53, 2.0**53, 1e15
    curve = curves.step_points(folded, "loss", axis)
    assert (np.diff(curve.x) >= 0).all()
    assert len(curve) == len(steps.step)
    first, last = float(curve.x[0]), float(curve.x[-2])
    assert last < 100
    shown = plan(Curve("a", curve, "#ff0000"), axis=axis, x_limits=(first, last))
    assert braille(drawn(shown))


def test_what_is_not_a_number_is_a_gap() -> None:
    folded = RunState()
    for seq, loss in enumerate([1.0, None, 0.5]):
        row = events.EpochEnded(
            epoch=seq + 1,
            step=seq,
            loss=loss,
            accuracy=0.1,
            lr=0.1,
            seconds=1.0,
            images_per_second=1.0,
        )
        folded.apply(sample_log.envelope(seq, row))
    assert curves.epoch_points(folded, "loss", "train", "epoch").x.tolist() == [1, 3]
    gap = curves.points([1, 2, 3], [1.0, math.inf, 0.5])
    assert math.isnan(gap.y[1])
    assert gap.finite().x.tolist() == [1, 3]


# ---- smoothing --------------------------------------------------------------------------------


@given(st.lists(NUMBERS, max_size=400), st.sampled_from(curves.SMOOTHING[1:]))
def test_smoothing_is_the_debiased_average(ys: list[float], weight: float) -> None:
    smoothed = curves.smooth(line(*ys), weight).y
    total = norm = 0.0
    for y, got in zip(ys, smoothed, strict=True):
        if math.isnan(y):
            assert math.isnan(got)
            continue
        total, norm = weight * total + y, weight * norm + 1
        assert got == pytest.approx(total / norm, rel=1e-6, abs=1e-6)


def test_smoothing_of_a_constant_is_the_constant() -> None:
    assert curves.smooth(line(*[3.0] * 1000), 0.98).y == pytest.approx(np.full(1000, 3.0))
    assert curves.smooth(line(1.0, 2.0), 0.0).y.tolist() == [1.0, 2.0]


# ---- reduction --------------------------------------------------------------------------------


@given(st.lists(NUMBERS, min_size=1, max_size=300), st.integers(1, 40))
def test_reduction_keeps_extremes_and_ends(ys: list[float], columns: int) -> None:
    curve = line(*ys)
    last = float(len(ys) - 1)
    kept = curves.reduce(curve, columns, 0.0, max(last, 1.0))
    assert len(kept) <= 2 * columns + 2
    assert (np.diff(kept.x) > 0).all()
    assert (kept.x[0], kept.x[-1]) == (0.0, last)
    if any(not math.isnan(y) for y in ys):
        assert np.nanmin(kept.y) == np.nanmin(curve.y)
        assert np.nanmax(kept.y) == np.nanmax(curve.y)
    points = dict(zip(curve.x.tolist(), curve.y.tolist(), strict=True))
    for x, y in zip(kept.x.tolist(), kept.y.tolist(), strict=True):
        assert points[x] == y or math.isnan(y)


def test_a_growing_curve_does_not_move_what_is_drawn() -> None:
    ys = np.random.default_rng(0).random(5000)
    whole = Points(np.arange(5000.0), ys)
    part = Points(whole.x[:3000], ys[:3000])
    before = curves.reduce(part, 50, 0.0, 5000.0)
    after = curves.reduce(whole, 50, 0.0, 5000.0)
    stays = before.x < 2900
    assert before.x[stays].tolist() == after.x[: stays.sum()].tolist()


def test_a_long_gap_survives_reduction() -> None:
    ys = [1.0] * 100 + [math.nan] * 100 + [2.0] * 100
    kept = curves.reduce(line(*ys), 30, 0.0, 299.0)
    assert np.isnan(kept.y[(kept.x > 110) & (kept.x < 190)]).all()


# ---- windows, cursor --------------------------------------------------------------------------


def test_window_cuts_lines_at_its_borders() -> None:
    cut = curves.within(line(0.0, 10.0, 20.0, 30.0), 0.5, 2.5)
    assert cut.x.tolist() == [0.5, 1.0, 2.0, 2.5]
    assert cut.y.tolist() == [5.0, 10.0, 20.0, 25.0]
    between = curves.within(line(0.0, 10.0), 0.25, 0.75)
    assert between.y.tolist() == [2.5, 7.5]
    assert len(curves.within(line(1.0, 2.0), 5.0, 9.0)) == 0
    assert len(curves.within(line(), 0.0, 1.0)) == 0


def test_values_are_those_of_the_nearest_known_point() -> None:
    curve = line(1.0, None, 3.0)
    assert curves.at(curve, 0.2) == (0.0, 1.0)
    assert curves.at(curve, 1.2) == (2.0, 3.0)
    assert curves.at(curve, 99.0) == (2.0, 3.0)
    assert curves.at(line(), 1.0) is None


# ---- axes -------------------------------------------------------------------------------------


@given(st.floats(1e-6, 1e6), st.integers(1, 12))
def test_steps_are_round_and_not_too_many(span: float, parts: int) -> None:
    step = curves.nice_step(span, parts)
    assert span / step <= parts * 1.0001
    digits = round(step / 10 ** math.floor(math.log10(step) + 1e-9), 6)
    assert digits in (1.0, 2.0, 2.5, 5.0)


@given(st.lists(st.floats(1e-6, 1e4), min_size=1))
def test_limits_hold_all_values(ys: list[float]) -> None:
    curve = line(*ys)
    low, high = curves.value_limits([curve], "loss", fit=False)
    assert low == 0 <= min(ys) <= max(ys) <= high * (1 + 1e-6)
    logs = curves.log_points(curve)
    low, high = curves.log_limits([logs])
    assert low - 1e-6 <= logs.y.min() <= logs.y.max() <= high + 1e-6
    assert low < high


def test_a_loss_of_nothing_is_a_gap_on_a_logarithmic_axis() -> None:
    logs = curves.log_points(line(0.01, 0.0, -1.0, 10.0))
    assert logs.y.tolist() == pytest.approx([-2, math.nan, math.nan, 1], nan_ok=True)


@pytest.mark.parametrize("fit", [False, True])
@pytest.mark.parametrize(
    "ys",
    [
        (5e-324, 0.0),
        (-5e-324, -1e-323),
        (1e-300, 2e-300),
        (1e60, -1e60),
        (1e60, 1.0000000000000002e60),
        (-1.0, -1.0000000000000002),
    ],
)
def test_numbers_of_a_damaged_log_have_an_axis(ys: tuple[float, float], fit: bool) -> None:
    low, high = curves.value_limits([line(*ys)], "loss", fit=fit)
    assert math.isfinite(high - low)
    assert high - low > 0
    assert len(curves.ticks(low, high, 6)) < 10
    assert braille(drawn(plan(Curve("a", line(*ys), "#ff0000"))))


def test_accuracy_has_an_axis_that_stands_still() -> None:
    assert curves.value_limits([line(0.31, 0.5)], "accuracy", fit=False) == (0.3, 1.0)
    assert curves.value_limits([line(0.31, 0.5, 0.93)], "accuracy", fit=False) == (0.3, 1.0)
    low, high = curves.value_limits([line(0.901, 0.915)], "accuracy", fit=True)
    assert 0.85 < low <= 0.901
    assert 0.915 <= high < 0.95
    assert curves.value_limits([line(1.0, 1.0)], "accuracy", fit=False) == (0.9, 1.0)
    assert curves.value_limits([line(None)], "loss", fit=False) == (0.0, 1.0)


def test_the_x_axis_changes_a_few_times_in_a_run() -> None:
    ends = [curves.reach("epoch", float(e), 100.0, live=True) for e in range(101)]
    assert ends == sorted(ends)
    assert len(set(ends)) <= 6
    assert all(end >= e for e, end in enumerate(ends))
    assert ends[-1] == 100
    assert curves.reach("epoch", 12.0, 100.0, live=False) == 12
    times = {curves.reach("time", t / 10, 0.0, live=True) for t in range(36_000)}
    assert len(times) < 60


def test_ticks() -> None:
    assert curves.whole_ticks(0, 5, 12) == [0, 1, 2, 3, 4, 5]
    assert curves.whole_ticks(0, 10, 4) == [0, 5, 10]
    assert curves.ticks(0.0, 1.0, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert curves.time_ticks(0, 3600, 4) == [0, 900, 1800, 2700, 3600]
    assert [round(10**t, 6) for t in curves.log_ticks(-1, 1)] == [0.1, 0.2, 0.5, 1, 2, 5, 10]


# ---- drawing ----------------------------------------------------------------------------------


def plan(*shown: Curve, **changes: object) -> Plan:
    fields: dict[str, object] = {
        "title": "",
        "legend": (),
        "quantity": "loss",
        "axis": "epoch",
        "curves": shown,
        "x_limits": (0.0, 10.0),
        **changes,
    }
    return Plan(**fields)  # type: ignore[arg-type]


def drawn(shown: Plan, width: int = 60, height: int = 16) -> list[str]:
    return [strip.text for strip in figure.draw(shown, width, height, "#808080")]


def braille(rows: list[str]) -> int:
    return sum("\u2800" < c <= "\u28ff" for row in rows for c in row)


@pytest.mark.parametrize(("width", "height"), [(80, 30), (40, 8), (20, 5)])
def test_a_chart_fills_its_size(width: int, height: int) -> None:
    rows = drawn(plan(Curve("test loss", line(2.0, 1.0, 0.5), "#ff0000")), width, height)
    assert len(rows) == height
    assert {len(row) for row in rows} == {width}
    assert braille(rows)
    assert "0" in rows[-1]
    assert all(row[figure.GUTTER - 1] in "│┤" for row in rows[: -figure.FOOT])


def test_an_empty_chart_has_axes() -> None:
    rows = drawn(plan())
    assert len(rows) == 16
    assert not braille(rows)
    assert "10" in rows[-1]


def test_one_point_is_seen() -> None:
    assert "•" in "".join(drawn(plan(Curve("test loss", line(1.0), "#ff0000"))))


def test_a_gap_is_a_gap() -> None:
    whole = drawn(plan(Curve("a", line(*[1.0] * 11), "#ff0000")))
    broken = drawn(plan(Curve("a", line(*[1.0] * 4, None, None, *[1.0] * 5), "#ff0000")))
    assert 0 < braille(broken) < braille(whole)


def test_raw_lines_do_not_decide_the_axis() -> None:
    spike = Curve("", line(1000.0, *[1.0] * 10), "#333333", behind=True)
    rows = drawn(plan(spike, Curve("test loss", line(2.0, 1.5, 1.0), "#ff0000")))
    assert rows[0].split("┤")[0].strip() in ("2", "")
    assert "1000" not in "".join(rows)
    alone = drawn(plan(Curve("", line(50.0, *[1.0] * 99), "#333333", behind=True)))
    assert "50" not in "".join(row[: figure.GUTTER] for row in alone)


def test_logarithms() -> None:
    rows = drawn(plan(Curve("a", line(5.0, 0.5, 0.0, 0.05), "#ff0000"), log=True), height=24)
    labels = [row[: figure.GUTTER - 1].strip() for row in rows]
    assert {"5", "0.5", "0.05"} <= set(labels)


def test_the_picture_changes_at_its_right_end_only() -> None:
    ys = [2.3 * math.exp(-i / 9) for i in range(31)]
    rows = [
        drawn(plan(Curve("a", line(*ys[:n]), "#ff0000"), x_limits=(0.0, 30.0))) for n in (20, 21)
    ]
    column = figure.GUTTER + int((60 - figure.GUTTER) * 18 / 30)
    assert [row[:column] for row in rows[0]] == [row[:column] for row in rows[1]]
    assert rows[0] != rows[1]


@pytest.mark.parametrize(
    ("low", "high", "parts"),
    [(0, 1e-3, 5), (0, 1e-4, 5), (0, 25_000, 4), (2.3021, 2.3029, 5), (0, 2.5, 5), (0, 1e7, 5)],
)
def test_labels_are_the_numbers_where_they_stand(low: float, high: float, parts: int) -> None:
    shown = plan(Curve("lr", line(low, high), "#ff0000"), quantity="lr")
    found = figure._y_ticks(shown, (low, high), parts)
    assert len([name for _, name in found if name.strip()]) >= 3
    step = found[1][0] - found[0][0]
    for tick, name in found:
        assert len(name) == figure.LABEL_WIDTH
        if name.strip():
            assert float(name) == pytest.approx(tick, abs=step / 50), name


def test_long_runs_have_steps_that_differ() -> None:
    for limits in (
        (0.0, 1_250_000.0),
        (110_000.0, 111_000.0),
        (0.0, 90_000.0),
        (2_000_000.0, 2_000_020.0),
        (12_345_000.0, 12_345_700.0),
    ):
        shown = plan(Curve("a", line(1.0), "#ff0000"), axis="step", x_limits=limits)
        found = figure._x_ticks(shown, 6)
        assert len({name for _, name in found}) == len(found)
        for tick, name in found:
            units = {"k": 1e3, "M": 1e6}
            size = units.get(name[-1], 1.0)
            assert float(name.rstrip("kM")) * size == pytest.approx(tick, rel=1e-12)


@pytest.mark.parametrize(
    ("low", "high", "parts", "least"),
    [(0.9341, 0.9342, 4, 2), (0.93, 0.94, 5, 5), (0.9995, 1.0, 5, 2), (0.0, 1.0, 4, 5)],
)
def test_labels_of_accuracies_are_the_numbers_where_they_stand(
    low: float, high: float, parts: int, least: int
) -> None:
    shown = plan(Curve("test", line(low, high), "#ff0000"), quantity="accuracy", zoomed=True)
    found = figure._y_ticks(shown, (low, high), parts)
    assert len([name for _, name in found if name.strip()]) >= least
    step = found[1][0] - found[0][0]
    for tick, name in found:
        assert len(name) == figure.LABEL_WIDTH
        if name.strip():
            assert float(name.rstrip("%")) == pytest.approx(100 * tick, abs=step), name


def test_times_beyond_a_day_have_labels_that_differ() -> None:
    shown = plan(Curve("a", line(1.0), "#ff0000"), axis="time", x_limits=(88_000.0, 95_200.0))
    names = [name for _, name in figure._x_ticks(shown, 6)]
    assert names == ["1 d 0:30", "1 d 1:00", "1 d 1:30", "1 d 2:00"]


def test_places_under_the_cursor_are_told_apart() -> None:
    assert position(12_345.0, "epoch") == "epoch 12,345"
    assert position(2_000_005.0, "step") == "step 2,000,005"
    assert position(59.0, "time") == "59 s"
    assert [position(t, "time") for t in (90_000.0, 92_000.0)] == ["1 d 1:00", "1 d 1:33"]
    assert place(2.25, "epoch") == "2.2"


def test_a_constant_accuracy_is_not_above_one() -> None:
    for value in (0.0, 0.5, 1.0):
        low, high = curves.value_limits([line(value, value)], "accuracy", fit=True)
        assert 0 <= low <= value <= high <= 1
        assert low < high
