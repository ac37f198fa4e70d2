from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import sample_log
from trainer import events
from trainer.errors import RunError
from trainer.runs import runlog
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog, Tail

SAMPLE = sample_log.lines()
GARBAGE = (b"\n", b"not json\n", b'{"v":1}\n', b"\xff\xfe\x00\n", b'{"kind":"Paused"}\n')


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path / sample_log.RUN)
    run.path.mkdir()
    return run


def notice(text: str) -> events.Notice:
    return events.Notice(level="info", code="test", message=text)


def read(run: RunDir) -> list[events.Envelope]:
    tail = Tail(run.log)
    found = tail.read()
    assert tail.damaged == 0
    return found


class FullDisk:
    """``os.pwrite`` on a disk with ``room`` bytes; a write that does not fit is cut or refused."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self.reserve = 0
        self._pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", self.pwrite)
        monkeypatch.setattr(Path, "write_bytes", lambda _, data: self.write_bytes(data))
        monkeypatch.setattr(Path, "unlink", lambda _, missing_ok: self.unlink())
        monkeypatch.setattr(runlog, "RETRY_SECONDS", 0.0)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        size = os.fstat(fd).st_size
        fits = min(len(data), max(0, self.room - max(0, offset - size)))
        if not fits and data:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= fits
        return self._pwrite(fd, data[:fits], offset)

    def write_bytes(self, data: bytes) -> int:
        self.reserve = min(len(data), self.room)
        self.room -= self.reserve
        if self.reserve < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)

    def unlink(self) -> None:
        self.room += self.reserve
        self.reserve = 0


# the writer


def test_sequence_attempt_and_time(run: RunDir) -> None:
    log = RunLog(run)
    log.emit(sample_log.queued())
    log.begin_attempt()
    log.emit(sample_log.started())
    log.close()
    log.close()
    first, second = read(run)
    assert (first.seq, first.attempt, second.seq, second.attempt) == (0, 0, 1, 1)
    assert first.run == run.id
    assert 0 <= second.elapsed <= first.elapsed + 5
    assert second.time >= first.time > 1e9


def test_the_time_of_an_attempt_goes_on_and_another_begins_at_0(run: RunDir) -> None:
    run.log.write_bytes(SAMPLE)
    last = sample_log.whole()[-1]
    for _ in range(2):
        log = RunLog(run)
        log.emit(notice("of the same attempt"))
        log.close()
    log = RunLog(run)
    log.begin_attempt()
    log.emit(notice("of the next one"))
    log.close()
    first, second, third = read(run)[-3:]
    assert last.elapsed <= first.elapsed <= second.elapsed < last.elapsed + 60
    assert first.attempt == second.attempt == last.attempt
    assert third.elapsed < last.elapsed


def test_listener_gets_what_is_on_disk(run: RunDir) -> None:
    seen: list[events.Envelope] = []

    def listener(envelope: events.Envelope) -> None:
        assert read(run)[-1] == envelope
        seen.append(envelope)

    log = RunLog(run, listener)
    for event in sample_log.first_attempt():
        log.emit(event)
    log.close()
    assert seen == read(run)


@pytest.mark.parametrize("torn", [b"x", b'{"v":1,"run":"r"', SAMPLE[:50], b"\x00" * 4096])
def test_torn_tail_is_repaired_and_the_sequence_goes_on(run: RunDir, torn: bytes) -> None:
    run.log.write_bytes(SAMPLE + torn)
    last = sample_log.whole()[-1]
    log = RunLog(run)
    log.begin_attempt()
    log.emit(notice("again"))
    log.close()
    found = read(run)
    assert found[:-1] == sample_log.whole()
    assert (found[-1].seq, found[-1].attempt) == (last.seq + 1, last.attempt + 1)


@pytest.mark.parametrize("bad", [*GARBAGE, b"\xff" * 200_000 + b"\n"])
def test_sequence_goes_on_after_a_damaged_last_line(run: RunDir, bad: bytes) -> None:
    run.log.write_bytes(SAMPLE + bad)
    log = RunLog(run)
    log.emit(notice("again"))
    log.close()
    assert Tail(run.log).read()[-1].seq == sample_log.whole()[-1].seq + 1
    assert run.log.read_bytes().startswith(SAMPLE + bad)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(SAMPLE)))
def test_any_prefix_can_be_continued(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    run = RunDir(tmp_path_factory.mktemp("runs") / sample_log.RUN)
    run.path.mkdir()
    run.log.write_bytes(SAMPLE[:cut])
    whole = sample_log.whole()[: SAMPLE.count(b"\n", 0, cut)]
    log = RunLog(run)
    log.emit(notice("again"))
    log.close()
    found = read(run)
    assert found[:-1] == whole
    assert found[-1].seq == len(whole)


def test_what_another_process_wrote_is_not_overwritten(run: RunDir) -> None:
    """The lock forbids a second writer; one that is on its way out may not know that yet."""
    one, other = RunLog(run), RunLog(run)
    for text in ("a", "b"):
        one.emit(notice(text))
        other.emit(notice(text))
    with run.log.open("ab") as file:
        file.write(b'{"torn')
    other.emit(notice("c"))
    one.close()
    other.close()
    tail = Tail(run.log)
    told = [e.event.message for e in tail.read() if isinstance(e.event, events.Notice)]
    assert (told, tail.damaged) == (["a", "a", "b", "b", "c"], 1)


def test_a_log_that_cannot_be_opened_is_one_line(run: RunDir) -> None:
    run.log.mkdir()
    with pytest.raises(RunError, match=r"cannot write .*events\.jsonl: Is a directory"):
        RunLog(run)


# a full disk


@pytest.mark.parametrize("room", range(0, 700, 61))
def test_full_disk_leaves_whole_lines_and_catches_up(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    disk = FullDisk(monkeypatch, room)
    told: list[events.Envelope] = []
    log = RunLog(run, told.append)
    for i in range(8):
        log.emit(notice(f"event {i}"))
    data = run.log.read_bytes()
    assert data == b"" or data.endswith(b"\n")
    assert [e.seq for e in read(run)] == list(range(len(read(run))))
    assert log.waiting > 0
    disk.room = 1 << 20
    log.emit(notice("last"))
    log.close()
    assert log.waiting == 0
    found = read(run)
    assert [e.seq for e in found] == list(range(len(found)))
    messages = [e.event.message for e in found if isinstance(e.event, events.Notice)]
    assert [m for m in messages if m.startswith(("event", "last"))] == [
        *(f"event {i}" for i in range(8)),
        "last",
    ]
    codes = [e.event.code for e in found if isinstance(e.event, events.Notice)]
    assert codes.count("disk-full") == 1
    assert codes.count("disk-writable") == 1
    assert told == found, "a listener folds too: it needs every event, in order"


def test_the_reserve_pays_for_the_notice(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch, 1 << 20)
    log = RunLog(run)
    disk.room = 10
    log.emit(notice("event"))
    messages = [e.event for e in read(run)]
    assert [type(m) for m in messages] == [events.Notice, events.Notice]
    assert messages[1].code == "disk-full"
    assert "free some space" in messages[1].message
    # while there is no room for a new reserve, the disk still counts as full: no second alarm
    for i in range(5):
        disk.room = 300
        log.emit(notice(f"more {i}"))
    codes = [e.event.code for e in read(run)]
    assert codes.count("disk-full") == 1
    assert codes.count("disk-writable") == 0
    disk.room = 1 << 20
    log.emit(notice("room"))
    assert [e.event.code for e in read(run)].count("disk-writable") == 1
    log.close()


def failing(
    run: RunDir, monkeypatch: pytest.MonkeyPatch, pwrite: Callable[[int, bytes, int], int]
) -> tuple[RunLog, list[events.Envelope]]:
    """A log that tells of an event, and that it cannot be written."""
    told: list[events.Envelope] = []
    log = RunLog(run, told.append)
    monkeypatch.setattr(os, "pwrite", pwrite)
    log.emit(notice("event"))
    assert [e.event.code for e in told] == ["test", "disk-error"]
    return log, told


def test_an_error_that_is_not_a_full_disk_is_named(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.EIO, "Input/output error")

    _, told = failing(run, monkeypatch, pwrite)
    assert "Input/output error" in told[1].event.message


def test_a_limit_on_the_size_of_files_is_not_a_full_disk(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, limit = os.pwrite, 100

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if offset >= limit:
            raise OSError(errno.EFBIG, "File too large")
        return write(fd, data[: limit - offset], offset)  # a part of it, without a reason

    log, told = failing(run, monkeypatch, pwrite)
    assert "(File too large)" in told[1].event.message
    assert told[1].event.message.endswith("its size is limited (ulimit -f)")
    assert run.log.read_bytes() == b""
    limit = 1 << 20
    log.close()
    assert [e.seq for e in read(run)] == list(range(len(read(run))))
    assert read(run)[0].event.message == "event"


def test_weeks_on_a_full_disk_keep_what_matters(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog, "PENDING_LIMIT", 20)
    disk = FullDisk(monkeypatch, 0)
    monkeypatch.setattr(runlog, "RETRY_SECONDS", 1000.0)
    log = RunLog(run)
    for i in range(100):
        log.emit(sample_log.progress(1, i % 4))
        if i % 10 == 0:
            log.emit(notice(f"kept {i}"))
    assert log.waiting < 45
    disk.room = 1 << 20
    log.close()
    found = read(run)
    lost = found[-1].seq + 1 - len(found)
    assert lost > 0
    told = [e.event.message for e in found if getattr(e.event, "code", "") == "disk-writable"]
    assert len(told) == 1
    assert told[0].endswith(f"; {lost} points of progress are not in the log")
    kept = [e.event.message for e in read(run) if isinstance(e.event, events.Notice)]
    assert [m for m in kept if m.startswith("kept")] == [f"kept {i}" for i in range(0, 100, 10)]


def test_a_real_small_disk(small_disk: Path) -> None:
    run = RunDir(small_disk / sample_log.RUN)
    run.path.mkdir()
    log = RunLog(run)
    log.emit(sample_log.queued())
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(b"x" * (1 << 20))
    for i in range(300):
        log.emit(notice(f"event {i} " + "x" * 300))
    during = read(run)
    assert run.log.read_bytes().endswith(b"\n")
    assert any(getattr(e.event, "code", "") == "disk-full" for e in during)
    assert log.waiting
    filler.unlink()
    log.emit(events.RunEnded(state="completed"))
    log.close()
    found = read(run)
    assert [e.seq for e in found] == list(range(len(found)))
    assert isinstance(found[-1].event, events.RunEnded)
    numbered = [e for e in found if getattr(e.event, "code", "") == "test"]
    assert len(numbered) == 300
    codes = [getattr(e.event, "code", "") for e in found]
    assert codes.count("disk-full") == codes.count("disk-writable") == 1
    assert not (run.path / ".reserve").exists()


# the reader


def test_no_file_yet(tmp_path: Path) -> None:
    tail = Tail(tmp_path / "events.jsonl")
    assert tail.read() == []
    assert not tail.behind()
    assert not tail.restarted


@settings(deadline=None)
@given(st.lists(st.integers(0, len(SAMPLE))), st.integers(1, 3000))
def test_any_chunking_reads_the_same(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], limit: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    tail = Tail(path)
    found: list[events.Envelope] = []
    for cut in [*sorted(cuts), len(SAMPLE)]:
        path.write_bytes(SAMPLE[:cut])
        while True:
            found += tail.read(limit)
            assert not tail.restarted
            if not tail.behind():
                break
        assert len(found) == SAMPLE.count(b"\n", 0, cut), "a whole line is given, a part never"
    assert found == sample_log.whole()
    assert tail.damaged == 0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 35), st.sampled_from(GARBAGE)), max_size=6))
def test_damaged_lines_are_skipped_and_counted(
    tmp_path_factory: pytest.TempPathFactory, bad: list[tuple[int, bytes]]
) -> None:
    lines = SAMPLE.splitlines(keepends=True)
    for at, garbage in sorted(bad, reverse=True, key=lambda item: item[0]):
        lines.insert(at, garbage)
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    path.write_bytes(b"".join(lines))
    tail = Tail(path)
    assert tail.read() == sample_log.whole()
    assert tail.damaged == sum(garbage != b"\n" for _, garbage in bad)


def test_windows_line_ends_of_an_editor(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(SAMPLE.replace(b"\n", b"\r\n"))
    assert Tail(path).read() == sample_log.whole()


def changed(path: Path, data: bytes, how: str) -> None:
    if how == "in place":
        path.write_bytes(data)
    elif how == "renamed over":
        other = path.with_name("new")
        other.write_bytes(data)
        other.replace(path)
    else:
        path.unlink()
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["in place", "renamed over", "made anew"])
@pytest.mark.parametrize("kept", [0, 1, 5])
@pytest.mark.parametrize("longer", [False, True])
@pytest.mark.parametrize("half_line", [False, True])
def test_a_log_that_is_cut_or_edited_while_it_is_read(
    tmp_path: Path, how: str, kept: int, longer: bool, half_line: bool
) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(SAMPLE + SAMPLE[:30] * half_line)
    tail = Tail(path)
    assert len(tail.read()) == len(sample_log.whole())
    new = sample_log.whole()[:kept]
    while longer and len(sample_log.lines(new)) <= len(SAMPLE) + 30:
        new.append(sample_log.envelope(len(new), notice("written later " + "x" * 80)))
    changed(path, sample_log.lines(new), how)
    found = tail.read()
    assert tail.restarted
    assert found == new
    assert tail.damaged == 0
    assert tail.read() == []
    assert not tail.restarted


def test_the_log_vanishes_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(SAMPLE)
    tail = Tail(path)
    tail.read()
    path.unlink()
    assert tail.read() == []
    assert not tail.behind()
    path.write_bytes(SAMPLE[: SAMPLE.index(b"\n") + 1])
    assert tail.read() == sample_log.whole()[:1]
    assert tail.restarted


def test_a_repaired_tail_seen_by_an_open_reader(run: RunDir) -> None:
    run.log.write_bytes(SAMPLE + b'{"v":1,"run":"half a li')
    tail = Tail(run.log)
    state = tail.read()
    log = RunLog(run)
    for i in range(5):
        log.emit(notice(f"after {i}"))
    log.close()
    state = tail.read() if tail.restarted else state
    found = tail.read()
    whole = found if len(found) > 5 else state + found
    assert [e.seq for e in whole] == list(range(len(sample_log.whole()) + 5))
    assert tail.damaged == 0


def test_the_writers_process_dies_at_any_moment(run: RunDir) -> None:
    """Kill a writing process: what is on disk is whole lines, without gaps."""
    script = (
        "import sys; from pathlib import Path\n"
        "from trainer import events; from trainer.runs.rundir import RunDir\n"
        "from trainer.runs.runlog import RunLog\n"
        "log = RunLog(RunDir(Path(sys.argv[1])))\n"
        "for i in range(10 ** 9):\n"
        "    log.emit(events.Notice(level='info', code='x', message='y' * 500))\n"
        "    if i == 20: print(flush=True)\n"
    )
    root = Path(runlog.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script, run.path], stdout=subprocess.PIPE, cwd=root
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    log = RunLog(run)
    log.emit(notice("after the crash"))
    log.close()
    found = read(run)
    assert len(found) > 20
    assert [e.seq for e in found] == list(range(len(found)))
