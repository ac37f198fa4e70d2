"""A trainer that is killed all the time loses nothing; see ``kill_harness.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import torch

from trainer.runs import checkpoint, predictions
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir, scan
from trainer.runs.runlog import Tail
from trainer.runs.runstate import RunState

ROOT = Path(__file__).parents[1]
KILLS = 50


class Reader(threading.Thread):
    """Follows the newest run in a folder, which may not be there yet, as the app does."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.follower: Follower | None = None
        self.polls = 0
        self.problem = ""
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.002):
            try:
                self.look()
            except Exception as error:
                self.problem = repr(error)
                return

    def look(self) -> None:
        runs = scan(self.folder)
        if self.follower is None and runs:
            self.follower = Follower(runs[0])
        if self.follower is not None:
            self.follower.poll()
            self.polls += 1
            state = self.follower.state
            steps = list(state.steps.step)
            if self.follower.damaged or state.missing or steps != sorted(set(steps)):
                raise AssertionError(f"{self.follower.damaged} damaged, {state.missing} missing")


def curve(state: RunState) -> list[tuple[object, ...]]:
    return [(r.epoch, r.train_loss, r.train_accuracy, r.test_loss, r.lr) for r in state.epochs]


def test_fifty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "killed" / "runs")
    reader.start()
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_harness", str(tmp_path), str(KILLS)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    reader.over.set()
    reader.join()
    assert done.returncode == 0, done.stderr
    assert not reader.problem
    assert reader.polls > KILLS
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["random"] == KILLS
    assert told["aimed"] == 14
    whole, killed = (RunDir(scan(tmp_path / name / "runs")[0].path) for name in ("whole", "killed"))
    once, often = Follower(whole).catch_up(), Follower(killed).catch_up()
    assert often.attempt > KILLS / 2, "most attempts had begun when they were killed"
    for role in ("last", "best"):
        first, second = (checkpoint.load(run.checkpoint(role)) for run in (whole, killed))
        for part in ("net", "ema"):
            assert first[part].keys() == second[part].keys()
            for name, tensor in first[part].items():
                assert torch.equal(tensor, second[part][name]), f"{role} {part} {name}"
        assert torch.equal(first["random"], second["random"])
    assert curve(once) == curve(often)
    assert once.steps.step == often.steps.step
    assert once.steps.loss == often.steps.loss, "every point of one clean curve"
    assert [(e.epoch, e.variant, e.confusion) for e in once.evals] == [
        (e.epoch, e.variant, e.confusion) for e in often.evals
    ]
    assert list(often.steps.elapsed) == sorted(often.steps.elapsed)
    for saved in often.predictions:
        predictions.load(killed.inside(saved.path))
    tail = Tail(killed.log)
    assert [e.seq for e in tail.read()] == list(range(often.seq + 1))
    assert tail.damaged == 0
    assert not [*killed.path.rglob("*.partial")], "what was half written is swept away"
