"""The process that trains for the app, driven through its pipes as the app does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import pytest
import torch

from tests.distributed_helpers import forks
from tests.training_helpers import binary_folder, tiny_run, wait
from trainer.errors import ConfigError
from trainer.loop.cuda_graphs import CaptureFailed
from trainer.loop.reports import TrainingFailed
from trainer.protocol import Inspect, Job
from trainer.runs import checkpoint, control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.spoiled import spoils
from trainer.worker import worker as program
from trainer.worker.handover import Left

COMMAND = (sys.executable, "-P", "-m", "trainer")
LONG = ("train.epochs=100000",)
POISON = """
import os
import traceback
import torch
from torch import nn


class Pinned:
    # as a pinned tensor that was copied to: nothing catches what its destructor throws
    spoiled = False

    def __del__(self, abort=os.abort):
        if self.spoiled:
            abort()


class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(3072, classes))
        self.pinned = Pinned()
        self.steps = 0

    def forward(self, x):
        def broken(*args, **kwargs):
            raise RuntimeError("CUDA error: device-side assert triggered")

        names = {frame.f_code.co_name for frame, _ in traceback.walk_stack(None)}
        if self.training and "fit" in names:
            self.steps += 1
        if self.steps == 3:
            if x.device.type == "cuda":
                torch._assert_async(torch.zeros((), device=x.device))
            else:  # from now on nothing works in this process
                Pinned.spoiled = True
                torch.from_numpy = torch.autocast = broken
                broken()
        return super().forward(x)
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return binary_folder(tmp_path / "data")


class Forked:
    """A worker that has torch loaded when it begins, and its pipes."""

    def __init__(self, errors: Path, serve: Callable[..., None] | None = None) -> None:
        (read, write), (told, tell) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(write, "wb"), os.fdopen(told, "rb")
        with Connection(read, writable=False) as lines, Connection(tell, readable=False) as states:
            self.process = forks().Process(target=serve or _serve, args=(lines, states, errors))
            self.process.start()

    def send_signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, seconds: float = 120) -> int | None:
        self.process.join(seconds)
        return self.process.exitcode

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.stdin.close()
        self.stdout.close()


def _serve(lines: Connection, states: Connection, errors: Path) -> None:
    """The forked process: as one of its own that has these pipes."""
    os.setsid()
    with errors.open("wb") as log, lines, states:
        for number, file in enumerate((lines, states, log)):
            os.dup2(file.fileno(), number)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.exit(program.main())


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Forked]:
    forked = Forked(tmp_path / "stderr")
    yield forked
    forked.close()


def queue(worker: Forked, *runs: RunDir) -> None:
    """All at once: a worker that has read the first line has read the others."""
    worker.stdin.write(b"".join(json.dumps({"run": str(r.path)}).encode() + b"\n" for r in runs))
    worker.stdin.flush()


def watch(run: RunDir) -> Callable[[str], bool]:
    follower = Follower(run)

    def is_now(status: str) -> bool:
        follower.poll()
        return follower.status == status

    return is_now


def new_run(folder: Path, data: Path, *overrides: str) -> RunDir:
    return tiny_run(folder, f"data='{data}'", *overrides)


def test_it_tells_when_torch_is_ready_and_ends_with_its_input() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert json.loads(process.stdout.readline()) == {"state": "loading"}
        ready = json.loads(process.stdout.readline())
        assert ready["state"] == "ready"
        assert ready["torch"]
        assert "cpu" in ready["devices"]
        process.stdin.close()
        assert process.wait(120) == 0


def test_runs_are_trained_one_after_the_other(worker: Forked, tmp_path: Path, data: Path) -> None:
    prints = "model.options.prints=50000"  # a pipe that nobody reads takes 64 KiB
    first, second = (new_run(tmp_path / name, data, prints) for name in "ab")
    queue(worker, first)
    queue(worker, second)
    watched = [watch(first), watch(second)]
    for is_now in watched:
        wait(lambda is_now=is_now: is_now("completed"))
    starts = [Follower(r).catch_up() for r in (first, second)]
    assert starts[0].alive_at <= starts[1].started_at


def test_a_queued_run_shows_as_queued_and_can_be_cancelled(
    worker: Forked, tmp_path: Path, data: Path
) -> None:
    first, second = (new_run(tmp_path / name, data, *LONG) for name in "ab")
    queue(worker, first)
    wait(lambda: watch(first)("training"))
    queue(worker, second)
    wait(lambda: watch(second)("queued"))
    control.send(second, "stop")
    wait(lambda: watch(second)("stopped"))
    assert watch(first)("training")
    control.send(first, "stop")
    wait(lambda: watch(first)("stopped"))
    assert first.checkpoint("last").is_file()


def test_the_queue_goes_on_when_a_folder_is_deleted(
    worker: Forked, tmp_path: Path, data: Path
) -> None:
    first, second, third = (new_run(tmp_path / name, data, *LONG) for name in "abc")
    for run in (first, second, third):
        queue(worker, run)
    wait(lambda: Follower(first).catch_up().steps)
    wait(lambda: watch(second)("queued"))
    for gone in (first, second):
        while gone.path.exists():  # a file may be written meanwhile
            shutil.rmtree(gone.path, ignore_errors=True)
    wait(lambda: watch(third)("training"))
    assert not first.path.exists()
    assert not second.path.exists(), "it was deleted while it waited"


def test_it_trains_on_when_the_app_has_gone(worker: Forked, tmp_path: Path, data: Path) -> None:
    # what a net prints is not written to a pipe that nobody reads
    first, second = (new_run(tmp_path / name, data, "model.options.prints=9") for name in "ab")
    queue(worker, first)
    queue(worker, second)
    wait(lambda: b"training" in worker.stdout.readline())
    worker.stdin.close()
    worker.stdout.close()
    worker.send_signal(signal.SIGHUP)
    assert worker.wait() == 0
    assert Follower(first).catch_up().ended.state == "completed"
    assert Follower(second).catch_up().ended.state == "completed"


def test_sigterm_stops_with_a_checkpoint(worker: Forked, tmp_path: Path, data: Path) -> None:
    first, second = (new_run(tmp_path / name, data, *LONG) for name in "ab")
    queue(worker, first, second)
    wait(lambda: watch(first)("training"))
    wait(lambda: Follower(first).catch_up().steps)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert watch(first)("stopped")
    assert watch(second)("stopped")
    assert first.checkpoint("last").is_file()


def test_a_killed_run_shows_as_crashed_and_has_a_checkpoint(
    worker: Forked, tmp_path: Path, data: Path
) -> None:
    run = new_run(tmp_path / "a", data, *LONG)
    queue(worker, run)
    wait(lambda: "last" in Follower(run).catch_up().checkpoints)
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    assert watch(run)("crashed")
    assert checkpoint.load(run.checkpoint("last"))["position"]["step"] > 0


def test_nonsense_on_stdin_is_refused_and_the_next_run_trained(
    worker: Forked, tmp_path: Path, data: Path
) -> None:
    worker.stdin.write(b'nonsense\n{"run": "/no/such/folder"}\n')
    run = new_run(tmp_path / "a", data)
    queue(worker, run)
    wait(lambda: watch(run)("completed"))
    states = [json.loads(worker.stdout.readline())["state"] for _ in range(4)]
    assert states.count("refused") == 2


def test_runs_say_it_when_torch_cannot_be_loaded(tmp_path: Path, data: Path) -> None:
    broken = tmp_path / "broken" / "torch"
    broken.mkdir(parents=True)
    run = new_run(tmp_path / "a", data)
    (broken / "__init__.py").write_text(
        "import time\n"
        "from pathlib import Path\n"
        "from trainer.runs.rundir import RunDir\n"
        f"while not RunDir(Path({str(run.path)!r})).is_locked():\n"
        "    time.sleep(0.01)\n"
        "raise ImportError('libcuda is too old')\n"
    )
    process = subprocess.run(
        [sys.executable, "-m", "trainer.worker"],
        input=json.dumps({"run": str(run.path)}).encode() + b"\n",
        env={**os.environ, "PYTHONPATH": str(broken.parent)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 1
    ended = Follower(run).catch_up().ended
    assert ended is not None
    assert (ended.state, ended.error) == ("failed", "torch cannot be loaded: libcuda is too old")


def test_a_run_that_is_just_being_taken_says_it_too(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "a", data)
    read, write = os.pipe()
    os.write(write, json.dumps({"run": str(run.path)}).encode() + b"\n")
    worker = program.Worker(lambda _: None)
    locked, made = threading.Event(), program.Held

    def slow(job: Job) -> program.Held:
        held = made(job)
        locked.set()
        time.sleep(0.2)
        return held

    monkeypatch.setattr(program, "Held", slow)
    reader = threading.Thread(target=worker.read, args=(read,))
    reader.start()
    assert locked.wait(60)
    worker.fail_all("torch cannot be loaded")
    os.close(write)
    reader.join()
    os.close(read)
    ended = Follower(run).catch_up().ended
    assert ended is not None
    assert (ended.state, ended.error) == ("failed", "torch cannot be loaded")


def test_nothing_is_lost_of_what_it_says_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcuda is too old')")
    process = subprocess.run(
        [sys.executable, "-m", "trainer.worker"],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 1
    said = [json.loads(line) for line in process.stdout.splitlines()]
    error = "torch cannot be loaded: libcuda is too old"
    assert said == [{"state": "loading"}, {"state": "failed", "error": error}]


def test_a_run_that_breaks_cuda_costs_the_queue_nothing(
    worker: Forked, tmp_path: Path, data: Path
) -> None:
    (tmp_path / "poison.py").write_text(POISON)
    bad = new_run(tmp_path / "a", data, f"model.name='{tmp_path}/poison.py:Net'")
    unwanted, good = (new_run(tmp_path / name, data) for name in "bc")
    queue(worker, bad, unwanted, good)
    states: list[str] = []
    while states.count("loading") < 2:
        states.append(json.loads(worker.stdout.readline())["state"])
    assert states == ["loading", "ready", "training", "idle", "loading"]
    # torch is loaded anew: nobody sees that they wait in another image
    assert watch(good)("queued")
    control.send(unwanted, "stop")
    last = new_run(tmp_path / "d", data)
    queue(worker, last)
    worker.stdin.close()
    assert worker.wait() == 0
    ends = [Follower(run).catch_up().ended for run in (bad, unwanted, good, last)]
    assert [ended.state for ended in ends] == ["failed", "stopped", "completed", "completed"]
    assert "device-side assert" in ends[0].error


def test_a_command_that_breaks_cuda_ends_with_one_line(tmp_path: Path, data: Path) -> None:
    (tmp_path / "poison.py").write_text(POISON)
    where = ("--data", str(data), "--runs-dir", str(tmp_path / "runs"), "--device", "cpu")
    net = ("--batch-size", "16", "--set", f"model.name='{tmp_path}/poison.py:Net'")
    command = [*COMMAND, "train", "quick", *where, *net]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("cifar-tui: the run failed: poison.py, line ")
    assert "RuntimeError: CUDA error: device-side assert triggered" in line


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_an_assertion_on_the_device_costs_the_queue_nothing(
    tmp_path: Path, data: Path
) -> None:
    (tmp_path / "poison.py").write_text(POISON)
    net, cuda = f"model.name='{tmp_path}/poison.py:Net'", "train.device=cuda"
    bad, good = new_run(tmp_path / "a", data, net, cuda), new_run(tmp_path / "b", data, cuda)
    lines = [json.dumps({"run": str(run.path)}) + "\n" for run in (bad, good)]
    process = subprocess.run(
        [sys.executable, "-P", "-m", "trainer.worker"],
        input="".join(lines).encode(),
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    ends = [Follower(run).catch_up().ended for run in (bad, good)]
    assert [ended.state for ended in ends] == ["failed", "completed"]
    assert "device-side assert" in ends[0].error


def _serve_and_be_told(lines: Connection, states: Connection, errors: Path) -> None:
    """SIGTERM comes while the process replaces itself."""
    replace = program.replace_process

    def told(left: Left, out: int, ending: Callable[[], bool]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        while not ending():
            time.sleep(0.001)
        replace(left, out, ending)

    program.replace_process = told
    _serve(lines, states, errors)


def test_a_signal_while_the_process_is_replaced_is_not_lost(tmp_path: Path, data: Path) -> None:
    (tmp_path / "poison.py").write_text(POISON)
    bad = new_run(tmp_path / "a", data, f"model.name='{tmp_path}/poison.py:Net'")
    good = new_run(tmp_path / "b", data)
    worker = Forked(tmp_path / "stderr", _serve_and_be_told)
    try:
        queue(worker, bad, good)
        assert worker.wait() == 0
    finally:
        worker.close()
    ends = [Follower(run).catch_up().ended for run in (bad, good)]
    assert [ended.state for ended in ends] == ["failed", "stopped"]


def test_what_an_earlier_image_started_is_waited_for() -> None:
    program = """
import subprocess, time
import psutil
from trainer.processes import adopt_children
subprocess.Popen(["true"])
adopt_children()
while psutil.Process().children():
    time.sleep(0.001)
"""
    subprocess.run([sys.executable, "-c", program], timeout=120, check=True)


def test_what_is_half_read_and_half_answered_is_handed_over(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "a", data)
    line = json.dumps({"run": str(run.path)}).encode() + b"\n"
    read, write = os.pipe()
    os.write(write, line + line[:9])
    os.close(write)
    worker = program.Worker(lambda _: None)
    question = Inspect(ask=7, run="x")
    worker.inspector._open = question
    worker.read(read)
    found: list[Left] = []
    monkeypatch.setattr(program, "replace_process", lambda left, *_: found.append(left))
    worker.hand_over(1)
    (left,) = found
    (waiting,) = left.waiting
    waiting = msgspec.structs.replace(waiting, lock=os.dup(waiting.lock))
    worker._waiting.pop()._lock.close()  # as the image is gone
    left = msgspec.structs.replace(left, waiting=(waiting,))
    assert (left.rest, left.inspect) == (line[:9], question)

    asked: list[Inspect] = []
    later = program.Worker(lambda _: None)
    monkeypatch.setattr(later.inspector, "ask", asked.append)
    later.take_over(left)
    assert asked == [question]
    held = later.next()
    assert held is not None
    assert held.job.run == str(run.path)
    assert run.is_locked()
    held.end("enough")
    assert not run.is_locked()


def test_nothing_is_handed_over_when_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = program.Worker(lambda _: None)
    worker.close()
    monkeypatch.setattr(program, "replace_process", lambda *_: pytest.fail("replaced"))
    worker.hand_over(1)


def test_what_spoils_a_process_is_known_behind_other_words() -> None:
    def behind(cause: Exception, shown: Exception) -> Exception:
        try:
            try:
                raise cause
            except Exception:
                raise shown from None
        except Exception as error:
            return error

    told = ConfigError("the net fails: CUDA error: an illegal memory access was encountered")
    assert spoils(told)
    assert spoils(behind(CaptureFailed("it waits"), TrainingFailed("it cannot be recorded")))
    assert not spoils(behind(ValueError("a shape"), TrainingFailed("the loss is not a number")))
