"""What a second process has read of a long log is folded as if one had read it all."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.long_log import write_run
from tests import sample_log
from tests.test_steps import long_log
from trainer import events
from trainer.runs import ahead, pieces, steps
from trainer.runs import follower as follower_module
from trainer.runs.follower import Follower
from trainer.runs.pieces import Piece
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog
from trainer.runs.runstate import RunState
from tui.runs.store import Store


@pytest.fixture(autouse=True)
def all_logs_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "AHEAD_BYTES", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / "20261123-120000-long-0000")
    write_run(run, epochs=5, each=20)
    return run


class Stand:
    """In place of the other process: the same pieces, when they are wanted."""

    def __init__(
        self,
        log: Path,
        begin: int,
        end: int,
        *,
        there: Callable[[], bool] = lambda: True,
        last: int | None = None,
    ) -> None:
        self.inode, self.begin, self.over = log.stat().st_ino, begin, False
        self.taken = 0
        self._end, self._there, self._last = end, there, last
        self._pieces = iter(list(pieces.pieces(log, self.inode, begin, end)))  # as the log is now

    def next(self) -> Piece | None:
        if not self._there():
            return None
        piece = None if self.taken == self._last else next(self._pieces, None)
        self.over = piece is None or piece.end >= self._end
        if piece is None:
            return None
        self.taken += 1
        return msgspec.msgpack.decode(msgspec.msgpack.encode(piece), type=Piece)

    def close(self) -> None:
        self.over = True


def one_by_one(log: Path) -> tuple[RunState, int]:
    """The plainest fold of a log, and the number of its damaged lines."""
    state, damaged = RunState(), 0
    *lines, _torn = log.read_bytes().split(b"\n")
    for line in lines:
        try:
            state.apply(events.decode(line))
        except msgspec.DecodeError:
            damaged += bool(line.strip())
    return state, damaged


def read(follower: Follower, *, limit: int = 8 << 20) -> Follower:
    """Poll as the app does."""
    follower.poll(limit=limit, may_start_process=True)
    while follower.reading and follower.state.seq >= 0:
        follower.poll(limit=limit)
    return follower


def spoil(lines: list[bytes], chance: random.Random) -> bytes:
    """Some logs have broken lines, and some a torn end."""
    for _ in range(chance.choice((0, 0, 1, 3))):
        at = chance.randrange(len(lines))
        line = lines[at]
        worse = (
            b"damage\n",
            b"\n",
            b"{}\n",
            line[: len(line) // 2] + b"\n",
            line.strip() + line,
            line.replace(b'"memory":', b'"memory":-'),
            line.replace(b'"seq":', b'"seq":"x'),
        )
        lines[at : at + chance.randrange(2)] = [chance.choice(worse)]
    data = b"".join(lines)
    return data[: -chance.choice((0, 0, 1, 40)) or None]


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32))
def test_any_log_folds_as_line_by_line(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    chance = random.Random(seed)
    run = RunDir(tmp_path_factory.mktemp("any") / sample_log.RUN)
    run.path.mkdir()
    made = long_log(chance)
    if chance.random() < 0.3:
        made += long_log(chance)  # numbers that were there before
    data = spoil([events.encode(one) for one in made], chance)
    run.log.write_bytes(data)
    begin = data.find(b"\n", chance.randrange(len(data))) + 1
    last = chance.choice((None, None, 0, 2))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "LIMIT", 64)
        patch.setattr(follower_module, "PIECE_BYTES", chance.choice((500, 5000)))
        patch.setattr(pieces, "PIECE_BYTES", chance.choice((4000, 20_000)))
        stand = Stand(run.log, begin, len(data), there=lambda: chance.random() < 0.7, last=last)
        patch.setattr(ahead, "start", lambda log, *, offset: stand if begin else None)
        limit = chance.choice((700, 8 << 20))
        found = read(Follower(run), limit=limit)
        assert (found.state, found.damaged) == one_by_one(run.log)


def stands_in(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """One that has the last two thirds of a log, in place of a process."""
    size = run.log.stat().st_size
    begin = run.log.read_bytes().find(b"\n", size // 3) + 1
    monkeypatch.setattr(pieces, "PIECE_BYTES", 5000)
    stand = Stand(run.log, begin, size)
    monkeypatch.setattr(ahead, "start", lambda log, *, offset: stand)
    return stand


def test_the_rest_of_a_clean_log_is_not_read_again(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = stands_in(run, monkeypatch)
    follower = Follower(run)
    decoded: list[int] = []
    read_all = type(follower._tail).read
    monkeypatch.setattr(
        type(follower._tail),
        "read",
        lambda tail, limit: decoded.append(tail.offset) or read_all(tail, limit),
    )
    assert follower.poll(may_start_process=True)
    assert stand.taken > 3
    assert max(decoded[:-1], default=0) < stand.begin
    assert not follower.reading
    assert (follower.state, follower.damaged) == one_by_one(run.log)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ahead.Ahead]]:
    """All that are started."""
    started: list[ahead.Ahead] = []
    start = ahead.start

    def noted(log: Path, *, offset: int) -> ahead.Ahead | None:
        found = start(log, offset=offset)
        if found is not None:
            started.append(found)
        return found

    monkeypatch.setattr(ahead, "start", noted)
    monkeypatch.setattr(ahead, "PATIENCE_SECONDS", 120.0)
    yield started
    for one in started:
        one.close()


def test_a_process_reads_on(run: RunDir, processes: list[ahead.Ahead]) -> None:
    follower = read(Follower(run))
    (process,) = processes
    assert 0 < process.begin < process._size == follower.offset
    assert process._at, "nothing came of it"
    assert process.over
    assert process._process.returncode is not None
    assert follower.state == one_by_one(run.log)[0]


def test_a_process_that_dies_is_no_harm(run: RunDir, processes: list[ahead.Ahead]) -> None:
    follower = Follower(run)
    follower.poll(limit=1, may_start_process=True)
    processes[0]._process.kill()
    assert read(follower).state == one_by_one(run.log)[0]


def test_who_is_too_slow_is_not_waited_for(
    run: RunDir, processes: list[ahead.Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "PATIENCE_SECONDS", 0.0)
    start = subprocess.Popen
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", lambda *_, **how: start(["sleep", "600"], **how))
        follower = Follower(run)
        follower.poll(limit=1, may_start_process=True)
    assert read(follower).state == one_by_one(run.log)[0]
    assert processes[0]._process.returncode == -signal.SIGKILL


def test_what_is_no_piece_is_not_believed(run: RunDir, processes: list[ahead.Ahead]) -> None:
    follower = Follower(run)
    follower.poll(limit=1, may_start_process=True)
    processes[0]._process.kill()
    processes[0]._process.wait()
    os.ftruncate(processes[0]._out.fileno(), 0)
    os.pwrite(processes[0]._out.fileno(), (9).to_bytes(8, "little") + b"?" * 9, 0)
    assert read(follower).state == one_by_one(run.log)[0]


@pytest.mark.parametrize("moved", [True, False], ids=["another file", "written anew"])
@pytest.mark.parametrize("taken", [0, 2])
def test_a_log_that_is_replaced_meanwhile(
    run: RunDir, taken: int, moved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand = stands_in(run, monkeypatch)
    follower = Follower(run)
    follower.poll(limit=stand.begin + 6000 if taken else stand.begin // 2, may_start_process=True)
    assert stand.taken == taken
    other = RunDir(run.path.parent / "other")
    write_run(other, epochs=7, each=20, seed=1)
    if moved:
        other.log.replace(run.log)
    else:
        run.log.write_bytes(other.log.read_bytes())
    if not taken:
        follower.poll()
        assert stand.over
        assert stand.taken == 0
    assert follower.catch_up() == one_by_one(run.log)[0]
    assert follower.state.epochs_trained == 7


def test_where_none_is_started(
    run: RunDir, processes: list[ahead.Ahead], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = one_by_one(run.log)[0]
    Follower(run).catch_up()
    with run.locked():  # its trainer needs the processor
        read(Follower(run))
    with monkeypatch.context() as patch:
        patch.setattr(os, "cpu_count", lambda: 1)
        read(Follower(run))
    with monkeypatch.context() as patch:
        patch.setattr(follower_module, "AHEAD_BYTES", run.log.stat().st_size + 1)
        read(Follower(run))
    with monkeypatch.context() as patch:
        patch.setattr(ahead.subprocess, "Popen", _refuse)
        assert read(Follower(run)).state == expected
    assert not processes


def _refuse(*_: object, **__: object) -> None:
    raise BlockingIOError("no more processes")


def test_the_app_starts_none_while_a_run_goes_on(
    tmp_path: Path, processes: list[ahead.Ahead]
) -> None:
    old, new = RunDir(tmp_path / "20261123-120000-a-0000"), RunDir(tmp_path / sample_log.RUN)
    write_run(old, epochs=5, each=20)
    new.path.mkdir()
    store = Store(tmp_path)
    with new.locked():
        log = RunLog(new)
        log.emit(sample_log.queued())
        log.close()
        store.poll(budget=30)
        store.selected = old.id
        while store.followers[old.id].partial or store.unfinished:
            store.poll(budget=30)
        assert store.followers[old.id].state.epochs_trained == 5
        assert not processes
