from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import sample_log
from tests.sample_log import envelope, fold, numbered
from trainer import events
from trainer.events import Envelope
from trainer.runs.eta import eta
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog
from trainer.runs.runstate import NOTICES_KEPT, RunState

GOLDEN = Path(__file__).parent / "golden"
SAMPLE = sample_log.lines()
COLUMNS = ("step", "epoch", "elapsed", "loss", "accuracy", "lr")


def plain(state: RunState) -> dict[str, Any]:
    """Everything in a state, comparable: nan equals nan."""
    values = msgspec.structs.asdict(state)
    steps = values.pop("steps")
    values["steps"] = {name: list(map(repr, getattr(steps, name))) for name in COLUMNS}
    return values


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / sample_log.RUN)
    run.path.mkdir()
    return run


# the fold


def test_a_stopped_and_resumed_run() -> None:
    state = fold(sample_log.whole())
    assert state.run == sample_log.RUN
    assert [r.epoch for r in state.epochs] == [1, 2, 3]
    assert [r.test_accuracy for r in state.epochs] == [0.5, 4 / 6, 5 / 6]
    assert [r.train_accuracy for r in state.epochs] == pytest.approx([0.4, 0.5, 0.6])
    assert state.best is state.epochs[2]
    assert state.attempt == 2
    assert state.missing == 0
    assert state.ended is not None
    assert state.status(locked=False) == "completed"
    assert state.latest_eval() == sample_log.eval_ended(3, 5 / 6)
    assert state.latest_eval("tta") == sample_log.eval_ended(3, 1.0, "tta")
    assert state.latest_eval("ema") is None
    assert [bool(e.confusion) for e in state.evals] == [False, False, True, True], "newest alone"
    assert set(state.checkpoints) == {"last", "best"}
    assert [p.epoch for p in state.predictions] == [1, 2, 3]


@pytest.mark.parametrize(
    ("asked", "loaded", "kind", "real"),
    [
        ("cifar10", None, "cifar10", True),
        ("cifar100", "cifar100", "cifar100", True),
        ("/data/CIFAR-10", "cifar10", "cifar10", True),
        ("/data/CIFAR-10", None, "folder", False),
        ("cifar10", "synthetic", "synthetic", False),
        ("cifar10", "CIFAR-10 of a later version", "CIFAR-10 of a later version", False),
    ],
)
def test_only_what_was_loaded_decides_whether_data_are_real(
    asked: str, loaded: str | None, kind: str, real: bool
) -> None:
    assert (RunState().data_kind, RunState().real_data) == ("", False)
    parts: list[events.AnyEvent] = [msgspec.structs.replace(sample_log.queued(), data=asked)]
    if loaded is not None:
        parts.append(msgspec.structs.replace(sample_log.started(), data_kind=loaded))
    state = fold(numbered(*parts))
    assert (state.data_kind, state.real_data) == (kind, real)


def test_resume_leaves_one_clean_curve() -> None:
    whole = sample_log.whole()
    before = fold(whole[: len(sample_log.first_attempt())])
    assert list(before.steps.step) == [2, 6, 10], "only points with a loss"
    state = fold(whole)
    assert list(state.steps.step) == [2, 6, 10]
    for name in COLUMNS:
        assert len(getattr(state.steps, name)) == 3
    for name in ("step", "epoch", "elapsed"):
        values = list(getattr(state.steps, name))
        assert values == sorted(values), f"{name} must not go back"
    elapsed = [r.elapsed for r in state.epochs]
    assert elapsed == sorted(elapsed)
    assert all(value >= 0 for value in elapsed)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5))
def test_any_number_of_resumes_leaves_the_curve_of_one_attempt(stops: list[int]) -> None:
    """Each attempt trains up to a stop and is resumed from any step before it."""
    parts: list[Envelope] = [envelope(0, sample_log.queued(9), attempt=0)]

    def add(event: events.AnyEvent, attempt: int, elapsed: float) -> None:
        parts.append(envelope(len(parts), event, attempt=attempt, elapsed=elapsed))

    begin = 0
    for attempt, stop in enumerate([*stops, 12], start=1):
        begin = min(begin, stop)
        add(sample_log.started(begin if attempt > 1 else None), attempt, 0.1)
        for step in range(begin + 1, stop + 1):
            epoch, done = (step - 1) // 4 + 1, (step - 1) % 4 + 1
            at = 0.1 + step - begin
            add(sample_log.progress(epoch, done), attempt, at)
            if done == 4:
                add(sample_log.epoch_ended(epoch), attempt, at)
                add(sample_log.eval_ended(epoch, epoch / 10), attempt, at)
        begin = stop // 2
    state = fold(parts)
    assert list(state.steps.step) == list(range(1, 13))
    assert [r.epoch for r in state.epochs] == [1, 2, 3]
    assert [(e.epoch, e.accuracy) for e in state.evals] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    elapsed = list(state.steps.elapsed)
    assert elapsed == sorted(elapsed)
    assert state.best is not None
    assert state.best.epoch == 3


def test_an_attempt_from_the_start_forgets_the_one_before() -> None:
    parts = [
        *sample_log.whole()[:15],
        envelope(15, sample_log.started(None), attempt=2),
        envelope(16, sample_log.progress(1, 1), attempt=2, elapsed=1.0),
    ]
    state = fold(parts)
    assert list(state.steps.step) == [1]
    assert state.epochs == []
    assert state.best is None


def test_repeated_events_are_ignored_and_gaps_counted() -> None:
    whole = sample_log.whole()
    assert plain(fold([*whole, *whole])) == plain(fold(whole))
    gaps = fold([w for w in whole if w.seq not in (3, 4, 9)])
    assert gaps.missing == 3


def test_first_of_equal_accuracies_is_the_best() -> None:
    evals = [sample_log.eval_ended(e, a) for e, a in ((1, 0.5), (2, 0.6), (3, 0.6), (4, 0.1))]
    state = fold(numbered(sample_log.queued(), sample_log.started(), *evals))
    assert state.best is not None
    assert state.best.epoch == 2


def test_the_best_of_a_log_that_lacks_its_evaluation_is_what_its_end_says() -> None:
    parts = numbered(
        sample_log.queued(),
        sample_log.started(),
        sample_log.epoch_ended(1),
        sample_log.eval_ended(1, 0.4),
        sample_log.epoch_ended(2),
        sample_log.eval_ended(2, 0.7),
        events.RunEnded(state="completed", best_accuracy=0.7, best_epoch=2),
    )
    for lost in (), (5,), (4, 5):
        state = fold(e for i, e in enumerate(parts) if i not in lost)
        assert state.best is not None
        assert (state.best.epoch, state.best.test_accuracy) == (2, 0.7)


def test_accuracy_of_zero_is_a_best_and_a_loss_of_nothing_a_gap() -> None:
    zero = sample_log.eval_ended(1, 0.0)
    state = fold(numbered(sample_log.queued(), sample_log.started(), zero))
    assert state.best is not None
    assert state.best.test_accuracy == 0.0
    state.apply(envelope(3, sample_log.progress(1, 1)))
    assert math.isfinite(state.steps.loss[0])


def test_other_variants_stay_out_of_the_epoch_table() -> None:
    tta = sample_log.eval_ended(1, 0.9, "tta")
    state = fold(numbered(sample_log.queued(), sample_log.started(), tta))
    assert state.epochs == []
    assert state.best is None
    assert state.evals == [tta]


def test_a_pause_is_no_training_time() -> None:
    state = fold(
        [
            envelope(0, sample_log.started(), elapsed=0.0),
            envelope(1, events.Paused(step=1), elapsed=10.0),
        ]
    )
    assert state.status(locked=True) == "paused"
    state.apply(envelope(2, events.Resumed(step=1, seconds=100.0), elapsed=110.0))
    assert state.status(locked=True) == "training"
    state.apply(envelope(3, sample_log.progress(1, 2), elapsed=111.0))
    assert state.elapsed == pytest.approx(11.0)
    assert state.steps.elapsed[0] == pytest.approx(11.0)


def checkpoint(epoch: int, step: int) -> events.CheckpointSaved:
    return events.CheckpointSaved(role="last", epoch=epoch, step=step, path="checkpoints/last.pt")


def test_what_is_told_within_a_pause_is_no_training_time() -> None:
    paused = [
        envelope(0, sample_log.queued(), attempt=0),
        envelope(1, sample_log.started(), elapsed=0.0),
        envelope(2, sample_log.progress(1, 1), elapsed=9.0),
        envelope(3, events.Paused(step=1), elapsed=10.0),
        envelope(4, checkpoint(1, 1), elapsed=70.0),
        envelope(5, events.Notice(level="info", code="x", message="x"), elapsed=80.0),
    ]
    state = fold(paused)
    assert state.elapsed == pytest.approx(10.0)
    killed = fold([*paused, envelope(6, events.RunEnded(state="failed"), elapsed=90.0)])
    killed.apply(envelope(7, events.Notice(level="info", code="x", message="x"), elapsed=91.0))
    assert killed.elapsed == killed.attempt_seconds == pytest.approx(11.0)
    state.apply(envelope(6, events.Resumed(step=1, seconds=100.0), elapsed=110.0))
    assert state.elapsed == state.attempt_seconds == pytest.approx(10.0)
    lost = fold([*paused, envelope(7, sample_log.progress(1, 2), elapsed=111.0)])
    assert lost.elapsed == pytest.approx(111.0), "it trains, whatever was lost in between"


def test_the_seconds_of_an_attempt_that_took_long_to_begin() -> None:
    """It is resumed twice: by hand, and by a launcher that queues nothing."""
    state = fold(
        [
            envelope(0, sample_log.queued(), attempt=0),
            envelope(1, sample_log.started(), elapsed=1.0),
            envelope(2, sample_log.progress(1, 4), elapsed=5.0),
            envelope(3, sample_log.queued(), elapsed=7.0),
            envelope(4, events.Notice(level="info", code="preparing", message=""), attempt=2),
        ]
    )
    assert (state.elapsed, state.attempt_seconds) == (7.0, 0.0)
    state.apply(envelope(5, sample_log.started(4), attempt=2, elapsed=60.0))
    assert (state.elapsed, state.attempt_seconds) == (67.0, 60.0)
    state.apply(envelope(6, sample_log.progress(2, 1), attempt=2, elapsed=61.0))
    assert (state.elapsed, state.attempt_seconds) == (68.0, 61.0)
    notice = events.Notice(level="info", code="preparing", message="")
    state.apply(envelope(7, notice, attempt=3, elapsed=0.0))
    assert (state.elapsed, state.attempt_seconds) == (68.0, 0.0)


def test_the_time_goes_back_only_with_what_a_resume_drops() -> None:
    """An attempt counts from its loading to its end, whatever it ended in."""
    saved = events.CheckpointSaved(role="last", epoch=1, step=4, path="checkpoints/last.pt")
    testing = events.Progress(phase="test", epoch=1, step=4, done=1, total=3)
    first = [
        envelope(0, sample_log.queued(), attempt=0),
        envelope(1, sample_log.started(), elapsed=2.0),
        envelope(2, sample_log.progress(1, 4), elapsed=5.0),
        envelope(3, testing, elapsed=8.0),
        envelope(4, saved, elapsed=9.0),
    ]
    again = sample_log.started(4)
    whole = fold([*first, envelope(5, events.RunEnded(state="stopped"), elapsed=9.5)])
    times = [whole.elapsed]
    for i, (event, elapsed) in enumerate(((again, 3.0), (testing, 4.0)), start=6):
        whole.apply(envelope(i, event, attempt=2, elapsed=elapsed))
        times.append(whole.elapsed)
    assert times == [9.5, 12.5, 13.5]
    dropping = fold([*first, envelope(5, sample_log.progress(2, 1), elapsed=90.0)])
    assert dropping.elapsed == 90.0
    dropping.apply(envelope(6, again, attempt=2, elapsed=3.0))
    assert dropping.elapsed == 9.0 + 3.0, "the time of the checkpoint"
    assert dropping.attempt_seconds == 3.0
    unknown = [one for one in first if one.event is not saved]
    lost = fold([*unknown, envelope(5, sample_log.progress(2, 1), elapsed=90.0)])
    lost.apply(envelope(6, again, attempt=2, elapsed=3.0))
    assert lost.elapsed == 5.0 + 3.0, "the end of the curves"


def test_the_pause_in_which_a_trainer_was_killed_is_none_of_its_time() -> None:
    state = fold(
        [
            envelope(0, sample_log.queued(), attempt=0),
            envelope(1, sample_log.started(), elapsed=2.0),
            envelope(2, events.Paused(step=1), elapsed=5.0),
            envelope(3, checkpoint(1, 1), elapsed=60.0),
            envelope(4, sample_log.queued(), elapsed=61.0),
            envelope(5, events.Notice(level="info", code="x", message=""), elapsed=61.5),
        ]
    )
    assert state.elapsed == pytest.approx(5.5)


def test_an_evaluation_that_is_done_again_takes_the_place_of_the_first() -> None:
    def evaluated(variant: events.Variant, accuracy: float) -> list[events.AnyEvent]:
        saved = events.PredictionsSaved(
            epoch=1, step=4, split="test", variant=variant, path=variant, images=6
        )
        return [sample_log.eval_ended(1, accuracy, variant), saved]

    state = fold(
        numbered(
            *(sample_log.queued(), sample_log.started()),
            *evaluated("plain", 0.5),
            *(events.RunEnded(state="stopped"), sample_log.queued(), sample_log.started(4)),
            *evaluated("plain", 0.6),
            *evaluated("ema", 0.7),
            sample_log.eval_ended(2, 0.8),
        )
    )
    assert [(e.epoch, e.variant, e.accuracy) for e in state.evals] == [
        (1, "plain", 0.6),
        (1, "ema", 0.7),
        (2, "plain", 0.8),
    ]
    assert [p.variant for p in state.predictions] == ["plain", "ema"]


def test_progress_within_a_phase_is_no_news() -> None:
    def at(epoch: int, done: int, phase: events.Phase = "train") -> events.Progress:
        loss = 1.0 if phase == "train" else None
        return events.Progress(phase=phase, epoch=epoch, step=done, done=done, total=4, loss=loss)

    parts: list[tuple[events.AnyEvent, bool]] = [
        (sample_log.queued(), True),
        (sample_log.started(), True),
        (at(1, 1), True),
        (at(1, 2), False),
        (events.Ranks(step=2, images_per_second=(1.0,), memory=(1,)), False),
        (at(1, 3), False),
        (at(1, 1, "test"), True),
        (at(1, 2, "test"), False),
        (at(2, 1), True),
        (events.Notice(level="info", code="x", message="x"), True),
        (at(2, 2), False),
        (at(3, 3), True),
        (at(3, 4), False),
    ]
    envelopes = numbered(*(event for event, _ in parts))
    state = RunState()
    for one, (_, told) in zip(envelopes, parts, strict=True):
        before = state.news
        state.apply(one)
        assert (state.news > before) is told
    at_once = RunState()
    at_once.apply_all(envelopes)
    assert at_once.news == state.news


def test_notices_are_bounded() -> None:
    notices = [
        events.Notice(level="info", code="x", message=str(i)) for i in range(NOTICES_KEPT + 50)
    ]
    state = fold(numbered(*notices))
    assert [n.message for _, n in state.notices] == [str(i) for i in range(50, NOTICES_KEPT + 50)]


def test_status() -> None:
    first = sample_log.whole()
    queued = fold(first[:1])
    assert queued.status(locked=True) == "queued"
    assert queued.status(locked=False) == "crashed"
    training = fold(first[:6])
    assert training.status(locked=True) == "training"
    assert training.status(locked=False) == "crashed"
    stopped = fold(first[: len(sample_log.first_attempt())])
    assert stopped.status(locked=False) == "stopped"
    resumed = fold(first[: len(sample_log.first_attempt()) + 1])
    assert resumed.status(locked=True) == "training"
    assert resumed.status(locked=False) == "crashed"


@pytest.mark.parametrize(
    ("images", "hardest", "marked"),
    [(32, None, False), (24, None, True), (0, None, False), (32, True, True), (24, False, False)],
)
def test_whose_figures_are_of_the_hardest_images(
    images: int, hardest: bool | None, marked: bool
) -> None:
    """Where a log does not tell, those of fewer images than an epoch of four batches of eight."""
    ended = msgspec.structs.replace(sample_log.epoch_ended(1), images=images, hardest=hardest)
    state = fold(numbered(sample_log.queued(), sample_log.started(), ended))
    assert state.left_easy_out(state.epochs[0]) == marked


def test_revision_grows_with_every_change() -> None:
    state = RunState()
    for i, one in enumerate(sample_log.whole(), start=1):
        state.apply(one)
        assert state.revision == i
        state.apply(one)
        assert state.revision == i


# the fold over any log


@given(st.integers(0, len(SAMPLE)))
@settings(deadline=None)
def test_any_prefix_of_a_log_folds(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    run = RunDir(tmp_path_factory.mktemp("runs") / sample_log.RUN)
    run.path.mkdir()
    run.log.write_bytes(SAMPLE[:cut])
    follower = Follower(run)
    state = follower.catch_up()
    assert plain(state) == plain(fold(sample_log.whole()[: SAMPLE.count(b"\n", 0, cut)]))
    assert follower.damaged == 0
    assert follower.status in ("completed", "stopped", "crashed")


@settings(deadline=None)
@given(st.lists(st.integers(0, len(SAMPLE))), st.integers(1, 5000))
def test_live_and_replay_fold_to_the_same_state(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], limit: int
) -> None:
    run = RunDir(tmp_path_factory.mktemp("runs") / sample_log.RUN)
    run.path.mkdir()
    live = Follower(run)
    for cut in [*sorted(cuts), len(SAMPLE)]:
        run.log.write_bytes(SAMPLE[:cut])
        live.poll(limit=limit)
    while live.behind():
        live.poll(limit=limit)
    replay = Follower(run)
    assert plain(live.state) == plain(replay.catch_up())
    assert live.status == "completed"


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_any_damage_folds(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Changed bytes and lines in any order never raise, and columns stay of one length."""
    lines = SAMPLE.splitlines(keepends=True)
    lines = data.draw(st.permutations(lines)) if data.draw(st.booleans()) else lines
    raw = bytearray(b"".join(lines))
    for _ in range(data.draw(st.integers(0, 5))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    run = RunDir(tmp_path_factory.mktemp("runs") / sample_log.RUN)
    run.path.mkdir()
    run.log.write_bytes(bytes(raw))
    state = Follower(run).catch_up()
    assert len({len(getattr(state.steps, name)) for name in COLUMNS}) == 1
    eta(state)


def test_a_hostile_log_of_huge_numbers_is_damage(run: RunDir) -> None:
    line = events.encode(envelope(0, sample_log.progress(1, 2)))
    run.log.write_bytes(line.replace(b'"step":2', b'"step":' + b"9" * 25) + SAMPLE)
    follower = Follower(run)
    assert len(follower.catch_up().epochs) == 3
    assert follower.damaged == 1


def test_unknown_kinds_survive(run: RunDir) -> None:
    lines = SAMPLE.splitlines(keepends=True)
    lines[5] = lines[5].replace(b'"kind":"Progress"', b'"kind":"Dreamt"')
    run.log.write_bytes(b"".join(lines))
    follower = Follower(run)
    state = follower.catch_up()
    assert follower.damaged == 1
    assert state.missing == 1
    assert follower.status == "completed"


# a run being watched


def test_follower_of_a_run_without_a_log(run: RunDir) -> None:
    follower = Follower(run)
    assert follower.catch_up().queued is None
    run.log.mkdir()
    assert Follower(run).catch_up().queued is None, "no endless loop over what cannot be read"


def test_a_run_is_called_by_its_name_else_by_its_id(run: RunDir) -> None:
    log = RunLog(run)
    follower = Follower(run)
    assert follower.catch_up().name == ""
    assert follower.name == run.id, "nothing is known but its folder"
    log.emit(msgspec.structs.replace(sample_log.queued(), name=""))
    assert follower.catch_up().name == follower.name == run.id
    log.emit(sample_log.queued())
    assert follower.catch_up().name == follower.name == "first look"
    log.close()


def test_epochs_are_counted_by_their_number() -> None:
    assert fold([]).epochs_trained == 0
    whole = sample_log.whole()
    assert fold(whole).epochs_trained == 3
    lost = [one for one in whole if getattr(one.event, "epoch", None) not in (1, 2)]
    assert fold(lost).epochs_trained == 3, "rows of a damaged log, or of a glance, are missing"


def test_follower_folds_anew_when_the_log_was_replaced(run: RunDir) -> None:
    run.log.write_bytes(SAMPLE)
    follower = Follower(run)
    follower.catch_up()
    run.log.write_bytes(sample_log.lines(sample_log.whole()[:2]))
    assert follower.poll()
    assert follower.state.seq == 1
    assert follower.status == "crashed"


def test_follower_sees_the_end_and_then_rests(run: RunDir) -> None:
    follower = Follower(run)
    with run.locked():
        log = RunLog(run)
        log.emit(sample_log.queued())
        assert follower.poll()
        assert follower.status == "queued"
        log.begin_attempt()
        log.emit(sample_log.started())
        assert follower.poll()
        assert follower.status == "training"
        assert not follower.poll()
        log.emit(events.RunEnded(state="failed", error="out of memory"))
        log.close()
    assert follower.poll()
    assert follower.status == "failed"
    assert not follower.poll()


def test_predictions_past_the_step_that_a_run_goes_on_from_are_dropped() -> None:
    def saved(step: int) -> events.PredictionsSaved:
        return events.PredictionsSaved(
            epoch=step, step=step, split="test", variant="plain", path=f"{step}.npz", images=6
        )

    steps = (saved(4), saved(8), saved(12))
    state = fold(numbered(sample_log.started(), *steps, sample_log.started(resumed_step=8)))
    assert [one.step for one in state.predictions] == [4, 8]


def test_golden_log_folds_to_a_known_state(run: RunDir) -> None:
    """Written by version 1: it must fold like this for ever."""
    data = (GOLDEN / "v1.jsonl").read_bytes()
    run.log.write_bytes(data)
    follower = Follower(run)
    state = follower.catch_up()
    assert follower.damaged == 0
    assert state.missing == 0
    assert state.queued == sample_log.queued()
    assert state.started == sample_log.started(resumed_step=8)
    assert state.described == sample_log.described()
    assert [(r.epoch, r.step, r.test_accuracy, r.train_loss) for r in state.epochs] == [
        (1, 4, 0.5, 1.5),
        (2, 8, 4 / 6, 0.75),
        (3, 12, 5 / 6, 0.5),
    ]
    assert state.ended == sample_log.second_attempt()[-1]
    assert state.notices[0][1].code == "not-a-number"
    assert state.seq == data.count(b"\n") - 1
