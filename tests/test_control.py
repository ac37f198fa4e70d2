from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer.errors import RunError
from trainer.runs import control
from trainer.runs.control import Control
from trainer.runs.rundir import RunDir, create


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
    threading.Timer(0.05, asked.request, ("stop",)).start()
    began = time.monotonic()
    asked.wait(20.0)
    assert time.monotonic() - began < 10


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
