"""The store of runs and the marks kept beside them."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import pytest

from tests.tui_helpers import append, held, make_run, progress, run_config
from trainer import events
from trainer.lifecycle.submit import submit
from trainer.runs.rundir import RunDir
from tui import themes
from tui.runs import store as stores
from tui.runs.store import Store
from tui.runs.view import FILE, View
from tui.widgets.run_details import details
from tui.widgets.run_header import news

COLOURS = defaultdict[str, str](str)


def loaded(runs_dir: Path) -> Store:
    store = Store(runs_dir)
    store.poll(now=True, budget=10)
    return store


def test_runs_come_newest_first_and_the_newest_is_chosen(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, created=60 * i, seed=i) for i in range(3)]
    store = loaded(tmp_path)
    assert [run.run.id for run in store] == [run.id for run in reversed(runs)]
    assert store.selected == runs[-1].id
    assert not store.loading


def test_a_poll_without_news_reports_nothing(tmp_path: Path) -> None:
    make_run(tmp_path)
    make_run(tmp_path, seed=1, end=None)
    store = loaded(tmp_path)
    assert not store.poll(now=True)


def test_new_events_and_the_end_are_reported(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=2, end=None)
    with held(run):
        store = loaded(tmp_path)
        assert [f.status for f in store.active()] == ["training"]
        append(run, events.Notice(level="info", code="x", message="x"))
        assert store.poll(now=True).runs == {run.id}
        append(run, events.RunEnded(state="completed"))
        changes = store.poll(now=True)
    assert changes.transitions == {run.id: ("training", "completed")}
    assert store.active() == []


def test_a_poll_tells_progress_from_news(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=2, end=None)
    with held(run):
        append(run, progress(3, 1))
        store = loaded(tmp_path)
        append(run, progress(3, 2))
        changes = store.poll()
        assert (changes.runs, changes.news) == ({run.id}, False)
        store.toggle_mark(run.id)
        append(run, progress(3, 3))
        assert store.poll().news, "a mark is shown, too"
        append(run, progress(3, 4), events.Notice(level="info", code="x", message="x"))
        assert store.poll().news
        append(run, progress(3, 1, phase="test", loss=None))
        assert store.poll().news, "another phase"


def test_what_a_run_was_before_the_app_looked_is_no_transition(tmp_path: Path) -> None:
    make_run(tmp_path, end="failed", error="x")
    store = Store(tmp_path)
    assert not store.poll(now=True).transitions


@pytest.mark.parametrize("step", [400, 10**9])
def test_a_run_that_is_copied_in_has_not_just_ended(tmp_path: Path, step: int) -> None:
    source = make_run(tmp_path / "elsewhere", done=2).log.read_bytes()
    make_run(tmp_path / "runs", seed=1)
    store = loaded(tmp_path / "runs")
    copy = RunDir(tmp_path / "runs" / "20251124-120000-quick-0000")
    copy.path.mkdir()
    found = [store.poll(now=True, budget=10)]
    for begin in range(0, len(source), step):
        with copy.log.open("ab") as log:
            log.write(source[begin : begin + step])
        store.look_at({copy.id})
        found.append(store.poll(now=True, budget=10))
    assert not any(poll.transitions for poll in found)
    follower = store.get(copy.id)
    assert follower is not None
    assert follower.status == "completed"


def test_a_lost_trainer_is_a_crash(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=1, end=None)
    with held(run):
        store = loaded(tmp_path)
    store._checked.clear()
    assert store.poll().transitions == {run.id: ("training", "crashed")}


@pytest.mark.parametrize("done", [0, 1])
def test_a_run_whose_folder_is_moved_does_not_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    monkeypatch.setattr(stores, "SCAN_SECONDS", 30.0)
    run = make_run(tmp_path / "runs", done=done, end=None)
    with held(run):
        store = loaded(tmp_path / "runs")
        follower = store.current
        assert follower is not None
        before = follower.status
        run.path.rename(tmp_path / "elsewhere")
        # the directory is listed now and then, the run is looked at at every poll
        found = store.poll()
        assert (found.transitions, found.runs, follower.status) == ({}, set(), before)
        found = store.poll()
        assert (found.transitions, found.gone, found.lost) == ({}, {run.id}, follower)
        (tmp_path / "elsewhere").rename(run.path)
        found = store.poll(now=True)
        assert not found.transitions
        assert [f.status for f in store] == [before]


def test_a_run_without_its_log_is_not_held_to_train_for_ever(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=1, end=None)
    with held(run):
        store = loaded(tmp_path)
    run.log.unlink()
    assert not store.poll().transitions, "its folder may be about to go"
    os.utime(run.path, (0, 0))
    assert store.poll().transitions == {run.id: ("training", "crashed")}


def said(store: Store) -> tuple[str, str]:
    """Of the chosen run: by the list of runs, and by the dashboard."""
    run = store.current
    assert run is not None
    told = news(run, COLOURS)
    return details(run, COLOURS).plain, "" if told is None else told.plain.strip()


def test_a_log_deleted_while_its_run_trains_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=1, end=None)
    with held(run):
        store = loaded(tmp_path)
        assert "log" not in "".join(said(store))
        run.log.unlink()
        changes = store.poll(now=True)
        assert (changes.runs, changes.news, changes.transitions) == ({run.id}, True, {})
        line = "its log was deleted: what it has done since is not known"
        assert said(store)[0].endswith(f"\n{line}")
        assert said(store)[1] == line
    os.utime(run.path, (0, 0))
    assert store.poll(now=True).transitions == {run.id: ("training", "crashed")}
    assert said(store)[1] == "its log was deleted: how it ended is not known"


def test_a_log_replaced_while_its_run_trains_is_told_until_it_is_written_to(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=1, end=None)
    copy = run.path / "copy"
    with held(run):
        store = loaded(tmp_path)
        copy.write_bytes(run.log.read_bytes())
        copy.replace(run.log)
        assert store.poll(now=True).runs == {run.id}
        line = "its log was replaced by another file: what it has done since is not known"
        assert said(store)[1] == line
        store.poll(now=True)
        assert said(store)[1] == line
        append(run, progress(2, 1))  # as a trainer that has taken it up again
        store.poll(now=True)
        assert "its log was" not in "".join(said(store))


def test_a_log_copied_again_is_not_told_as_replaced(tmp_path: Path) -> None:
    """As a tool does that mirrors a run which another machine trains."""
    run = make_run(tmp_path, done=1, end=None)
    store = loaded(tmp_path)
    copy = run.path / "copy"
    copy.write_bytes(run.log.read_bytes())
    copy.replace(run.log)
    store.look_at({run.id})
    store.poll(now=True)
    assert "its log was" not in "".join(said(store))


def test_a_log_cut_while_its_run_trains_lacks_its_beginning(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=1, end=None)
    with held(run):
        store = loaded(tmp_path)
        lines = run.log.read_bytes().splitlines(keepends=True)
        with run.log.open("r+b") as log:
            log.truncate(0)
            log.write(lines[-1])
        store.poll(now=True)
        assert "the beginning of its log is missing" in said(store)[0]


def test_a_run_just_submitted_is_queued_until_it_is_locked(tmp_path: Path) -> None:
    run = submit(run_config(), tmp_path)
    store = loaded(tmp_path)
    assert [f.status for f in store] == ["queued"]
    assert not store.poll(now=True)
    assert store.get(run.id) is not None


def test_an_expected_run_is_queued_however_long_its_trainer_takes(tmp_path: Path) -> None:
    run = make_run(tmp_path, done=0, end=None)
    store = Store(tmp_path)
    store.expect(run.id)
    store.poll(now=True)
    assert [f.status for f in store] == ["queued"]
    store.give_up()
    store._checked.clear()
    assert store.poll().transitions == {run.id: ("queued", "crashed")}


def test_a_run_that_goes_is_forgotten(tmp_path: Path) -> None:
    first = make_run(tmp_path)
    second = make_run(tmp_path, seed=1, created=60)
    store = loaded(tmp_path)
    second.path.rename(tmp_path / "elsewhere")
    assert store.poll(now=True).listing
    assert [run.run.id for run in store] == [first.id]
    assert store.selected == first.id


def test_a_missing_directory_is_empty_and_a_file_is_an_error(tmp_path: Path) -> None:
    assert len(loaded(tmp_path / "none")) == 0
    (tmp_path / "file").write_text("")
    store = loaded(tmp_path / "file")
    assert "file" in store.error
    assert len(store) == 0


def test_many_runs_are_read_over_several_polls(tmp_path: Path) -> None:
    for i in range(6):
        make_run(tmp_path, seed=i, created=i)
    store = Store(tmp_path)
    store.poll(now=True, budget=0)
    assert store.loading
    for _ in range(20):
        store.poll(budget=0.001)
    assert not store.loading
    assert all(run.status == "completed" for run in store)


def test_a_run_that_takes_all_of_a_poll_keeps_the_others_from_nothing(tmp_path: Path) -> None:
    """As where the runs are on a slow network: the chosen one, which trains, is always due."""
    runs = [make_run(tmp_path, done=2, end=None, seed=i, created=i) for i in range(3)]
    with held(*runs):
        store = loaded(tmp_path)
        for run in runs:
            append(run, progress(3, 1))
        polls = [store.poll(budget=0).runs for _ in runs]
        assert polls[0] == {store.selected}, "the chosen one first"
        assert set[str]().union(*polls) == {run.id for run in runs}
        assert not store.unfinished, "all were looked at"


# ---- marks ------------------------------------------------------------------------------------


def test_marks_and_their_colours_are_kept(tmp_path: Path) -> None:
    view = View(tmp_path)
    assert [view.toggle(run) for run in ("a", "b", "c")] == [True] * 3
    assert [view.slot(run) for run in ("a", "b", "c")] == [0, 1, 2]
    assert not view.toggle("a")
    assert view.slot("a") is None
    again = View(tmp_path)
    assert again.marked == ("b", "c")
    assert [again.slot(run) for run in ("b", "c")] == [1, 2]
    again.toggle("d")
    assert again.slot("d") == 3, "the colour of a is not given away while there are others"
    again.toggle("a")
    assert again.slot("a") == 0


def test_no_two_marked_runs_have_the_same_colour_as_long_as_there_are_some(tmp_path: Path) -> None:
    view = View(tmp_path)
    for i in range(30):
        if i >= 8:
            view.toggle(str(i - 8))
        view.toggle(str(i))
        slots = [view.slot(run) for run in view.marked]
        assert len(set(slots)) == len(slots) <= 8
        assert len({themes.run_colour(slot or 0) for slot in slots}) == len(slots)


def test_marks_beyond_the_colours_differ_in_shape() -> None:
    looks = {(themes.run_colour(i), themes.run_glyph(i)) for i in range(64)}
    assert len(looks) == 64


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", '{"marked": 3}', '{"slots": {"a": -1}, "marked": ["a", "a"]}', "\xff"]
)
def test_a_damaged_view_is_no_obstacle(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_bytes(text.encode("latin-1"))
    view = View(tmp_path)
    assert view.toggle("b")
    assert (view.slot("b") or 0) >= 0
    assert View(tmp_path).slot("b") == view.slot("b")


def test_two_apps_keep_each_others_marks(tmp_path: Path) -> None:
    one, two = View(tmp_path), View(tmp_path)
    assert one.toggle("a")
    assert two.toggle("b")
    assert two.marked == ("a", "b")
    assert [two.slot(run) for run in two.marked] == [0, 1]
    assert one.toggle("c")
    assert not two.toggle("a")
    assert View(tmp_path).marked == ("b", "c")
    assert not one.toggle("a"), "it was shown as marked"
    one.clear()
    two.toggle("d")
    assert View(tmp_path).marked == ("d",)
    two.forget("d")
    assert View(tmp_path).marked == ()


def test_a_pipe_in_the_views_place_hangs_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE)
    view = View(tmp_path)
    assert view.toggle("a")
    assert View(tmp_path).marked == ("a",)


def test_nothing_is_written_through_a_link_in_the_views_place(tmp_path: Path) -> None:
    runs, link, mine = tmp_path / "runs", tmp_path / "link", tmp_path / "mine"
    runs.mkdir()
    link.symlink_to(runs)
    mine.write_text("mine")
    (runs / FILE).symlink_to(mine)
    assert View(link).toggle("a")
    assert mine.read_text() == "mine"
    assert View(link).marked == ("a",), "the directory itself may be one"
    assert [path.name for path in runs.iterdir()] == [FILE]


def test_marks_live_in_memory_where_nothing_can_be_written(tmp_path: Path) -> None:
    view = View(tmp_path / "none")
    assert view.toggle("a")
    assert view.marked == ("a",)
    assert not (tmp_path / "none").exists()


def test_a_mark_repaints_its_run(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    store = loaded(tmp_path)
    assert store.toggle_mark(run.id)
    assert store.poll().runs == {run.id}
    assert [f.run.id for f in store.marked()] == [run.id]
    store.clear_marks()
    assert store.poll().runs == {run.id}
    assert store.slot(run.id) is None
    other = make_run(tmp_path, seed=2)
    store.poll(now=True)
    View(tmp_path).toggle(other.id)
    assert store.toggle_mark(run.id)
    assert store.poll().runs == {run.id, other.id}, "another app has marked one"


def test_a_directory_that_lost_its_permissions_is_looked_at_again(tmp_path: Path) -> None:
    os.utime(tmp_path, (1e9, 1e9))
    before = stores._stamp(tmp_path)
    assert before is not None
    assert stores._stamp(tmp_path) == before
    tmp_path.chmod(0o500)
    assert stores._stamp(tmp_path) != before


def test_a_run_whose_log_is_gone_does_not_wait_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "FINISHED_SECONDS", 0.0)
    run = make_run(tmp_path)
    store = loaded(tmp_path)
    run.log.write_bytes(b"")
    store.poll(now=True)
    run.log.unlink()
    run.log.mkdir()
    store.poll(now=True)
    assert store.followers[run.id].status == "crashed"
