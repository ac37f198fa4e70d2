"""The trainer process of the app, with a fake trainer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tui_helpers import fake_worker, make_run, run_config
from trainer import events
from trainer.lifecycle.submit import submit
from trainer.processes import child_environment
from trainer.protocol import Inspect, Inspected
from trainer.runs.control import send
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog
from tui.runs import launcher as launchers
from tui.runs.launcher import Launcher, WorkerInfo


class Heard:
    """Collects what a launcher tells."""

    def __init__(self, tmp_path: Path) -> None:
        self.infos: list[WorkerInfo] = []
        self.problems: list[str] = []
        self.log = tmp_path / "logs" / "worker.log"

    def __call__(self, info: WorkerInfo, problem: str) -> None:
        self.infos.append(info)
        if problem:
            self.problems.append(problem)

    def launcher(self, *options: str) -> Launcher:
        return Launcher(self, command=fake_worker(*options), log=self.log)


@pytest.fixture
def heard(tmp_path: Path) -> Heard:
    return Heard(tmp_path)


async def until(holds: Callable[[], object], seconds: float = 60.0) -> None:
    for _ in range(int(seconds / 0.02)):
        if holds():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it did not happen in time")


def status(run: RunDir) -> str:
    follower = Follower(run)
    follower.catch_up()
    return follower.status


async def test_tells_that_it_is_ready_and_trains_a_run(heard: Heard, tmp_path: Path) -> None:
    launcher = heard.launcher("steps=3", f"go={tmp_path / 'go'}")
    run = submit(run_config(), tmp_path / "runs")
    assert launcher.start()
    assert launcher.info.phase == "loading"
    assert launcher.queue(run.path)
    assert launcher.given == {run.id}
    await until(lambda: launcher.info.phase == "training")
    (tmp_path / "go").touch()
    await until(lambda: status(run) == "completed")
    await until(lambda: launcher.info.phase == "ready")
    assert launcher.info.line() == "torch 2.0.0 · cpu"
    assert heard.problems == []
    launcher.close(busy=False)


async def test_a_queued_run_is_locked_and_stops_through_its_folder(
    heard: Heard, tmp_path: Path
) -> None:
    launcher = heard.launcher()
    runs = [submit(run_config(), tmp_path / "runs") for _ in range(2)]
    for run in runs:
        launcher.queue(run.path)
    await until(lambda: all(run.is_locked() for run in runs))
    await until(lambda: status(runs[0]) == "training")
    assert status(runs[1]) == "queued"
    for run in reversed(runs):
        send(run, "stop")
    await until(lambda: status(runs[0]) == status(runs[1]) == "stopped")
    launcher.close(busy=False)


async def test_unexpected_death_names_the_signal_and_a_new_one_takes_the_next_run(
    heard: Heard, tmp_path: Path
) -> None:
    launcher = heard.launcher()
    first = submit(run_config(), tmp_path / "runs")
    launcher.queue(first.path)
    await until(lambda: status(first) == "training")
    assert launcher.pid is not None
    os.kill(launcher.pid, signal.SIGKILL)
    await until(lambda: launcher.info.phase == "dead")
    assert "SIGKILL" in heard.problems[0]
    assert launcher.info.failed
    assert launcher.given == frozenset()
    assert status(first) == "crashed"
    second = submit(run_config(), tmp_path / "runs")
    assert launcher.queue(second.path)
    await until(lambda: status(second) == "training")
    launcher.close(busy=False)
    send(second, "stop")
    await until(lambda: status(second) == "stopped")


async def test_runs_that_wait_outlive_their_trainer(heard: Heard, tmp_path: Path) -> None:
    launcher = heard.launcher("steps=3", f"go={tmp_path / 'go'}")
    runs = [submit(run_config(), tmp_path / "runs") for _ in range(4)]
    for run in runs:
        assert launcher.queue(run.path)
    await until(lambda: all(run.is_locked() for run in runs))
    await until(lambda: launcher.info.phase == "training" and status(runs[0]) == "training")
    send(runs[1], "stop")
    log = RunLog(runs[1])  # as the trainer ends it then
    log.emit(events.RunEnded(state="stopped"))
    log.close()
    assert launcher.pid is not None
    os.kill(launcher.pid, signal.SIGKILL)
    await until(lambda: heard.problems)
    assert launcher.given == {runs[2].id, runs[3].id}
    (tmp_path / "go").touch()
    await until(lambda: status(runs[3]) == "completed")
    ends = [status(run) for run in runs]
    assert ends == ["crashed", "stopped", "completed", "completed"]
    ended = "the trainer ended (signal SIGKILL)"
    assert heard.problems == [f"{ended}; a new one takes the 2 runs that wait"]
    launcher.close(busy=False)


async def test_runs_that_wait_are_not_handed_on_for_ever(heard: Heard, tmp_path: Path) -> None:
    launcher = heard.launcher("die=3")
    run = submit(run_config(), tmp_path / "runs")
    assert launcher.queue(run.path)
    await until(lambda: launcher.info.phase == "dead")
    ended = "the trainer ended (exit status 3): the last words"
    assert heard.problems == [f"{ended}; a new one takes the run that waits", ended]
    assert launcher.given == frozenset()


async def test_a_start_between_the_death_of_a_trainer_and_the_word_of_it_loses_no_run(
    heard: Heard, tmp_path: Path
) -> None:
    launcher = heard.launcher("steps=3")
    answers: list[Inspected] = []
    launcher.on_inspected = answers.append
    runs = [submit(run_config(), tmp_path / "runs") for _ in range(3)]
    assert launcher.queue(runs[0].path)
    await until(lambda: launcher.info.phase == "ready" and status(runs[0]) == "completed")
    process = launcher._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)  # it begins none of what it is given now
    assert launcher.queue(runs[1].path)
    launcher.inspect(Inspect(ask=7, run=str(runs[0].path)))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()  # in one turn of the loop: nothing was heard of it yet
    launcher.inspect(Inspect(ask=8, run=str(runs[0].path)))
    assert launcher.queue(runs[2].path)
    ended = "the trainer ended (signal SIGKILL)"
    assert heard.problems == [f"{ended}; a new one takes the run that waits"]
    assert [(answer.ask, answer.error) for answer in answers] == [(7, ended)]
    assert launcher.given == {runs[1].id, runs[2].id}
    await until(lambda: status(runs[1]) == status(runs[2]) == "completed")
    await until(lambda: len(answers) == 2)
    assert (answers[1].ask, answers[1].error) == (8, "")
    assert len(heard.problems) == 1
    launcher.close(busy=False)


async def test_its_last_words_are_told(heard: Heard) -> None:
    launcher = heard.launcher("die=3")
    launcher.start()
    await until(lambda: launcher.info.phase == "dead")
    assert heard.problems == ["the trainer ended (exit status 3): the last words"]
    assert launcher.info.line().startswith("worker failed: ")


async def test_a_trainer_that_is_ending_takes_a_run_and_a_question_with_it(
    heard: Heard, tmp_path: Path
) -> None:
    launcher = heard.launcher("die=3", "deaf", f"go={tmp_path / 'go'}")
    answers: list[Inspected] = []
    launcher.on_inspected = answers.append
    launcher.start()
    deaf = "the trainer refused a run: it hears nothing"
    await until(lambda: deaf in heard.problems)
    run = submit(run_config(), tmp_path / "runs")
    launcher.inspect(Inspect(ask=7, run=str(run.path)))
    assert launcher.queue(run.path)
    assert not answers
    (tmp_path / "go").touch()
    await until(lambda: answers)
    ended = "the trainer ended (exit status 3): the last words"
    assert (answers[0].ask, answers[0].error) == (7, ended)
    await until(lambda: launcher.info.phase == "dead")
    told = [problem for problem in heard.problems if problem != deaf]
    assert told == [f"{ended}; a new one takes the run that waits", ended]


async def test_a_refused_run_is_told(heard: Heard, tmp_path: Path) -> None:
    launcher = heard.launcher("refuse")
    run = make_run(tmp_path, end=None, done=0)
    launcher.queue(run.path)
    await until(lambda: heard.problems)
    assert heard.problems == [f"the trainer refused a run: run {run.id} is not wanted"]
    assert launcher.alive
    launcher.close(busy=False)


async def test_a_command_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    heard = Heard(tmp_path)
    launcher = Launcher(heard, command=[str(tmp_path / "none")], log=heard.log)
    assert not launcher.start()
    assert heard.problems == ["cannot start the trainer: No such file or directory"]
    assert not launcher.queue(tmp_path)


async def test_left_alone_it_finishes_its_run_and_exits(heard: Heard, tmp_path: Path) -> None:
    launcher = heard.launcher("steps=3", f"go={tmp_path / 'go'}")
    run = submit(run_config(), tmp_path / "runs")
    launcher.queue(run.path)
    await until(lambda: status(run) == "training")
    process = launcher._process
    assert process is not None
    launcher.close(busy=True)
    (tmp_path / "go").touch()
    await until(lambda: status(run) == "completed")
    process.returncode = None
    assert process.wait(60) == 0


async def test_when_the_app_has_gone_no_trainer_is_started(heard: Heard, tmp_path: Path) -> None:
    """A timer of the app may still be due while it closes."""
    launcher = heard.launcher()
    launcher.close(busy=False)
    assert not launcher.start()
    assert not launcher.queue(tmp_path)
    assert launcher.pid is None
    assert heard.infos == []


async def test_closed_while_it_loads_it_is_gone_at_once(heard: Heard) -> None:
    launcher = Launcher(
        heard, command=[sys.executable, "-c", "import time; time.sleep(60)"], log=heard.log
    )
    launcher.start()
    process = launcher._process
    assert process is not None
    launcher.close(busy=False)
    assert process.returncode == -signal.SIGKILL


async def test_the_log_of_the_trainer_does_not_grow_forever(heard: Heard) -> None:
    heard.log.parent.mkdir(parents=True)
    heard.log.write_bytes(b"x" * (launchers.LOG_LIMIT + 1))
    launcher = heard.launcher("die=1")
    launcher.start()
    await until(lambda: launcher.info.phase == "dead")
    assert heard.log.read_text() == "something\nthe last words\n"


def test_a_folder_of_the_same_name_in_the_working_directory_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "__init__.py").write_text("print('wrong')")
    command = [*launchers.default_command()[:-2], "-c", "import trainer; print(trainer.__file__)"]
    done = subprocess.run(
        command, cwd=tmp_path, env=child_environment(), capture_output=True, check=True
    )
    here = Path(launchers.__file__).resolve().parents[2] / "trainer" / "__init__.py"
    assert Path(done.stdout.decode().strip()) == here
