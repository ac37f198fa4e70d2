from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trainer.errors import RunError
from trainer.runs import control
from trainer.runs.control import Control
from trainer.runs.rundir import RunDir, create
from trainer.runs.runlog import RunLog


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return create(tmp_path, "quick")


def test_nothing_asked(run: RunDir) -> None:
    asked = Control(run)
    assert not asked.stopping()
    assert not asked.paused()
    assert not asked.take_checkpoint_request()
    assert not Control().stopping()


def test_pause_goes_on_and_stop_wins(run: RunDir) -> None:
    asked = Control(run)
    asked.request("pause")
    assert asked.paused()
    asked.request("resume")
    assert not asked.paused()
    asked.request("pause")
    asked.request("stop")
    assert asked.stopping()
    assert not asked.paused(), "a paused run must be able to stop"


def test_a_checkpoint_is_taken_once(run: RunDir) -> None:
    asked = Control(run)
    asked.request("checkpoint")
    assert asked.take_checkpoint_request()
    assert not asked.take_checkpoint_request()


def test_commands_from_another_process(run: RunDir) -> None:
    asked = Control(run)
    script = (
        "import sys; from pathlib import Path\n"
        "from trainer.runs import control; from trainer.runs.rundir import RunDir\n"
        "for command in sys.argv[2:]: control.send(RunDir(Path(sys.argv[1])), command)\n"
    )

    def send(*commands: str) -> None:
        root = Path(control.__file__).parents[2]
        subprocess.run([sys.executable, "-c", script, run.path, *commands], check=True, cwd=root)
        asked.poll(now=True)

    send("pause", "checkpoint")
    assert asked.paused()
    assert asked.take_checkpoint_request()
    send("resume")
    assert not asked.paused()
    assert not asked.take_checkpoint_request(), "a command counts once"
    send("stop")
    assert asked.stopping()


def test_file_is_looked_at_ten_times_a_second(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(control.time, "monotonic", lambda: now[0])
    asked = Control(run)
    asked.poll()
    control.send(run, "stop")
    assert not asked.stopping()
    now[0] += control.POLL_SECONDS + 0.01
    assert asked.stopping()


def test_file_is_for_its_owner_alone(run: RunDir) -> None:
    control.send(run, "pause")
    assert run.control.stat().st_mode & 0o777 == 0o600


def test_half_a_line_waits_for_its_rest(run: RunDir) -> None:
    asked = Control(run)
    run.control.write_bytes(b'{"command":"st')
    asked.poll(now=True)
    assert not asked.stopping()
    with run.control.open("ab") as file:
        file.write(b'op"}\n')
    asked.poll(now=True)
    assert asked.stopping()


def test_nonsense_is_skipped(run: RunDir) -> None:
    asked = Control(run)
    bad = [b"", b"stop", b'{"command":"explode"}', b"\xff\xfe", b'{"command":"\xff"}', b"[" * 99999]
    run.control.write_bytes(b"\n".join(bad) + b'\n{"command":"pause","by":"me"}\n')
    asked.poll(now=True)
    assert asked.paused()
    assert not asked.stopping()


def test_stale_commands_of_an_earlier_attempt_are_cleared(run: RunDir) -> None:
    control.send(run, "stop")
    control.clear(run)
    control.clear(run)
    asked = Control(run)
    asked.poll(now=True)
    assert not asked.stopping()


def test_commands_after_a_clear_are_heard_by_an_open_control(run: RunDir) -> None:
    asked = Control(run)
    for _ in range(3):
        control.send(run, "pause")
    asked.poll(now=True)
    control.clear(run)
    control.send(run, "stop")
    asked.poll(now=True)
    assert asked.stopping()


def test_a_stop_ends_a_wait_at_once(run: RunDir) -> None:
    asked = Control(run)
    waits = threading.Thread(target=asked.wait, args=(3600.0,), daemon=True)
    waits.start()
    asked.request("stop")
    waits.join(60)
    assert not waits.is_alive()


def test_a_run_on_a_full_disk_can_be_stopped(small_disk: Path) -> None:
    run = create(small_disk, "quick")
    with run.locked():
        with pytest.raises(OSError, match="No space"):
            (small_disk / "filler").write_bytes(b"x" * (1 << 20))
        asked = Control(run)
        for _ in range(20):
            control.send(run, "pause")
            asked.poll(now=True)
            assert asked.paused()
            control.send(run, "resume")
            asked.poll(now=True)
            assert not asked.paused()
        control.send(run, "stop")
        asked.poll(now=True)
        assert asked.stopping()


def test_a_command_written_in_part_is_told_and_does_not_spoil_the_next(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:9]))
    with pytest.raises(RunError, match=r"cannot send pause .*: No space left on device"):
        control.send(run, "pause")
    monkeypatch.undo()
    control.send(run, "stop")
    asked = Control(run)
    asked.poll(now=True)
    assert asked.stopping()
    assert not asked._pause.is_set()


def test_a_run_that_is_gone_is_one_line(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "20261123-143005-gone-0000")
    with pytest.raises(RunError, match=r"cannot send stop to run .*: No such file"):
        control.send(run, "stop")
    Control(run).poll(now=True)


def looks(asked: Control, times: int) -> bool:
    """Whether the run is known to be deleted after so many polls, each a second after the other."""
    for _ in range(times):
        asked._looked = 0.0
        asked.poll(now=True)
    return asked.deleted


def test_a_deleted_folder_is_noticed_at_the_second_look(run: RunDir) -> None:
    asked, log = Control(run), RunLog(run)
    asked.watch(log)
    assert not looks(asked, 3), "it has no control file, and is there"
    asked.request("pause")
    shutil.rmtree(run.path)
    assert not looks(asked, 1)
    asked.poll(now=True)
    assert not asked.deleted, "a second lies between two looks"
    assert looks(asked, 1)
    assert not asked.paused(), "nobody could let it go on"
    log.close()
    assert not run.path.exists()


def test_a_moved_folder_is_not_deleted(run: RunDir, tmp_path: Path) -> None:
    asked, log = Control(run), RunLog(run)
    asked.watch(log)
    run.path.rename(tmp_path / "elsewhere")
    assert not looks(asked, 3)
    log.close()


def test_a_log_alone_that_is_deleted_is_no_deleted_folder(run: RunDir) -> None:
    asked, log = Control(run), RunLog(run)
    asked.watch(log)
    run.log.unlink()
    assert not looks(asked, 3)
    log.close()


@pytest.mark.parametrize("there", [True, False], ids=["found again", "not to be seen"])
def test_a_network_that_fails_for_a_while_is_no_deleted_folder(
    run: RunDir, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, log = Control(run), RunLog(run)
    asked.watch(log)
    if there:
        gone = iter([True, False, True, False])
        monkeypatch.setattr(RunDir, "deleted", lambda *_: next(gone))
        assert not looks(asked, 4)
    else:
        shutil.rmtree(run.path)

        def stale(*_: object, **__: object) -> os.stat_result:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        stat = Path.stat
        monkeypatch.setattr(
            Path, "stat", lambda path, **how: (stale if path == run.path else stat)(path, **how)
        )
        assert not looks(asked, 4)
    monkeypatch.undo()
    log.close()


def test_a_file_system_that_counts_no_names_deletes_nothing(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.fstat

    def nameless(handle: int) -> os.stat_result:
        return os.stat_result((*stat(handle)[:3], 0, *stat(handle)[4:]))

    monkeypatch.setattr(os, "fstat", nameless)
    asked, log = Control(run), RunLog(run)
    asked.watch(log)
    run.path.rename(run.path.with_name("elsewhere"))
    assert not looks(asked, 3)
    log.close()
