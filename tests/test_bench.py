"""The measuring programs tell no figure of what did not happen, and leave nothing behind."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from bench import (
    airbench,
    command,
    distributed,
    gpu,
    gradients,
    layer_stats,
    long_log,
    mistakes,
    monitor,
    notebook,
    seeds,
    steps,
)
from bench import presets as bench_presets
from bench.command import NoFigureError, Trainer
from bench.slow_link import SlowTerminal
from bench.slow_link import main as slow_link
from bench.terminal import Terminal
from tests.training_helpers import tiny_dataset, wait
from trainer import config as settings
from trainer import events, processes, spoiled
from trainer.errors import ConfigError
from trainer.loop.compilation import Compiled
from trainer.presets import catalog
from trainer.runs.rundir import RunDir
from trainer.runs.runlog import RunLog, Tail

PART = "import os, signal; print(os.getpid(), flush=True); signal.pause()"


def test_an_app_that_ends_gives_no_figure_but_its_screen() -> None:
    terminal = Terminal(["sh", "-c", "echo no such preset; exit 3"])
    try:
        with pytest.raises(NoFigureError, match=r"ended with 3; its screen:\n  \| no such preset"):
            terminal.require(60, lambda: monitor.visible(terminal) >= 200, "the first paint")
        assert terminal.age != terminal.age  # nothing was seen
        for figure in (terminal.processor, terminal.resident, lambda: terminal.swallow(1)):
            with pytest.raises(NoFigureError):
                figure()
    finally:
        terminal.quit()


def test_what_is_not_painted_in_time_has_no_age() -> None:
    terminal = Terminal(["sh", "-c", "echo starting; exec sleep 60"])
    try:
        assert terminal.pump(60, lambda: terminal.shows("starting"))
        terminal.require(60, lambda: terminal.shows("starting"), "what is there already")
        with pytest.raises(NoFigureError, match=r"the list: not seen in 0 s; its screen:"):
            terminal.require(0.1, lambda: terminal.shows("a list"), "the list")
    finally:
        terminal.press("\x03")
        terminal.quit()


def test_answers_that_did_not_come_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor, "unseen", {})
    monitor.figures("  scrolling", [1.0, None, 3.0, None], "ms")
    monitor.figures("paint", [float(i) for i in range(1, 21)], "ms")
    monitor.figures("nothing", [None], "ms")
    assert capsys.readouterr().out.splitlines() == [
        "  scrolling: median 2 ms, worst 3 (n=2), not seen 2 times",
        "paint: median 10 ms, 95 % 19, worst 20 (n=20)",
        "nothing: not measured, not seen 1 times",
    ]
    assert monitor.unseen == {"scrolling": 2, "nothing": 1}


def test_an_epoch_that_begins_before_its_turn_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    log = RunLog(run)

    def started(epoch: int) -> events.EpochStarted:
        return events.EpochStarted(epoch=epoch, step=0)

    def ended(epoch: int) -> events.EpochEnded:
        figures = {"step": 0, "loss": 1.0, "accuracy": 0.5, "lr": 0.1, "images_per_second": 9.0}
        return events.EpochEnded(epoch=epoch, seconds=float(epoch), **figures)

    # what each look at the log finds; the fifth epoch has begun when the end of the fourth is seen
    looks = [[started(1), ended(1)], *([started(n), ended(n)] for n in (2, 3))]
    looks += [[started(4)], [ended(4), started(5)], [ended(5), started(6)], [ended(6)]]
    signals = []
    left = iter(looks)

    class Watched:
        pid, written = -1, 0

        def swallow(self, seconds: float) -> None:
            for event in next(left):
                log.emit(event)
            wait(lambda: not log.waiting)

        def processor(self) -> float:
            return 0.0

    monkeypatch.setattr(monitor.os, "kill", lambda pid, number: signals.append(number))
    trainer = SimpleNamespace(trains=lambda: True, process=SimpleNamespace(pid=os.getpid()))
    turns = monitor._each_turn(tmp_path, Watched(), trainer, epochs=6)
    log.close()
    assert [(turn.watched, turn.seconds) for turn in turns] == [
        (False, 3.0),
        (True, 4.0),
        (True, 5.0),
        (False, 6.0),
    ]
    assert signals == [signal.SIGSTOP, signal.SIGCONT, signal.SIGSTOP]
    # the turn does not change between the fourth and the fifth, but before the sixth it does
    assert [turn.late > 0 for turn in turns] == [False, False, False, True]


def test_nothing_is_measured_beside_a_training_that_failed() -> None:
    with tempfile.TemporaryFile() as errors:
        process = psutil.Popen(["sh", "-c", "echo no such data >&2; exit 2"], stderr=errors)
        process.wait()
        with pytest.raises(NoFigureError, match="ended with 2: no such data"):
            Trainer(process, errors).check()


def test_a_screen_that_was_there_before_the_key_is_no_answer() -> None:
    started = ["sh", "-c", "printf 'name state'; exec sleep 60"]
    terminal = SlowTerminal(started, 1e6, 80, 24, buffered=False)
    try:
        terminal.until("name +state", limit=60)
        with pytest.raises(NoFigureError, match="was not seen"):
            terminal.until("name +state", limit=0.4)
    finally:
        terminal.press("\x03")
        terminal.quit()


def test_a_part_leaves_nothing_running(tmp_path: Path) -> None:
    assert gpu.run(["sleep", "60"], 0.01) == "not done after 0 s"
    told = tmp_path / "pid"
    assert gpu.run(["sh", "-c", f"sleep 60 & echo $! > {told}"], 60) == 0
    child = int(told.read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def point(tmp_path: Path) -> Callable[..., RunDir]:
    """Makes a complete run of the preset quick."""

    def make(name: str, *, seed: int = 0, images: str = "0" * 64, device: str = "cpu") -> RunDir:
        run = RunDir(tmp_path / f"20261123-{name}-quick-0000")
        long_log.write_run(run, epochs=2, each=2, seed=seed)
        text = run.log.read_text("utf-8").replace("0" * 64, images)
        run.log.write_text(text.replace('"device":"cpu"', f'"device":"{device}"'), "utf-8")
        config = catalog.load("quick", ['data="/data/anna\'s"', f"train.seed={seed}"])
        run.config.write_text(settings.to_toml(config), "utf-8")
        return run

    return make


def test_a_table_has_the_newest_run_of_a_seed(
    point: Callable[..., RunDir], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newer, other = point("100000"), point("110000"), point("090000", seed=1)
    assert [p.run for p in bench_presets.points(tmp_path)] == [other.id, newer.id]
    assert capsys.readouterr().err == f"{older.id} is left out: {newer.id} is newer\n"


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"images": "1" * 64}, "on other images (111111111111, not 000000000000)"),
        ({"device": "cuda:0 NVIDIA H200"}, "on another kind of device (cuda, not cpu)"),
    ],
)
def test_runs_that_cannot_be_compared_are_no_table(
    point: Callable[..., RunDir], tmp_path: Path, other: dict[str, str], what: str
) -> None:
    point("100000")
    point("110000", seed=1, **other)
    with pytest.raises(ConfigError) as refused:
        bench_presets.points(tmp_path)
    assert what in str(refused.value)


def test_a_seed_that_fails_takes_no_other_with_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before: list[int] = []

    def run(preset: str, overrides: list[str], runs_dir: str, seed: int) -> seeds.Outcome:
        if spoils := [old for old in before if old == 2]:
            raise RuntimeError(f"seeds {spoils} have spoiled this process")
        before.append(seed)
        if seed == 1:
            raise RuntimeError("failed the disk is full")
        if seed == 2:
            error = RuntimeError("CUDA error: an illegal memory access was encountered")
            spoiled.keep_if_spoiled(error)
            raise error
        if seed == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return seeds.Outcome(seed, 0.9, None, 1.0, "cpu")

    monkeypatch.setattr(seeds, "run", run)
    monkeypatch.setattr(seeds, "get_context", lambda _: get_context("fork"))
    options = argparse.Namespace(preset="quick", seeds=7, at_once=2, json=False)
    found: list[seeds.Outcome] = []
    assert seeds.train(options, [], "", found) == 3
    assert sorted(outcome.seed for outcome in found) == [0, 3, 5, 6]
    said = capfd.readouterr()
    assert sorted(said.out.splitlines()) == [f"seed {i}: 90.00%" for i in (0, 3, 5, 6)]
    assert sorted(said.err.splitlines()) == [
        "seed 1 failed: failed the disk is full",
        "seed 2 failed: CUDA error: an illegal memory access was encountered",
        "seed 4 failed: its process ended (-9)",
    ]


def test_seeds_that_are_ended_early_report_those_that_were_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def train(options: object, overrides: object, folder: str, found: list[seeds.Outcome]) -> int:
        found += [seeds.Outcome(seed, 0.9 + seed / 100, None, 1.0, "cpu") for seed in (1, 0)]
        raise SystemExit(143)  # as SIGTERM does

    monkeypatch.setattr(seeds, "train", train)
    words = f"seeds --data synthetic --preset quick --runs-dir {tmp_path}"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit):
        seeds.main()
    assert "quick, 2 seeds, cpu" in capsys.readouterr().out


def test_rounds_that_are_ended_early_report_those_that_were_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def ours(slot: object, seed: int, *_: object) -> dict[str, object]:
        if seed:
            raise SystemExit(143)
        return {"accuracy": 0.9, "tta": 0.91, "seconds": 2.5, "run": "x"}

    monkeypatch.setattr(airbench, "ours", ours)
    words = f"airbench --reference x --only ours --data synthetic --rounds 3 --runs-dir {tmp_path}"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit):
        airbench.main()
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "round 1, ours: 2.5 s, accuracy 90.00%, with TTA 91.00%"
    assert rest == ["ours          2.5 s   accuracy 90.00%, with TTA 91.00%   (1 runs)"]


def test_the_engine_is_measured_with_all_that_it_tells() -> None:
    engine = notebook.Engine(tiny_dataset(), "resnet8", 16, torch.device("cpu"), compiled=False)
    for _ in range(2):
        assert engine.run(4) > 0
    training = engine.training
    training.settle()
    training.log.close()
    told = [envelope.event for envelope in Tail(training.run.log).read()]
    assert training.at.step == 8
    assert not training.layer_stats._found
    assert any(isinstance(event, events.Progress) for event in told)
    assert sum(isinstance(event, events.EpochEnded) for event in told) == 1
    measured = [event.step for event in told if isinstance(event, events.LayerStats)]
    steps = [i for i in range(8) if training.layer_stats.due(i % 6, 6)]
    assert measured == [i + 1 for i in steps]
    engine.folder.cleanup()


def test_parts_get_what_is_left_of_the_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now, given = [0.0], []

    def run(part: list[str], limit: float) -> int:
        given.append((Path(part[2]).stem, limit))
        now[0] += limit + gpu.PATIENCE
        return 0

    monkeypatch.setattr(gpu, "run", run)
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])
    parts = "seeds watched resnet18"
    words = f"gpu --data synthetic --seconds 400 --only {parts}"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(NoFigureError, match=r"left out: resnet18 \(no time is left\)"):
        gpu.main()
    assert given == [("seeds", 300), ("monitor", 400 - 320 - gpu.PATIENCE)]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child")
def test_a_part_ends_with_its_parent() -> None:
    program = f"from bench import gpu; gpu.run([{sys.executable!r}, '-c', {PART!r}], 60)"
    with psutil.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        part = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        psutil.wait_procs([part], 60)
        assert not processes.lives(part)


def test_the_reference_does_not_count_its_whitening(monkeypatch: pytest.MonkeyPatch) -> None:
    class Net:
        def init_whiten(self, images: str) -> None:
            self.seen = images

    times = iter([10.0, 10.5])
    monkeypatch.setattr(airbench.time, "perf_counter", lambda: next(times))
    whitening, net = airbench.Whitening(Net), Net()
    net.init_whiten("images")
    assert (net.seen, whitening.seconds) == ("images", 0.5)


PROGRAMS = {
    "presets": bench_presets.main,
    "seeds": seeds.main,
    "airbench": airbench.main,
    "distributed": distributed.main,
    "layer_stats": layer_stats.main,
    "slow_link": slow_link,
    "monitor": monitor.main,
    "gpu": gpu.main,
    "notebook": notebook.main,
    "steps": steps.main,
    "mistakes": mistakes.main,
    "long_log": long_log.main,
}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("presets --runs-dir /nope --only-table", "--runs-dir /nope: there is no such folder"),
        ("presets --runs-dir . --only-table", ". has no complete run of an unchanged preset"),
        ("presets --runs-dir /nope --preset x", "argument --preset: invalid choice: 'x'"),
        ("seeds --seeds 0", "argument --seeds: must be a whole number from 1 on, not '0'"),
        ("seeds --at-once 0", "argument --at-once: must be a whole number from 1 on, not '0'"),
        ("seeds --data /nope", "data '/nope' does not exist"),
        ("airbench --reference /nope", "--reference /nope: there is no such file"),
        ("airbench --reference x --rounds 0", "argument --rounds: must be a whole number"),
        (
            "airbench --reference x --only ours --data synthetic --preset quick",
            "quick has no test-time augmentation",
        ),
        ("distributed --rounds 0", "argument --rounds: must be a whole number from 1 on"),
        ("layer_stats --pairs 1", "argument --pairs: must be 2 or more"),
        ("layer_stats --data /an's", 'data "/an\'s" does not exist'),
        ("slow_link --size 80", "argument --size: must be COLUMNSxLINES as in 80x24, not '80'"),
        ("slow_link --rate 0", "argument --rate: must be a number greater than 0, not '0'"),
        ("gpu --only seeds --data /nope", "data '/nope' does not exist"),
        ("gpu --only seeds --seconds 0", "argument --seconds: must be a whole number from 1 on"),
        ("monitor --data /nope", "data '/nope' does not exist"),
        ("monitor --preset nope", "nope"),
        ("notebook --data synthetic --batch-size 20000", "batch size 20000 is above"),
        ("notebook --data synthetic --model nope", "nope"),
        ("steps --data synthetic --preset nope", "nope"),
        ("mistakes --data /nope", "data '/nope' does not exist"),
        ("distributed --preset fast", "train.skip_easy needs train.processes = 1"),
        ("long_log --runs 0", "argument --runs: must be a whole number from 1 on"),
        ("monitor --rounds x", "argument --rounds: must be a whole number from 1 on, not 'x'"),
    ],
)
def test_bad_input_is_one_line(
    words: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "child_environment", dict)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)
    program, *arguments = words.split()
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    with pytest.raises(SystemExit) as ended:
        command.run(PROGRAMS[program])
    error = capsys.readouterr().err
    assert ended.value.code == 2, error
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_uncompiled_figures_are_none_of_compiled_steps() -> None:
    command.check_compiled(torch.nn.Identity())
    forward = Compiled(torch.nn.Identity(), torch.device("cpu"), lambda problem: None)
    forward.lacks = ""
    command.check_compiled(forward)
    forward._stop("no compiler")
    with pytest.raises(NoFigureError, match="nothing is compiled: no compiler"):
        command.check_compiled(forward)


def test_a_bias_of_gradients_is_told_from_chance() -> None:
    order = torch.Generator().manual_seed(0)

    def random() -> torch.Tensor:
        return torch.randn(20, 30, generator=order, dtype=torch.float64)

    mean = random()
    exact = [{"weight": mean + random()} for _ in range(50)]
    by_chance = [{"weight": b["weight"] + 0.1 * random()} for b in exact]
    (off,) = gradients.compare(exact, by_chance)
    assert off.batch == pytest.approx(0.1 / 2**0.5, rel=0.05)
    assert off.chance == pytest.approx(1, rel=0.1)
    assert abs(off.along) < 0.005
    too_short = [{"weight": 0.99 * b["weight"]} for b in exact]
    (off,) = gradients.compare(exact, too_short)
    assert off.batch == pytest.approx(0.01)
    assert off.along == pytest.approx(-0.01)
    assert off.chance > 4  # of 7 where all batches are alike
