from __future__ import annotations

from trainer.loop.epoch_clock import EpochClock


def test_an_epoch_s_time_is_without_pauses_and_with_earlier_attempts() -> None:
    now = 100.0
    clock = EpochClock(lambda: now)
    assert clock.seconds is None
    clock.begin(7)
    now += 2
    assert clock.seconds == 9
    clock.pause()
    now += 50
    assert clock.seconds == 9, "what is saved in a pause"
    assert clock.resume() == 50
    now += 1
    assert clock.seconds == 10
    clock.end()
    assert clock.seconds is None


def test_pauses_outside_epochs_are_none_of_the_next_one() -> None:
    now = 0.0
    clock = EpochClock(lambda: now)
    clock.pause()
    now += 5
    clock.resume()
    assert clock.seconds is None
    clock.begin(0)
    now += 3
    assert clock.seconds == 3
    assert clock.paused_total == 5
