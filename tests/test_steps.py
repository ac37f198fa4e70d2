"""The points of training in bounded memory, and the fold of many events at once."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import sample_log
from tests.sample_log import long_log
from trainer import events
from trainer.runs import steps
from trainer.runs.points import Points, floats
from trainer.runs.runstate import RunState
from trainer.runs.steps import Steps

SMALL = 64


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "LIMIT", SMALL)


def progress(step: int, loss: float, lr: float | None = 0.1) -> events.Progress:
    return events.Progress(
        phase="train", epoch=1, step=step, done=step, total=10_000, loss=loss, accuracy=0.5, lr=lr
    )


def noisy(count: int, seed: int = 0) -> list[events.Progress]:
    chance = random.Random(seed)
    return [progress(4 * i, chance.gauss(1, 0.1)) for i in range(1, count + 1)]


def extend(kept: Steps, many: list[events.Progress], elapsed: list[float]) -> None:
    """Add points that follow each other."""
    envelopes = [sample_log.envelope(seq, at) for seq, at in enumerate(many)]
    points = Points.of(envelopes, many)
    assert points is not None
    kept.extend(points, floats(elapsed))


def test_memory_is_bounded_and_the_newest_point_is_there() -> None:
    kept = Steps()
    for at in noisy(3000):
        kept.append(at, float(at.step))
        assert len(kept) < SMALL
        assert kept.step[-1] == at.step
    assert len(kept) >= SMALL // 8
    assert list(kept.step) == sorted(kept.step)


def test_no_spike_is_lost() -> None:
    all_points = noisy(5000)
    all_points[1234] = progress(4 * 1235, 99.0)
    all_points[3456] = progress(4 * 3457, -99.0)
    kept = Steps()
    extend(kept, all_points, [0.0] * 5000)
    known = dict(zip(kept.step, kept.loss, strict=True))
    assert known[4 * 1235] == 99.0
    assert known[4 * 3457] == -99.0


def test_the_extremes_of_each_stretch_are_kept() -> None:
    all_points = noisy(2000, seed=1)
    kept = Steps()
    extend(kept, all_points, [0.0] * 2000)
    for stretch in {at.step // kept.stretch for at in all_points[:1000]}:
        whole = [at.loss for at in all_points if at.step // kept.stretch == stretch]
        left = [
            loss
            for step, loss in zip(kept.step, kept.loss, strict=True)
            if step // kept.stretch == stretch
        ]
        assert (min(left), max(left)) == (min(whole), max(whole)), stretch


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=12), st.integers(0, 9))
def test_how_many_come_at_a_time_does_not_matter(sizes: list[int], seed: int) -> None:
    all_points = noisy(sum(sizes), seed)
    one_by_one, in_parts = Steps(), Steps()
    for at in all_points:
        one_by_one.append(at, float(at.step))
    rest = all_points
    for size in sizes:
        some, rest = rest[:size], rest[size:]
        extend(in_parts, some, [float(at.step) for at in some])
    assert in_parts == one_by_one


def test_unknown_values_and_steps_that_no_run_has() -> None:
    kept = Steps()
    for i in range(1000):
        kept.append(progress((i % 2) * 2**53, 1.0, lr=None), 0.0)
    assert len(kept) < SMALL
    assert all(math.isnan(lr) for lr in kept.lr)


def test_dropping_and_going_on() -> None:
    kept = Steps()
    all_points = noisy(1000)
    extend(kept, all_points, [0.0] * 1000)
    kept.drop_after(2000)
    assert kept.step[-1] <= 2000
    extend(kept, all_points[500:], [0.0] * 500)
    assert all(a < b for a, b in pairwise(kept.step))
    assert kept.step[-1] == 4000


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_many_at_once_fold_as_one_by_one(seed: int) -> None:
    chance = random.Random(seed)
    log = long_log(chance)
    slow, fast = RunState(), RunState()
    for envelope in log:
        slow.apply(envelope)
    at = 0
    while at < len(log):
        size = chance.randrange(1, 200)
        fast.apply_all(log[at : at + size])
        at += size
    assert fast == slow


def test_lines_at_once_decode_as_one_by_one() -> None:
    log = sample_log.whole()
    lines = [events.encode(envelope) for envelope in log]
    assert events.decode_lines(b"".join(lines)) == log
    assert events.decode_lines(b"") == []


@pytest.mark.parametrize(
    "bad", [b"{}\n", b"\n", b"\xff\n", b'{"v":1\n', b"[" * 100_000 + b"\n"], ids=range(5)
)
def test_lines_at_once_leave_damage_to_the_other_way(bad: bytes) -> None:
    line = events.encode(sample_log.whole()[0])
    assert events.decode_lines(line + bad + line) is None


def test_two_envelopes_in_a_line_are_damage() -> None:
    line = events.encode(sample_log.whole()[0])
    assert events.decode_lines(line.strip() + line) is None
