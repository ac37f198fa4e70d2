from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import ScheduleSettings, TrainSettings
from trainer.schedule import factor, side, sides, whole_steps

NAMES = ["constant", "step", "cosine", "onecycle", "triangular", "linear"]


@pytest.mark.parametrize("name", NAMES)
@given(
    total=st.integers(1, 5000),
    warmup=st.floats(0, 1),
    start=st.floats(0, 1),
    end=st.floats(0, 1),
)
def test_stays_between_zero_and_the_peak(
    name: str, total: int, warmup: float, start: float, end: float
) -> None:
    settings = ScheduleSettings(
        name=name, warmup=warmup, start_factor=start, end_factor=end, step_epochs=2
    )
    for step in {0, total // 3, total // 2, total - 1}:
        value = factor(settings, step, total, 10)
        assert math.isfinite(value)
        assert -1e-9 <= value <= 1 + 1e-9


@pytest.mark.parametrize("name", ["cosine", "onecycle", "triangular", "linear"])
def test_rises_from_start_to_the_peak_and_falls_to_the_end(name: str) -> None:
    settings = ScheduleSettings(name=name, warmup=0.25, start_factor=0.2, end_factor=0.1)
    total = 101
    values = [factor(settings, step, total, 10) for step in range(total)]
    assert values[0] == pytest.approx(0.2)
    assert values[25] == pytest.approx(1.0)
    assert values[-1] == pytest.approx(0.1)
    assert values[:26] == sorted(values[:26])
    assert values[25:] == sorted(values[25:], reverse=True)


@pytest.mark.parametrize("name", ["cosine", "onecycle", "triangular", "linear"])
def test_a_fall_within_one_step_reaches_the_end(name: str) -> None:
    settings = ScheduleSettings(name=name, warmup=0.95, end_factor=0.0)
    assert factor(settings, 11, 12, 4) == pytest.approx(0)
    assert factor(settings, 10, 12, 4) > 0.9


def test_step_multiplies_by_gamma_at_the_epochs() -> None:
    settings = ScheduleSettings(name="step", warmup=0.0, step_epochs=2, gamma=0.1)
    values = [factor(settings, epoch * 7, 42, 7) for epoch in range(6)]
    assert values == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_step_falls_between_the_last_step_of_an_epoch_and_the_next() -> None:
    settings = ScheduleSettings(name="step", warmup=0.0, step_epochs=2, gamma=0.1)
    values = [factor(settings, step, 42, 7) for step in (13, 14, 27, 28, 41)]
    assert values == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_constant_stays_at_the_peak_after_the_warm_up() -> None:
    settings = ScheduleSettings(name="constant", warmup=0.1, start_factor=0.0)
    assert factor(settings, 0, 101, 10) == 0.0
    assert factor(settings, 5, 101, 10) == pytest.approx(0.5)
    assert {factor(settings, step, 101, 10) for step in range(10, 101)} == {1.0}


def test_images_grow_to_their_own_size() -> None:
    settings = TrainSettings(low_resolution=20, low_resolution_share=0.75)
    assert sides(settings) == (20, 24, 28, 32)
    found = [side(settings, step, 12) for step in range(12)]
    assert found == [20] * 3 + [24] * 3 + [28] * 3 + [32] * 3


def test_images_that_do_not_grow() -> None:
    assert sides(TrainSettings()) == (32,)
    assert {side(TrainSettings(), step, 10) for step in range(10)} == {32}
    never = TrainSettings(low_resolution=20, low_resolution_share=0.0)
    assert {side(never, step, 10) for step in range(10)} == {32}
    odd = TrainSettings(low_resolution=30, low_resolution_share=1.0)
    assert [side(odd, step, 4) for step in range(4)] == [30] * 4


@given(low=st.sampled_from([0, 16, 20, 27, 32]), share=st.floats(0, 1), total=st.integers(1, 200))
def test_steps_on_shrunk_images_cost_as_their_pixels(low: int, share: float, total: int) -> None:
    settings = TrainSettings(low_resolution=low, low_resolution_share=share)
    each = [(side(settings, step, total) / 32) ** 2 for step in range(total)]
    for steps in (0, 1, total // 2, total):
        cost = whole_steps(settings, steps, total)
        assert cost == pytest.approx(sum(each[:steps]), abs=1)  # where rounding moves a step
