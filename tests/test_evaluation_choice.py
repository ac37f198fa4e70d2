"""Which evaluation the mistakes screen shows, and how long."""

from __future__ import annotations

import pytest

from trainer import events
from trainer.runs.runstate import RunState
from tui.images import evaluation_choice
from tui.images.evaluation_choice import EvaluationChoice


class Clock:
    """Instead of the time module."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(evaluation_choice, "time", clock)
    return clock


def saved(epoch: int, variant: events.Variant = "plain") -> events.PredictionsSaved:
    return events.PredictionsSaved(
        epoch=epoch, step=epoch, split="test", variant=variant, path=f"{epoch}.npz", images=10
    )


def epoch(choice: EvaluationChoice, state: RunState) -> int:
    found = choice.wanted(state)
    return 0 if found is None else found.epoch


def test_a_page_stays_for_its_bytes_and_not_longer_than_a_page_may(clock: Clock) -> None:
    state, choice = RunState(), EvaluationChoice()
    assert choice.wanted(state) is None
    state.predictions = [saved(1)]
    assert epoch(choice, state) == 1
    choice.shown(state.predictions[0], 600)  # 25,200 bytes
    assert choice.seconds_left(state) == 0, "it is the newest"
    state.predictions.append(saved(2))
    assert choice.seconds_left(state) == 14
    assert epoch(choice, state) == 1
    clock.now += 13.5
    choice.shown(state.predictions[0], 600)
    assert epoch(choice, state) == 1
    clock.now += 0.5
    assert choice.seconds_left(state) == 0
    assert epoch(choice, state) == 2
    choice.shown(state.predictions[1], 10**6)
    state.predictions.append(saved(3))
    assert choice.seconds_left(state) == evaluation_choice.LONGEST


def test_images_that_come_later_count_from_then_on(clock: Clock) -> None:
    state, choice = RunState(predictions=[saved(1)]), EvaluationChoice()
    choice.shown(state.predictions[0], 0)
    clock.now += 3
    choice.shown(state.predictions[0], 600)
    state.predictions.append(saved(2))
    assert choice.seconds_left(state) == 14


def test_a_page_stays_while_someone_moves_in_it(clock: Clock) -> None:
    state, choice = RunState(predictions=[saved(1)]), EvaluationChoice()
    choice.shown(state.predictions[0], 0)
    state.predictions.append(saved(2))
    assert epoch(choice, state) == 2
    choice.read()
    clock.now += evaluation_choice.READING - 1
    assert epoch(choice, state) == 1
    choice.opened()
    assert epoch(choice, state) == 1, "also when the screen is opened again"
    clock.now += 1
    assert epoch(choice, state) == 2


def test_opened_ended_or_of_another_run_nothing_stays(clock: Clock) -> None:
    state, choice = RunState(predictions=[saved(1)]), EvaluationChoice()
    choice.shown(state.predictions[0], 600)
    state.predictions.append(saved(2))
    assert epoch(choice, RunState(predictions=[saved(5), saved(6)])) == 6
    assert epoch(choice, state) == 1
    state.ended = events.RunEnded(state="completed")
    assert epoch(choice, state) == 2
    state.ended = None
    choice.opened()
    assert epoch(choice, state) == 2


def test_steps_through_the_evaluations(clock: Clock) -> None:
    state = RunState(predictions=[saved(1), saved(2), saved(3), saved(3, "tta")])
    choice = EvaluationChoice()

    def step(by: int) -> tuple[int, str]:
        choice.step(state, by)
        found = choice.wanted(state)
        assert found is not None
        return found.epoch, found.variant

    assert step(1) == (3, "tta")
    assert step(1) == (3, "tta")
    assert step(-1) == (3, "plain")
    assert choice.chosen is None
    assert step(-1) == (2, "plain")
    assert step(-5) == (1, "plain")
    state.predictions.append(saved(4))
    assert step(1) == (2, "plain"), "a chosen one stays chosen"
    assert step(5) == (4, "plain")
    assert choice.chosen is None

    choice.shown(state.predictions[-1], 600)
    state.predictions += [saved(5), saved(6)]
    assert epoch(choice, state) == 4
    assert step(-1) == (3, "tta"), "the one before the shown one"
    choice.shown(state.predictions[3], 600)
    choice.let_go()
    choice.shown(state.predictions[-3], 600)
    assert epoch(choice, state) == 4
    assert step(1) == (6, "plain"), "the newest, not the next"


def test_what_a_resumed_run_has_dropped_is_not_shown(clock: Clock) -> None:
    state, choice = RunState(predictions=[saved(1), saved(2)]), EvaluationChoice()
    choice.shown(state.predictions[1], 600)
    choice.step(state, -1)
    assert epoch(choice, state) == 1
    state.predictions = [saved(1)]
    assert choice.wanted(state) is state.predictions[0]
    assert choice.chosen is None
