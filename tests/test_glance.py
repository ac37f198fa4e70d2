"""Long logs in the list: a glance at both ends tells what the whole fold tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.long_log import write_many, write_run
from tests.tui_helpers import TimedLog, append, held, make_run, progress, some_layers
from trainer import events
from trainer.runs.follower import Follower
from trainer.runs.glance import END_BYTES, WHOLE_BYTES, glance
from trainer.runs.rundir import RunDir
from tui import run_words
from tui.runs import store as stores
from tui.runs.store import Store
from tui.widgets import run_table

NAME = "20261123-120000-long-00"


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run = RunDir(tmp_path_factory.mktemp("long") / f"{NAME}00")
    write_run(run, epochs=20, each=40)
    assert run.log.stat().st_size > WHOLE_BYTES
    return run


def copy(long: RunDir, folder: Path, *, number: int = 0) -> RunDir:
    run = RunDir(folder / f"{NAME}{number:02x}")
    run.path.mkdir()
    run.log.write_bytes(long.log.read_bytes())
    return run


def cells(run: Follower) -> list[object]:
    """What the list shows of a run."""
    state = run.state
    best = state.best
    return [
        *(words(run) for words in run_table.WORDS.values()),
        run.status,
        run_words.data_of(run),
        best and (best.epoch, best.test_accuracy),
        (state.queued_at, state.started_at, state.ended, state.started),
        (state.attempt, state.seq, state.missing, state.waiting, state.paused, state.elapsed),
        state.epochs[-1],
        state.evals[-1],
    ]


def test_a_glance_tells_what_the_whole_log_tells(long: RunDir) -> None:
    glanced, whole = Follower(long), Follower(long)
    assert glanced.glance()
    whole.catch_up()
    assert cells(glanced) == cells(whole)
    assert glanced.partial
    assert not len(glanced.state.steps)


def test_after_a_glance_the_whole_log_folds_as_ever(long: RunDir) -> None:
    run, whole = Follower(long), Follower(long)
    run.glance()
    assert not run.poll(whole=False)
    assert run.catch_up() == whole.catch_up()
    assert not run.partial
    assert len(run.state.epochs) == 20


def test_a_run_that_goes_on_is_folded_whole(long: RunDir, tmp_path: Path) -> None:
    run = Follower(copy(long, tmp_path))
    assert run.glance()
    append(run.run, events.Notice(level="info", code="x", message="resumed"))
    assert run.poll(whole=False)
    assert len(run.state.epochs) == 20
    assert not run.partial


def rewrite(run: RunDir, old: bytes, new: bytes) -> None:
    data = run.log.read_bytes()
    assert old in data
    run.log.write_bytes(data.replace(old, new))


def test_where_the_ends_do_not_tell_enough_there_is_no_glance(long: RunDir, tmp_path: Path) -> None:
    assert glance(tmp_path / "nothing") is None
    assert glance(make_run(tmp_path, seed=9).log) is None  # short: folded whole
    resumed = copy(long, tmp_path, number=1)
    rewrite(resumed, b'"attempt":1', b'"attempt":2')
    assert glance(resumed.log) is None
    paused = copy(long, tmp_path, number=2)
    last = paused.log.read_bytes().rsplit(b'"seconds":', 1)[1]
    rewrite(paused, b'"seconds":' + last, b'"seconds":1.5}}\n')
    assert glance(paused.log) is None
    going = copy(long, tmp_path, number=3)
    rewrite(going, b'"kind":"RunEnded"', b'"kind":"NotKnown"')
    assert glance(going.log) is None
    damaged = copy(long, tmp_path, number=4)
    rewrite(damaged, b'"kind":"RunStarted"', b'"kind":"RunStarted')
    assert glance(damaged.log) is None
    torn = copy(long, tmp_path, number=5)
    torn.log.write_bytes(torn.log.read_bytes()[:-1])
    assert glance(torn.log) is None


def long_run(
    folder: Path, *end: events.Event, layers: tuple[events.LayerRow, ...] | None = None
) -> RunDir:
    """Four long epochs of six, and what comes after them."""
    run = make_run(folder, epochs=6, done=4, end=None, steps_per_epoch=220, layers=layers)
    log = TimedLog(run)
    for event in end:
        log.emit(event)
    state = Follower(run).catch_up()
    assert state.best is not None
    log.emit(
        events.RunEnded(
            state="stopped",
            best_accuracy=state.best.test_accuracy,
            best_epoch=4,
            final_accuracy=state.best.test_accuracy,
            seconds=state.elapsed,
        )
    )
    log.close()
    assert run.log.stat().st_size > WHOLE_BYTES
    return run


def test_a_run_that_is_stopped_late_in_an_epoch(tmp_path: Path) -> None:
    step = 4 * 220
    stats = [events.LayerStats(epoch=5, step=step + i, layers=("fc",)) for i in range(1, 10)]
    begun = events.EpochStarted(epoch=5, step=step)
    near = Follower(long_run(tmp_path / "near", begun, *stats))
    assert near.glance()
    whole = Follower(near.run)
    whole.catch_up()
    assert cells(near) == cells(whole)
    steps = [progress(5, i, step=step + i, total=220) for i in range(1, 220)]
    far = Follower(long_run(tmp_path / "far", begun, *steps))
    assert not far.glance(), "the last epoch that ended lies before the tail"


def test_a_net_that_takes_the_whole_head(tmp_path: Path) -> None:
    run = long_run(tmp_path, layers=some_layers(100_000) * 60)
    assert b'"kind":"ModelDescribed"' in run.log.read_bytes()[:END_BYTES]
    assert glance(run.log) is None


def test_the_list_glances_and_the_chosen_run_is_whole(long: RunDir, tmp_path: Path) -> None:
    runs = [copy(long, tmp_path, number=i) for i in range(4)]
    store = Store(tmp_path)
    changes = store.poll(now=True, budget=10)
    assert changes.runs == {run.id for run in runs}
    assert not store.loading
    assert store.selected == runs[-1].id
    assert [run.partial for run in store] == [False, True, True, True]
    assert {run.status for run in store} == {"completed"}
    store.selected = runs[0].id
    store.toggle_mark(runs[1].id)
    changes = store.poll(budget=10)
    assert not changes.transitions
    assert [run.partial for run in store] == [False, True, False, False]
    assert len(store.followers[runs[1].id].state.steps) == 800
    assert not store.poll(budget=10)


def test_a_poll_out_of_time_says_so_and_goes_on(long: RunDir, tmp_path: Path) -> None:
    runs = [copy(long, tmp_path, number=i) for i in range(3)]
    store = Store(tmp_path)
    store.poll(now=True, budget=0)
    assert store.unfinished
    assert store.loading
    for _ in range(1000):
        if not store.unfinished:
            break
        store.poll(budget=1e-6)
    assert not store.loading
    chosen = store.followers[runs[-1].id]
    assert chosen.state == Follower(runs[-1]).catch_up()


def test_a_run_is_read_to_its_end_when_another_is_chosen_or_it_is_marked_alone(
    long: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "CHUNK_BYTES", 4096)
    runs = [copy(long, tmp_path, number=i) for i in range(3)]
    store = Store(tmp_path)
    store.poll(now=True, budget=10)
    left, marked = store.followers[runs[0].id], store.followers[runs[1].id]
    store.toggle_mark(marked.run.id)
    store.selected = left.run.id
    polls = [store.poll(budget=0) for _ in range(4)]
    assert not any(poll.transitions for poll in polls)
    assert left.halfway
    column = next(column for column in run_table.COLUMNS if column.key == "state")
    cell = run_table._cell(column, left, store, {"warning": "red"}, set(), True, 0.0)
    assert cell.plain == "… reading"
    assert marked.reading
    store.selected = runs[2].id
    for _ in range(10 * long.log.stat().st_size // 4096):
        store.poll(budget=0)
    for run in (left, marked):
        assert not run.reading
        assert run.state == Follower(run.run).catch_up()


def test_curves_of_runs_that_were_left_are_forgotten(
    long: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "WHOLE_KEPT", 2)
    runs = [copy(long, tmp_path, number=i) for i in range(5)]
    store = Store(tmp_path)
    store.poll(now=True, budget=10)
    for run in runs:
        store.selected = run.id
        assert not store.poll(budget=10).transitions
        store.poll(budget=10)
    whole = [run.run.id for run in store if not run.partial]
    assert whole == [runs[4].id, runs[3].id]
    assert {run.status for run in store} == {"completed"}


def test_a_resumed_run_is_noticed_in_a_settled_directory(long: RunDir, tmp_path: Path) -> None:
    runs = [copy(long, tmp_path, number=i) for i in range(2)]
    store = Store(tmp_path)
    store.poll(now=True, budget=10)
    append(runs[0], events.RunQueued(**_queued(runs[0])))
    store._checked = dict.fromkeys(store._checked, 0.0)
    with held(runs[0]):
        changes = store.poll(budget=10)
    assert changes.transitions == {runs[0].id: ("completed", "queued")}


def _queued(run: RunDir) -> dict[str, object]:
    queued = Follower(run).catch_up().queued
    assert queued is not None
    return {name: getattr(queued, name) for name in queued.__struct_fields__}


def test_a_settled_directory_is_not_listed_again(
    long: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(long, tmp_path)
    os.utime(tmp_path, (1e9, 1e9))
    store = Store(tmp_path)
    store.poll(now=True, budget=10)
    monkeypatch.setattr(stores, "scan", lambda _: pytest.fail("listed again"))
    store.poll(now=True, budget=10)
    monkeypatch.undo()
    copy(long, tmp_path, number=1)
    assert store.poll(now=True, budget=10).listing
    assert len(store) == 2


def test_the_benchmark_makes_runs_as_the_trainer_does(tmp_path: Path) -> None:
    write_many(tmp_path, runs=1)
    run = Follower(RunDir(next(tmp_path.iterdir())))
    state = run.catch_up()
    assert state.missing == 0
    assert run.damaged == 0
    assert state.ended is not None
    assert state.ended.best_epoch == (state.best.epoch if state.best else 0)


def test_a_run_that_is_removed_did_not_crash(long: RunDir, tmp_path: Path) -> None:
    runs = [copy(long, tmp_path, number=i) for i in range(2)]
    store = Store(tmp_path)
    store.poll(now=True, budget=10)
    removed = store.followers[runs[0].id]
    before = cells(removed)
    runs[0].log.unlink()
    store.look_at({runs[0].id})
    assert not store.poll(now=True, budget=10).transitions
    assert cells(removed) == before  # what was known stays until the folder is gone
    runs[0].path.rmdir()
    store.poll(now=True, budget=10)
    assert runs[0].id not in store.followers
