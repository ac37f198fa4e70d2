"""How long a run will still take."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest
import torch

from tests import sample_log
from tests.sample_log import envelope, fold, numbered
from trainer import events
from trainer.config import TrainSettings, Tta
from trainer.loop.augment import tta_views
from trainer.runs.eta import _VIEWS, eta
from trainer.runs.runstate import RunState
from trainer.schedule import side

NO_TIME = msgspec.structs.replace(sample_log.eval_ended(1, 0.5), seconds=0.0)
"""Of an evaluation that takes none: the rest is of the training alone."""


@pytest.mark.parametrize("kind", get_args(Tta))
def test_test_time_augmentation_counts_as_many_passes_as_it_has_views(kind: Tta) -> None:
    views = tta_views(torch.zeros(1, 3, 32, 32), kind)
    assert _VIEWS.get(kind, 1) == len(views)


def test_eta_counts_down_over_the_whole_run() -> None:
    parts = sample_log.whole()[:6]
    state = fold(parts)
    # three epochs of 4 steps with 8 images at 100 images/s; step 4 is done, no evaluation yet
    assert state.progress is not None
    assert state.progress.step == 4
    assert eta(state) == pytest.approx(8 * 8 / 100)
    for one in sample_log.whole()[6:8]:
        state.apply(one)
    # from the epoch's own 16 images/s, and two evaluations of half a second
    assert eta(state) == pytest.approx(8 * 8 / 16 + 2 * 0.5)
    assert eta(fold(sample_log.whole())) is None
    assert eta(fold(parts[:2])) is None


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_eta_counts_the_evaluations_that_are_still_due(every: int) -> None:
    """Seven epochs of a step of 10 images in a second; an evaluation takes 100 seconds."""
    state = RunState()
    seq = 0

    def add(event: events.AnyEvent) -> None:
        nonlocal seq
        state.apply(sample_log.envelope(seq, event))
        seq += 1

    queued = sample_log.queued()
    config = f"[evaluate]\nevery = {every}\n"
    add(msgspec.structs.replace(queued, epochs=7, config=config))
    started = sample_log.started()
    add(msgspec.structs.replace(started, steps_per_epoch=1, batch_size=10, total_steps=7))
    due = [e for e in range(1, 8) if e % every == 0 or e == 7]
    for epoch in range(1, 8):
        done = {"epoch": epoch, "step": epoch}
        add(events.Progress(phase="train", done=1, total=1, loss=1.0, **done))
        add(
            events.EpochEnded(
                loss=1.0, accuracy=0.5, lr=0.1, seconds=1.0, images_per_second=10.0, **done
            )
        )
        if epoch in due:
            made = sample_log.eval_ended(epoch, 0.5)
            add(msgspec.structs.replace(made, step=epoch, seconds=100.0))
        left = [e for e in due if e > epoch]
        known = 100.0 if any(e <= epoch for e in due) else 0.0
        assert eta(state) == pytest.approx(7 - epoch + known * len(left)), epoch


def test_eta_counts_evaluations_of_averaged_weights_and_of_the_end() -> None:
    """Four epochs of a second, evaluated every second one: 10 s, averaged 20 s, six views 60 s."""
    config = "[train]\nema = 0.9\n[evaluate]\nevery = 2\ntta = 'flip+shift'\n"
    queued = msgspec.structs.replace(sample_log.queued(), epochs=4, config=config)
    started = msgspec.structs.replace(
        sample_log.started(), steps_per_epoch=1, batch_size=10, total_steps=4
    )
    state = fold(numbered(queued, started))
    left = []

    def add(event: events.AnyEvent) -> None:
        state.apply(envelope(state.seq + 1, event))
        seconds = eta(state)
        assert seconds is not None
        left.append(round(seconds))

    def evaluated(epoch: int, variant: events.Variant, seconds: float) -> None:
        made = sample_log.eval_ended(epoch, 0.5, variant)
        add(msgspec.structs.replace(made, step=epoch, seconds=seconds))

    for epoch in range(1, 5):
        state.apply(envelope(state.seq + 1, sample_log.progress(epoch, 1)))
        assert state.progress is not None
        state.progress = msgspec.structs.replace(state.progress, step=epoch)
        ended = msgspec.structs.replace(
            sample_log.epoch_ended(epoch), step=epoch, images_per_second=10.0
        )
        add(ended)
        if epoch % 2 == 0:
            evaluated(epoch, "plain", 10.0)
            evaluated(epoch, "ema", 20.0)
    evaluated(4, "tta", 60.0)
    # nothing is known before the first one; of the averaged weights it is as long at first
    assert left == [3, 2, 2 + 10 + 20 + 60, 2 + 30 + 60, 1 + 30 + 60, 30 + 60, 20 + 60, 60, 0]


def test_eta_right_after_a_resume_counts_what_is_left() -> None:
    whole = sample_log.whole()
    state = fold(whole[: len(sample_log.first_attempt()) + 1])
    assert state.progress is None
    assert eta(state) == pytest.approx(4 * 8 / 16 + 0.5)


@pytest.mark.parametrize("told", [True, False])
def test_images_that_grow_take_longer(told: bool) -> None:
    """Ten epochs of twelve steps, then two that leave out half: a whole image takes a second."""
    config = """[train]
low_resolution = 16
low_resolution_share = 0.5
"""
    each = [12] * 10 + [6] * 2
    total = sum(each) if told else 12 * 12
    each = each if told else [12] * 12
    queued = msgspec.structs.replace(sample_log.queued(), epochs=12, config=config)
    started = msgspec.structs.replace(
        sample_log.started(), steps_per_epoch=12, batch_size=10, total_steps=total if told else 0
    )
    state = fold(numbered(queued, started))
    state.evals.append(NO_TIME)
    settings = TrainSettings(low_resolution=16, low_resolution_share=0.5)
    seconds = [10 * (side(settings, step, total) / 32) ** 2 for step in range(total)]
    done = 0
    for epoch, steps in enumerate(each, start=1):
        took = sum(seconds[done : done + steps])
        rate = 10 / seconds[done]
        for step in (done + 1, done + steps):
            point = msgspec.structs.replace(
                sample_log.progress(epoch, 1), epoch=epoch, step=step, images_per_second=rate
            )
            state.apply(envelope(state.seq + 1, point))
            assert eta(state) == pytest.approx(sum(seconds[step:]), rel=0.02), (epoch, step)
        done += steps
        ended = msgspec.structs.replace(
            sample_log.epoch_ended(epoch),
            step=done,
            seconds=took,
            images_per_second=10 * steps / took,
            images=10 * steps if told else 0,
        )
        state.apply(envelope(state.seq + 1, ended))
        assert eta(state) == pytest.approx(sum(seconds[done:]), rel=0.02), epoch


@pytest.mark.parametrize(
    "settings",
    [
        "low_resolution = 99",
        "low_resolution = 'x'",
        "low_resolution = 16\nlow_resolution_share = nan",
        "[evaluate]\nevery = inf",
        f"a = {'[' * 20000}{']' * 20000}",
    ],
    ids=range(5),
)
def test_settings_that_make_no_sense_shrink_nothing(settings: str) -> None:
    parts = sample_log.whole()[:8]
    expected = eta(fold(parts))
    queued = msgspec.structs.replace(sample_log.queued(), config=f"[train]\n{settings}\n")
    parts[0] = msgspec.structs.replace(parts[0], event=queued)
    assert eta(fold(parts)) == expected


@pytest.mark.parametrize("fixed", [0.0, 0.3, 1.0])
def test_what_a_step_takes_at_any_size_is_learnt_from_the_sizes_so_far(fixed: float) -> None:
    """Twenty epochs of ten steps, the first ten at 16, 20, 24 and 28 pixels; the first is slow."""
    config = """[train]
low_resolution = 16
low_resolution_share = 0.5
"""
    settings = TrainSettings(low_resolution=16, low_resolution_share=0.5)
    queued = msgspec.structs.replace(sample_log.queued(), epochs=20, config=config)
    started = msgspec.structs.replace(
        sample_log.started(), steps_per_epoch=10, batch_size=10, total_steps=200
    )
    state = fold(numbered(queued, started))
    state.evals.append(NO_TIME)
    seconds = [fixed + (1 - fixed) * (side(settings, step, 200) / 32) ** 2 for step in range(200)]
    for epoch in range(1, 21):
        done = 10 * epoch
        took = sum(seconds[done - 10 : done]) * (3 if epoch == 1 else 1)
        ended = msgspec.structs.replace(
            sample_log.epoch_ended(epoch), step=done, seconds=took, images_per_second=100 / took
        )
        point = msgspec.structs.replace(sample_log.progress(epoch, 1), epoch=epoch, step=done)
        state.apply(envelope(state.seq + 1, point))
        state.apply(envelope(state.seq + 1, ended))
        if epoch >= 5:
            assert eta(state) == pytest.approx(sum(seconds[done:]), rel=0.05), epoch


@pytest.mark.parametrize("speed", [-1.0, 0.0, 1e-300, 1e60])
def test_speeds_that_no_run_has_are_no_crash(speed: float) -> None:
    config = "[train]\nlow_resolution = 16\n"
    queued = msgspec.structs.replace(sample_log.queued(), epochs=9, config=config)
    state = fold(numbered(queued, sample_log.started()))
    for epoch in range(1, 9):
        ended = msgspec.structs.replace(sample_log.epoch_ended(epoch), images_per_second=speed)
        state.apply(envelope(state.seq + 1, ended))
        eta(state)


def test_before_the_first_evaluation_nothing_is_told_at_the_end() -> None:
    """Two epochs of 4 steps, evaluated after the second alone."""
    config = "[evaluate]\nevery = 2\n"
    queued = msgspec.structs.replace(sample_log.queued(), epochs=2, config=config)
    started = msgspec.structs.replace(sample_log.started(), steps_per_epoch=4, total_steps=8)
    state = fold(numbered(queued, started))
    for epoch, steps in ((1, 4), (2, 4)):
        for step in range(1, steps + 1):
            state.apply(envelope(state.seq + 1, sample_log.progress(epoch, step)))
            assert (eta(state) is None) == (epoch == 2)


def test_the_time_left_goes_down_within_an_evaluation() -> None:
    """After two epochs of three, of which each evaluation took half a second."""
    state = fold(sample_log.whole()[:8])
    before, point = eta(state), state.progress
    assert before is not None
    assert point is not None
    now = events.Progress(phase="test", epoch=2, step=point.step, done=0, total=4)
    left = []
    for done in range(4):
        state.apply(envelope(state.seq + 1, msgspec.structs.replace(now, done=done)))
        left.append(eta(state))
    assert left == pytest.approx([before - 0.5 * done / 4 for done in range(4)])


def test_eta_after_a_resume_is_that_of_the_device_that_goes_on() -> None:
    """Three of 20 epochs at 1,000 images/s, then 50,000: an epoch takes 1 s, its evaluation 0.2."""
    state, seq = RunState(), 0

    def add(event: events.AnyEvent, attempt: int, elapsed: float) -> None:
        nonlocal seq
        stamp = {"attempt": attempt, "elapsed": elapsed}
        state.apply(msgspec.structs.replace(envelope(seq, event), **stamp))
        seq += 1

    def begin(attempt: int, resumed: int | None) -> None:
        add(msgspec.structs.replace(sample_log.queued(), epochs=20, config=""), attempt - 1, 0.0)
        sizes = {"steps_per_epoch": 100, "batch_size": 500, "total_steps": 2000}
        started = msgspec.structs.replace(sample_log.started(), resumed_step=resumed, **sizes)
        add(started, attempt, 0.0)

    def train(epoch: int, attempt: int, rate: float) -> None:
        took, done = 50_000 / rate, {"epoch": epoch, "step": 100 * epoch}
        add(
            events.EpochEnded(
                loss=1.0, accuracy=0.5, lr=0.1, seconds=took, images_per_second=rate, **done
            ),
            attempt,
            60.0 * epoch,
        )
        evaluated = sample_log.eval_ended(epoch, 0.5)
        evaluated = msgspec.structs.replace(evaluated, step=100 * epoch, seconds=took / 5)
        add(evaluated, attempt, 60.0 * epoch)

    begin(1, None)
    for epoch in (1, 2, 3):
        train(epoch, 1, 1_000.0)
    assert eta(state) == pytest.approx(17 * 60)
    begin(2, 300)
    assert eta(state) == pytest.approx(17 * 60)  # nothing else is known yet
    going = {"epoch": 4, "step": 350, "done": 50, "total": 100}
    add(events.Progress(phase="train", loss=1.0, images_per_second=50_000.0, **going), 2, 0.5)
    assert eta(state) == pytest.approx(16.5 + 17 * 0.2)
    train(4, 2, 50_000.0)  # the last progress is of before: its end is known from the epoch
    assert eta(state) == pytest.approx(16 * 1.2)
