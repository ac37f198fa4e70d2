"""Which evaluation the mistakes screen shows, and how long."""

from __future__ import annotations

import pytest

from trainer import events
from trainer.runstate import RunState
from tui import following
from tui.following import Following


class Clock:
    """Instead of the time module."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(following, "time", clock)
    return clock


def saved(epoch: int, variant: events.Variant = "plain") -> events.PredictionsSaved:
    return events.PredictionsSaved(
        epoch=epoch, step=epoch, split="test", variant=variant, path=f"{epoch}.npz", images=10
    )


def epoch(follows: Following, state: RunState) -> int:
    found = follows.wanted(state)
    return 0 if found is None else found.epoch


def test_a_page_stays_for_its_bytes_and_not_longer_than_a_page_may(clock: Clock) -> None:
    state, follows = RunState(), Following()
    assert follows.wanted(state) is None
    state.predictions = [saved(1)]
    assert epoch(follows, state) == 1
    follows.shown(state.predictions[0], 500)  # 18,000 bytes
    assert follows.seconds_left(state) == 0, "it is the newest"
    state.predictions.append(saved(2))
    assert follows.seconds_left(state) == 10
    assert epoch(follows, state) == 1
    clock.now += 9.5
    follows.shown(state.predictions[0], 500)
    assert epoch(follows, state) == 1
    clock.now += 0.5
    assert follows.seconds_left(state) == 0
    assert epoch(follows, state) == 2
    follows.shown(state.predictions[1], 10**6)
    state.predictions.append(saved(3))
    assert follows.seconds_left(state) == following.LONGEST


def test_images_that_come_later_count_from_then_on(clock: Clock) -> None:
    state, follows = RunState(predictions=[saved(1)]), Following()
    follows.shown(state.predictions[0], 0)
    clock.now += 3
    follows.shown(state.predictions[0], 500)
    state.predictions.append(saved(2))
    assert follows.seconds_left(state) == 10


def test_a_page_stays_while_someone_moves_in_it(clock: Clock) -> None:
    state, follows = RunState(predictions=[saved(1)]), Following()
    follows.shown(state.predictions[0], 0)
    state.predictions.append(saved(2))
    assert epoch(follows, state) == 2
    follows.read()
    clock.now += following.READING - 1
    assert epoch(follows, state) == 1
    follows.opened()
    assert epoch(follows, state) == 1, "also when the screen is opened again"
    clock.now += 1
    assert epoch(follows, state) == 2


def test_opened_ended_or_of_another_run_nothing_stays(clock: Clock) -> None:
    state, follows = RunState(predictions=[saved(1)]), Following()
    follows.shown(state.predictions[0], 500)
    state.predictions.append(saved(2))
    assert epoch(follows, RunState(predictions=[saved(5), saved(6)])) == 6
    assert epoch(follows, state) == 1
    state.ended = events.RunEnded(state="completed")
    assert epoch(follows, state) == 2
    state.ended = None
    follows.opened()
    assert epoch(follows, state) == 2


def test_steps_through_the_evaluations(clock: Clock) -> None:
    state = RunState(predictions=[saved(1), saved(2), saved(3), saved(3, "tta")])
    follows = Following()

    def step(by: int) -> tuple[int, str]:
        follows.step(state, by)
        found = follows.wanted(state)
        assert found is not None
        return found.epoch, found.variant

    assert step(1) == (3, "tta")
    assert step(1) == (3, "tta")
    assert step(-1) == (3, "plain")
    assert follows.chosen is None
    assert step(-1) == (2, "plain")
    assert step(-5) == (1, "plain")
    state.predictions.append(saved(4))
    assert step(1) == (2, "plain"), "a chosen one stays chosen"
    assert step(5) == (4, "plain")
    assert follows.chosen is None

    follows.shown(state.predictions[-1], 500)
    state.predictions += [saved(5), saved(6)]
    assert epoch(follows, state) == 4
    assert step(-1) == (3, "tta"), "the one before the shown one"
    follows.shown(state.predictions[3], 500)
    follows.let_go()
    follows.shown(state.predictions[-3], 500)
    assert epoch(follows, state) == 4
    assert step(1) == (6, "plain"), "the newest, not the next"


def test_what_a_resumed_run_has_dropped_is_not_shown(clock: Clock) -> None:
    state, follows = RunState(predictions=[saved(1), saved(2)]), Following()
    follows.shown(state.predictions[1], 500)
    follows.step(state, -1)
    assert epoch(follows, state) == 1
    state.predictions = [saved(1)]
    assert follows.wanted(state) is state.predictions[0]
    assert follows.chosen is None
