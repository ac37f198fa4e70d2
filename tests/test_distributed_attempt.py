"""What torchrun trains when it starts its ranks anew: the run of this launch, no earlier one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
import typer

from tests import fake_session
from tests.tui_helpers import make_run
from trainer import events
from trainer.cli import main, train
from trainer.distributed.attempt import resubmit_once, submit_once
from trainer.distributed.lead import Lead
from trainer.distributed.world import World, from_environment
from trainer.errors import RunError
from trainer.lifecycle import session
from trainer.lifecycle.submit import read_config, submit
from trainer.presets import catalog
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir, scan
from trainer.runs.runlog import RunLog
from trainer.runs.runstate import RunState

CONFIG = catalog.load("quick", ["train.processes=2"])
Start = Callable[..., int]


def world(agent: str, restarts: int = 0, size: int = 2, local: int | None = None) -> World:
    return World(0, size, 0, local or size, restarts, 3, "a", agent)


def folded(run: RunDir) -> RunState:
    return Follower(run).catch_up()


def end(run: RunDir, state: events.EndState) -> None:
    log = RunLog(run)
    log.begin_attempt()
    log.emit(events.RunEnded(state=state))
    log.close()


def stopped(runs: Path) -> RunDir:
    run = make_run(runs, done=2, end="stopped")
    run.checkpoint("last").parent.mkdir(exist_ok=True)
    run.checkpoint("last").touch()
    return run


def test_a_restart_finds_the_run_of_its_launch(tmp_path: Path) -> None:
    first, found = submit_once(CONFIG, tmp_path, world("1"))
    assert not found
    submit_once(catalog.load("quick", ["train.processes=2", "train.seed=5"]), tmp_path, world("1"))
    submit_once(CONFIG, tmp_path, World(0, 2, 0, 2, 0, 3, "b", "2"))
    assert submit_once(CONFIG, tmp_path, world("1", 1)) == (first, True)
    assert submit_once(CONFIG, tmp_path, world("1")) == (first, True), "not all are counted"
    end(first, "completed")
    assert submit_once(CONFIG, tmp_path, world("1", 1)) == (first, True), "it is dismissed"
    again, found = submit_once(CONFIG, tmp_path, world("1"))
    assert (again != first, found) == (True, False), "no restart"


def test_a_name_that_is_given_again_is_another_launch(tmp_path: Path) -> None:
    first, _ = submit_once(CONFIG, tmp_path, world("1"))
    end(first, "completed")
    # killed before it had submitted anything
    again, found = submit_once(CONFIG, tmp_path, world("2", 1))
    assert (again != first, found) == (True, False)
    assert submit_once(CONFIG, tmp_path, world("2", 2)) == (again, True)
    # an address is no name, and its rank 0 is always of one agent
    static = [World(0, 2, 0, 2, 1, 3, "localhost:29500", agent) for agent in "34"]
    begun = [submit_once(CONFIG, tmp_path, one) for one in static]
    assert [found for _, found in begun] == [False, False]


def test_the_agent_that_is_left_finds_the_run_of_another(tmp_path: Path) -> None:
    first, _ = submit_once(CONFIG, tmp_path, world("1", local=1))
    with first.locked():
        again, found = submit_once(CONFIG, tmp_path, world("2", local=1))
    assert (again != first, found) == (True, False), "it is being trained"
    again.discard()
    # of two nodes not all count
    assert submit_once(CONFIG, tmp_path, world("2", local=1)) == (first, True)
    end(first, "completed")
    assert submit_once(CONFIG, tmp_path, world("2", 1, local=1)) == (first, True), "its own now"


@pytest.mark.parametrize("agent", ["1", "2"])
def test_fewer_processes_go_on_in_the_same_folder(tmp_path: Path, agent: str) -> None:
    run, _ = submit_once(CONFIG, tmp_path, world("1", local=1))
    left = catalog.load("quick", ["train.processes=1"])
    assert submit_once(left, tmp_path, world(agent, 1, size=1)) == (run, True)
    assert read_config(run) == left
    queued = folded(run).queued
    assert queued is not None
    assert queued.config == run.config.read_text()
    end(run, "completed")
    assert submit_once(CONFIG, tmp_path, world(agent, 2)) == (run, True)
    assert folded(run).ended is not None, "nothing is queued that is dismissed"


def test_a_resumed_run_is_queued_once(tmp_path: Path) -> None:
    run = stopped(tmp_path)

    def resume(given: World) -> tuple[RunDir, bool]:
        return resubmit_once("last", tmp_path, given, data=None, trust_net=False)

    assert resume(world("1", 1)) == (run, False), "its end is one of before this launch"
    assert folded(run).ended is None
    assert read_config(run).train.processes == 2
    submit(CONFIG, tmp_path)  # the last by now
    assert resume(world("1", 2, size=1)) == (run, True)
    assert read_config(run).train.processes == 1
    end(run, "stopped")
    assert resume(world("1", 3)) == (run, True), "it is dismissed"
    assert folded(run).ended is not None
    with pytest.raises(RunError, match="no run"):
        resubmit_once("other", tmp_path, world("1", 3), data=None, trust_net=False)


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    """The command line of rank 0 in a world, with the fake session."""

    def leave(code: int) -> NoReturn:
        raise typer.Exit(code)

    group = SimpleNamespace(tell=lambda data: None, close=lambda: None)
    monkeypatch.setattr("trainer.distributed.group.Group", lambda world: group)
    monkeypatch.setattr(session, "train_run", fake_session.train_run)
    monkeypatch.setattr(train, "leave", leave)
    monkeypatch.setenv("FAKE_SESSION", "complete")
    monkeypatch.setenv("CIFAR_TUI_RUNS", str(tmp_path))

    def call(given: World, *arguments: str) -> int:
        monkeypatch.setattr(train, "from_environment", lambda: given)
        return main.run(["train", *arguments])

    return call


@pytest.mark.parametrize("what", [("--resume", "last"), ("quick", "--data", "synthetic")])
def test_a_restart_before_anything_was_submitted_trains(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: tuple[str, ...]
) -> None:
    if what[0] == "quick":
        assert start(world("1"), *what) == 0
    else:
        stopped(tmp_path)
    before = scan(tmp_path)
    capsys.readouterr()
    assert start(world("2", 1), *what) == 0
    assert "completed: " in capsys.readouterr().out
    new = set(scan(tmp_path)) - set(before)
    assert len(new) == (1 if what[0] == "quick" else 0)
    (run,) = new or before
    assert start(world("2", 2), *what) == 0
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert f"run {run.id} had ended (completed) before torchrun started the ranks anew" in line


@pytest.mark.parametrize("restarts", [2, 3])
def test_an_attempt_that_is_started_anew_is_not_told_as_the_runs_end(
    start: Start,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    restarts: int,
) -> None:
    def lose(run: RunDir, *_: Any, **__: Any) -> events.RunEnded:
        return events.RunEnded(state="failed", error="rank 1 of 2 is gone")

    monkeypatch.setattr(session, "train_run", lose)
    assert start(world("1", restarts), "quick", "--data", "synthetic") == 1
    said = capsys.readouterr()
    last = restarts == 3
    assert ("failed on synthetic" in said.out) == last
    assert ("incomplete" in said.err) == last


def test_a_torchrun_is_known_by_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def agent(**said: str) -> str:
        ranks = dict.fromkeys(("RANK", "LOCAL_RANK"), "0")
        sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1")
        found = from_environment({"TORCHELASTIC_RUN_ID": "a", **ranks, **sizes, **said})
        assert found is not None
        return found.agent

    one, again, two = (
        agent(TORCHELASTIC_ERROR_FILE=f"/tmp/torchelastic_{file}/error.json")
        for file in ("x/a_1/attempt_0/0", "x/a_1/attempt_1/0", "x/a_2/attempt_0/0")
    )
    assert one == again != two
    assert agent(TORCHELASTIC_ERROR_FILE="") == agent() != ""


def test_a_restart_blames_no_rank_that_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submit(CONFIG, tmp_path)
    log = RunLog(run)
    told: list[Any] = []
    monkeypatch.setattr(log, "emit", told.append)
    monkeypatch.setattr("trainer.distributed.group.Group", lambda world: None)
    monkeypatch.setattr("trainer.distributed.watch.Watch", lambda world, on_loss: None)
    Lead(world("1", 1, size=1), run, log)
    (notice,) = told
    assert notice.message == (
        "torchrun has started one rank anew (restart 1 of 3): "
        "a rank was killed or ended without a word"
    )
    log.close()
