"""What a trainer keeps of a long log is what folding the log gives, or it is not used."""

from __future__ import annotations

import math
import os
import random
from array import array
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.long_log import write_run
from tests import sample_log
from tests.sample_log import long_log
from trainer import events
from trainer.runs import folded, steps
from trainer.runs import follower as follower_module
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runstate import RunState
from tui.runs.store import Store


@pytest.fixture(autouse=True)
def all_logs_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded, "LONG_BYTES", 0)
    monkeypatch.setattr(follower_module, "LONG_BYTES", 1)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "20261123-120000-long-0000")
    write_run(run, epochs=5, each=20)
    return run


def of_the_log(run: RunDir) -> Follower:
    """The run folded from its log alone."""
    kept = run.folded.read_bytes() if run.folded.exists() else None
    run.folded.unlink(missing_ok=True)
    follower = Follower(run)
    follower.catch_up()
    if kept is not None:
        run.folded.write_bytes(kept)
    return follower


def same(run: RunDir) -> bool:
    """Whether the run is what its log says."""
    follower, whole = Follower(run), of_the_log(run)
    return (
        follower.catch_up() == whole.state
        and follower.damaged == whole.damaged
        and follower.status == whole.status
    )


def test_it_is_the_fold_of_the_log(run: RunDir) -> None:
    assert Follower(run).keep_growing()
    found = folded.load(run)
    assert found is not None
    assert found.state == of_the_log(run).state
    assert found.state.best is not None
    assert found.state.best is found.state._rows[found.state.best.epoch]
    assert found.state.layer_stats.maxlen == RunState().layer_stats.maxlen
    follower = Follower(run)
    assert follower.poll(limit=1)
    assert not follower.behind()
    assert same(run)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_of_any_log(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    chance = random.Random(seed)
    run = RunDir(tmp_path_factory.mktemp("any") / sample_log.RUN)
    run.path.mkdir()
    made = long_log(chance)
    last = made[-1]
    ended = events.RunEnded(state="stopped", seconds=1.0)
    made.append(
        sample_log.envelope(last.seq + 1, ended, attempt=last.attempt, elapsed=last.elapsed)
    )
    lines = [events.encode(one) for one in made]
    for _ in range(chance.randrange(3)):
        lines.insert(chance.randrange(len(lines)), b"damage\n")
    run.log.write_bytes(b"".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "LIMIT", 64)
        kept = Follower(run).keep_growing()
        assert kept == (of_the_log(run).state.seq >= 0)
        assert (folded.load(run) is not None) == kept
        assert same(run)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32))
def test_of_a_log_that_grows(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    chance = random.Random(seed)
    run = RunDir(tmp_path_factory.mktemp("grows") / sample_log.RUN)
    run.path.mkdir()
    lines = [events.encode(one) for one in long_log(chance)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "LIMIT", 64)
        keeper = Follower(run)
        while lines:
            count = chance.randrange(1, 1 + len(lines))
            with run.log.open("ab") as file:
                file.write(b"".join(lines[:count]))
            del lines[:count]
            if chance.random() < 0.7:
                assert keeper.keep_growing()
            assert same(run)
        with run.log.open("ab") as file:
            file.write(b'{"half a line')
        assert not keeper.keep_growing()
        assert same(run)


def test_what_is_added_later_is_folded_on(run: RunDir) -> None:
    Follower(run).keep_growing()
    follower = Follower(run)
    follower.poll()
    last = follower.state
    notice = events.Notice(level="info", code="later", message="one more")
    with run.log.open("ab") as file:
        file.write(events.encode(sample_log.envelope(last.seq + 1, notice, elapsed=last.elapsed)))
    found = folded.load(run)
    assert found is not None
    assert found.size < run.log.stat().st_size
    assert follower.poll()
    assert follower.state.notices[-1][1] == notice
    assert follower.state == of_the_log(run).state
    assert same(run)


def edited(run: RunDir) -> None:
    data = run.log.read_bytes()
    at = len(data) // 2
    stat = run.log.stat()
    run.log.write_bytes(data[:at] + (b"1" if data[at : at + 1] != b"1" else b"2") + data[at + 1 :])
    os.utime(run.log, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def cut(run: RunDir) -> None:
    os.truncate(run.log, run.log.stat().st_size - 10)


def replaced(run: RunDir) -> None:
    run.log.unlink()
    with run.log.open("wb") as file:
        for envelope in sample_log.whole():
            file.write(events.encode(envelope))


@pytest.mark.parametrize("change", [edited, cut, replaced])
def test_of_a_log_that_has_changed_nothing_is_believed(run: RunDir, change: object) -> None:
    Follower(run).keep_growing()
    assert callable(change)
    change(run)
    assert folded.load(run) is None
    assert same(run)


def test_a_change_far_from_both_ends_is_seen_by_its_time(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folded, "END_BYTES", 64)
    Follower(run).keep_growing()
    assert folded.load(run) is not None
    with run.log.open("rb") as file:
        before = folded._identity(file.fileno(), run.log.stat().st_size)
    edited(run)
    with run.log.open("rb") as file:
        assert folded._identity(file.fileno(), run.log.stat().st_size) == before
    assert folded.load(run) is None
    assert same(run)


def test_what_other_code_has_folded_is_not_believed(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    Follower(run).keep_growing()
    monkeypatch.setattr(folded, "_code", lambda: b"another version's")
    assert folded.load(run) is None
    assert same(run)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_damage_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    run = RunDir(tmp_path_factory.mktemp("damage") / "20261123-120000-long-0000")
    write_run(run, epochs=2, each=4)
    Follower(run).keep_growing()
    kept = run.folded.read_bytes()
    at = data.draw(st.integers(0, len(kept) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "empty", "more"]))
    run.folded.write_bytes(
        {
            "flip": kept[:at] + bytes([kept[at] ^ 1]) + kept[at + 1 :],
            "cut": kept[:at],
            "empty": b"",
            "more": kept + b"x",
        }[how]
    )
    assert folded.load(run) is None
    assert same(run)


def test_what_others_made_up_is_refused(run: RunDir) -> None:
    """Well-formed and with the right sum, but of no fold: it would crash a screen."""
    Follower(run).keep_growing()
    found = folded._decoder().decode(run.folded.read_bytes()[folded.SUM_BYTES :])
    whole, nan, inf, huge = array("q", [1]), *(array("d", [v]) for v in (math.nan, math.inf, 1e308))
    one = array("d", [1.0])
    points = [
        *((0, *[b""] * 6), (1, b"x" * 8, *[b""] * 5), (1, b"x" * 7, *[b""] * 5), ()),
        (1, *(c.tobytes() for c in (array("q", [-1]), one, one, one, one, one))),
        (1, *(c.tobytes() for c in (whole, inf, one, one, one, one))),
        (1, *(c.tobytes() for c in (whole, one, nan, one, one, one))),
        (1, *(c.tobytes() for c in (whole, one, one, huge, one, one))),
        (1, *(c.tobytes() for c in (whole, one, one, nan, huge, one))),
    ]
    row = found.state.epochs[0]
    made_up: list[dict[str, object]] = [
        *({"steps": Steps(columns)} for columns in points),
        *({"queued_at": at} for at in (math.nan, math.inf)),
        {"elapsed": math.inf},
        {"notices": [(math.nan, events.Notice(level="info", code="x", message="x"))]},
        *({"epochs": [msgspec.structs.replace(row, epoch=epoch)]} for epoch in (-5, 2**62)),
        {"epochs": [row, row]},
        {"epochs": [msgspec.structs.replace(row, elapsed=math.nan)]},
        {"epochs": [msgspec.structs.replace(row, train_loss=1e308)]},
        {"epochs": [msgspec.structs.replace(row, test_accuracy=7.0)]},
    ]
    for changed in made_up:
        state = msgspec.structs.replace(found.state, **{"best": None, "_rows": {}, **changed})
        data = folded.msgspec.msgpack.encode(
            folded.msgspec.structs.replace(found, best=None, state=state), enc_hook=folded._plain
        )
        run.folded.write_bytes(folded._sum(data) + data)
        assert folded.load(run) is None, changed
    gaps = Steps((1, *(c.tobytes() for c in (whole, one, one, nan, nan, nan))))
    state = msgspec.structs.replace(found.state, best=None, _rows={}, steps=gaps)
    data = folded.msgspec.msgpack.encode(
        folded.msgspec.structs.replace(found, state=state), enc_hook=folded._plain
    )
    run.folded.write_bytes(folded._sum(data) + data)
    assert folded.load(run) is not None


class Steps(steps.Steps):
    """Columns that do not fit together."""

    def __init__(self, columns: tuple[int | bytes, ...]) -> None:
        super().__init__()
        self._made_up = columns

    def dump(self) -> tuple[int | bytes, ...]:
        return self._made_up


def test_a_pipe_in_its_place_does_not_hang_the_reader(run: RunDir) -> None:
    run.folded.parent.mkdir()
    os.mkfifo(run.folded)
    assert folded.load(run) is None
    follower = Follower(run)
    follower.catch_up()
    assert follower.status == "completed"


def test_a_short_log_and_one_that_is_hardly_longer_leave_none(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = run.log.stat().st_size
    monkeypatch.setattr(follower_module, "LONG_BYTES", size + 1)
    assert not Follower(run).keep_growing()
    assert not run.folded.exists()
    monkeypatch.setattr(follower_module, "LONG_BYTES", size)
    keeper = Follower(run)
    assert keeper.keep_growing()
    assert not keeper.keep_growing()


def test_a_folder_that_cannot_be_written_is_no_harm(run: RunDir) -> None:
    (run.path / "cache").write_text("in the way")
    assert not Follower(run).keep_growing()
    assert Follower(run).catch_up().ended is not None


def test_who_shows_a_log_without_one_keeps_it_once(run: RunDir) -> None:
    store = Store(run.path.parent)
    store.poll(now=True, budget=10)
    assert run.folded.exists()
    assert same(run)
    follower = Follower(run)
    follower.poll(limit=1)
    assert not follower.behind()
    assert not follower.keep()
    run.folded.unlink()
    store.poll(now=True, budget=10)
    assert not run.folded.exists()


def test_who_shows_a_log_keeps_nothing_of_one_that_is_written_or_half_read(run: RunDir) -> None:
    reader = Follower(run)
    reader.poll(limit=2000)
    assert not reader.keep()
    text = run.log.read_bytes()
    run.log.write_bytes(text[: text[:-1].rfind(b"\n") + 1])  # without its end
    with run.locked():
        writes = Follower(run)
        assert writes.catch_up().ended is None
        assert not writes.keep()
    assert not run.folded.exists()
    crashed = Follower(run)
    crashed.catch_up()
    assert crashed.status == "crashed"
    assert crashed.keep()
    assert same(run)


def test_who_shows_a_log_follows_no_link_and_needs_no_room(run: RunDir, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (run.path / "cache").symlink_to(elsewhere)
    store = Store(run.path.parent)
    store.poll(now=True, budget=10)
    assert not list(elsewhere.iterdir())
    (run.path / "cache").unlink()
    (run.path / "cache").write_text("in the way")
    again = Store(run.path.parent)
    again.poll(now=True, budget=10)
    assert again.followers[run.id].status == "completed"


def test_the_trainer_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.training_helpers import tiny_dataset, tiny_run
    from trainer.lifecycle.session import train_run

    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)
    run = tiny_run(tmp_path)
    kept: list[bool] = []
    keep = Follower.keep_growing

    def count(keeper: Follower) -> bool:
        kept.append(keep(keeper))
        return kept[-1]

    monkeypatch.setattr(Follower, "keep_growing", count)
    assert train_run(run, Control(run)).state == "completed"
    assert len(kept) > 1, "while it trains, and at its end"
    assert all(kept)
    found = folded.load(run)
    assert found is not None
    assert found.state == of_the_log(run).state
    assert same(run)
