"""Alerts: what is news in a run, how the terminal is called, the command at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import sample_log
from tests.training_helpers import tiny_dataset, tiny_run
from tests.tui_helpers import Clock, append, held, make_run
from trainer import events
from trainer.cli import caller
from trainer.data.dataset import Dataset
from trainer.errors import ConfigError, DataError
from trainer.events import Envelope
from trainer.lifecycle import alerts, calls, on_end, session
from trainer.lifecycle.alerts import AlertSettings, Watcher
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import resubmit
from trainer.protocol import Job
from trainer.runs import stall
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir
from trainer.runs.runstate import RunState
from trainer.worker.worker import Held

KITTY = {"TERM": "xterm-kitty"}


def folded(*more: events.Event, step: float = 0.25) -> RunState:
    """A run in its second epoch, half a second an event."""
    state = RunState()
    first = [sample_log.queued(), sample_log.started()]
    steps = [progress(i) for i in range(1, 9)]
    for seq, event in enumerate([*first, *steps, *more]):
        state.apply(envelope(seq, event, step * seq))
    return state


def envelope(seq: int, event: events.Event, elapsed: float) -> Envelope:
    return Envelope(
        v=1,
        run=sample_log.RUN,
        attempt=1,
        seq=seq,
        time=1000.0 + elapsed,
        elapsed=elapsed,
        event=event,  # type: ignore[arg-type]
    )


def progress(step: int) -> events.Progress:
    return events.Progress(phase="train", epoch=1, step=step, done=step, total=100, loss=1.0)


def evaluated(epoch: int, accuracy: float) -> events.EvalEnded:
    return sample_log.eval_ended(epoch, accuracy)


# stalls


def test_a_stall_is_many_median_steps_and_at_least_half_a_minute() -> None:
    assert stall.median_step(folded()) == pytest.approx(0.25)
    assert stall.limit(folded()) == 30.0
    slow = folded(step=10.0)
    assert stall.limit(slow, 20) == pytest.approx(200.0)
    assert stall.limit(slow, 5) == pytest.approx(50.0)


def test_nothing_is_a_stall_before_the_first_step_in_a_pause_or_on_a_full_disk() -> None:
    def notice(code: str) -> events.Notice:
        return events.Notice(level="error", code=code, message="")

    assert stall.limit(RunState()) is None
    assert stall.limit(folded(events.Paused(step=8))) is None
    assert stall.limit(folded(events.RunEnded(state="stopped"))) is None
    assert stall.limit(folded(notice("disk-full"))) is None
    assert stall.limit(folded(notice("disk-full"), notice("disk-writable"))) == 30.0
    resumed = sample_log.started()
    assert stall.limit(folded(resumed)) is None, "it loads its data"


def test_a_step_that_compiles_takes_its_time() -> None:
    compiled = events.Notice(level="info", code="compile", message="")
    one_by_one = folded(compiled)
    assert stall.limit(one_by_one) == stall.COMPILING > 300
    at_once = folded(compiled)
    one_by_one.apply(envelope(11, progress(9), 80.0))
    at_once.apply_all([envelope(11, progress(9), 80.0), envelope(12, progress(10), 80.25)])
    assert stall.limit(one_by_one) == stall.limit(at_once) == 30.0
    assert stall.limit(folded(compiled, events.RunEnded(state="stopped"))) is None


def test_the_pulse_goes_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    clock.now, clock.elapsed = 1010.0, 500.0
    monkeypatch.setattr(stall, "time", clock)
    state = folded()  # its last event was at 1002.25
    pulse = stall.Pulse()
    assert pulse.look(state) is None
    clock.elapsed += 20
    clock.now -= 86_400  # the wall clock jumps back a day
    assert pulse.look(state) is None
    clock.elapsed += 5
    assert pulse.look(state) == 32
    state.apply(envelope(10, progress(9), 2.5))
    assert pulse.look(state) is None, "it goes on"
    clock.now += 2 * 86_400
    state.apply(envelope(11, progress(10), 2.75))
    assert pulse.look(state) is None, "a jump forward is no stall either"
    clock.elapsed += 31
    assert pulse.look(state) in (31, 32)
    state.apply(envelope(12, events.Notice(level="info", code="x", message="y"), 3.0))
    assert pulse.look(state), "a notice is no step"


def test_a_run_that_is_attached_to_when_it_has_stalled(tmp_path: Path) -> None:
    run = make_run(tmp_path, epochs=9, done=2, end=None)
    follower = Follower(run)
    with held(run):
        follower.catch_up()
        assert follower.status == "training"
        assert follower.stalled is not None
        assert follower.stalled > 3600, "its log is of 2025"
        append(run, progress(99))
        follower.poll()
        assert follower.stalled is None, "a step was written just now, whatever its clock says"
    follower.poll()
    assert (follower.status, follower.stalled) == ("crashed", None)


# news


def test_the_watcher_tells_what_is_new_and_only_once() -> None:
    watcher = Watcher()
    state = folded(evaluated(1, 0.5))
    assert watcher.look(state, "training", None) == [], "what was so at the first look is no news"
    state.apply(envelope(20, evaluated(2, 0.4), 9.0))
    assert watcher.look(state, "training", None) == []
    state.apply(envelope(21, evaluated(3, 4 / 6), 9.5))
    (best,) = watcher.look(state, "training", None)
    assert (best.kind, best.text) == ("best", "best test accuracy 66.67 %, epoch 3")
    (stuck,) = watcher.look(state, "training", 45)
    assert (stuck.kind, stuck.text) == ("stall", "no step for 45 s")
    assert watcher.look(state, "training", 46) == []
    nan = events.Notice(level="error", code="not-a-number", message="the loss is not a number")
    state.apply(envelope(22, nan, 10.0))
    state.apply(envelope(23, events.RunEnded(state="failed", error="nan"), 10.0))
    found = watcher.look(state, "failed", None)
    assert [alert.kind for alert in found] == ["end", "nan"]
    assert found[0].text == "failed: nan"
    assert watcher.look(state, "failed", None) == []


def test_a_first_evaluation_is_no_new_best_and_a_finished_run_no_news() -> None:
    watcher = Watcher()
    state = folded()
    watcher.look(state, "training", None)
    state.apply(envelope(20, evaluated(1, 0.5), 9.0))
    assert watcher.look(state, "training", None) == []
    assert [a.kind for a in watcher.look(state, "crashed", None)] == ["end"]
    assert Watcher().look(state, "completed", None) == []


# settings


@pytest.fixture(autouse=True)
def no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "user.toml"
    path.touch()
    monkeypatch.setenv("CIFAR_TUI_CONFIG", str(path))
    return path


def test_settings_come_from_the_file_then_from_the_command_line(no_file: Path) -> None:
    assert alerts.load() == AlertSettings()
    assert AlertSettings().when == ("end", "nan", "stall")
    no_file.write_text('[alerts]\nwhen = ["best"]\nbell = false\non_end = "notify-send done"\n')
    assert alerts.load().when == ("best",)
    assert not alerts.load().bell
    assert alerts.load().on_end == "notify-send done"
    chosen = alerts.load("stall, end", 50, "")
    assert (chosen.when, chosen.stall_steps, chosen.on_end) == (("end", "stall"), 50, "")
    assert alerts.load("none").when == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[alerts]\nwhen = ["never"]', "choose end, nan, stall or best"),
        ("[alerts]\nwhat = 1", "unknown key"),
        ("[alerts]\nstall_steps = 1", "stall_steps"),
        ("alerts = 3", "alerts"),
        ("[alerts", "not valid TOML"),
        ('[alerts]\non_end = "it\'s"', r"user\.toml: alerts\.on_end \"it's\": No closing"),
        ('[alerts]\non_end = "a\\u0000"', r"user\.toml: alerts\.on_end: a command cannot"),
        ("[alert]\nbell = false", r"user\.toml: unknown table 'alert': .* belong into \[alerts\]"),
        ("bell = false\n[alerts]", r"user\.toml: unknown key 'bell': .* belong into \[alerts\]"),
        ('["a\\nb"]', "unknown table"),
    ],
)
def test_a_wrong_file_is_one_line(no_file: Path, text: str, said: str) -> None:
    no_file.write_text(text)
    with pytest.raises(ConfigError, match=said) as error:
        alerts.load()
    assert "\n" not in str(error.value)


def test_wrong_options_are_one_line() -> None:
    for arguments, said in (
        (("ends",), "not 'ends'"),
        ((None, 1), "2 to 1000000"),
        ((None, None, "echo 'x"), "No closing quotation"),
        ((None, None, "/home/caf\udce9/x"), "--on-end is not UTF-8 text"),
    ):
        with pytest.raises(ConfigError, match=said):
            alerts.load(*arguments)  # type: ignore[arg-type]


# the terminal


def test_what_is_written_to_the_terminal() -> None:
    assert calls.sequence(["a is done"], environ=KITTY) == "\a\x1b]9;cifar-tui: a is done\a"
    assert calls.sequence(["a"], bell=False, environ=KITTY) == "\x1b]9;cifar-tui: a\a"
    assert calls.sequence(["a"], notify=False, environ=KITTY) == "\a"
    assert calls.sequence([], environ=KITTY) == ""
    for term in ("", "dumb", "linux", "vt100", "screen-256color", "tmux-256color"):
        assert calls.sequence(["a"], environ={"TERM": term}) == "\a"


@pytest.mark.parametrize(("answer", "passes"), [("on", True), ("all", True), ("off", False)])
def test_tmux_is_asked_whether_it_hands_sequences_through(
    monkeypatch: pytest.MonkeyPatch, answer: str, passes: bool
) -> None:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess((), 0, answer + "\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    written = calls.sequence(["a"], environ={"TERM": "tmux-256color", "TMUX": "/tmp/x,1,0"})
    wrapped = "\x1bPtmux;\x1b\x1b]9;cifar-tui: a\a\x1b\\"
    assert written == "\a" + (wrapped if passes else "")


@given(st.text())
def test_no_text_gets_out_of_its_sequence(text: str) -> None:
    written = calls.sequence([text], bell=False, environ=KITTY)
    inside = written.removeprefix("\x1b]9;cifar-tui: ").removesuffix("\a")
    assert inside.isprintable()
    assert len(inside) <= calls.LONGEST


def test_a_run_in_this_terminal_calls_for_what_was_chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(caller, "_terminal", lambda: sys.stdout)
    monkeypatch.setenv("TERM", "xterm-kitty")
    monkeypatch.delenv("TMUX", raising=False)
    one = caller.Caller(AlertSettings(when=("end",)))
    stream = [sample_log.queued(), sample_log.started(), *map(progress, range(1, 9))]
    one.look([envelope(seq, event, seq) for seq, event in enumerate(stream)])
    one.look([envelope(20, evaluated(1, 0.5), 20.0), envelope(21, evaluated(2, 4 / 6), 20.0)])
    assert capsys.readouterr().out == ""
    one.look([envelope(22, events.RunEnded(state="failed", error="\x1b[31mbad\a"), 21.0)])
    out = capsys.readouterr().out
    assert out.count("\a") == 2
    assert out.endswith(": failed: [31mbad\a")


# the command


DUMP = """
import json, os, sys
found = {k: v for k, v in os.environ.items() if k.startswith("CIFAR_TUI_")}
print(json.dumps([found, sys.argv[1:], os.getsid(0) == os.getpid()]))
"""


def command(folder: Path) -> str:
    script = folder / "dump it.py"
    script.write_text(DUMP)
    return f"{sys.executable} '{script}' 'one word' $HOME"


def output(run: RunDir, lines: int = 1) -> list[object]:
    log = run.on_end_log
    end = time.monotonic() + 60
    while not (log.is_file() and log.read_bytes().count(b"\n") >= lines):
        assert time.monotonic() < end
        time.sleep(0.02)
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture
def tiny_data(monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)


@pytest.mark.usefixtures("tiny_data")
def test_the_command_gets_the_result_once_an_attempt(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "train.epochs=1", "name='  it  '")
    ended = train_run(run, Control(run), on_end=command(tmp_path))
    ((found, words, own_session),) = output(run)  # type: ignore[misc]
    assert words == ["one word", "$HOME"], "no shell"
    assert own_session
    assert found["CIFAR_TUI_RUN"] == run.id
    assert found["CIFAR_TUI_RUNS"] == str(run.path.parent)
    assert found["CIFAR_TUI_NAME"] == "it"
    assert found["CIFAR_TUI_STATUS"] == "completed"
    assert float(found["CIFAR_TUI_BEST_ACCURACY"]) == ended.best_accuracy
    assert (found["CIFAR_TUI_EPOCHS"], found["CIFAR_TUI_ERROR"]) == ("1", "")
    before = Follower(run).catch_up().elapsed
    ended = train_run(run, Control(run), resume=True, on_end=command(tmp_path))
    _, (found, _, _) = output(run, 2)  # type: ignore[misc]
    assert float(found["CIFAR_TUI_SECONDS"]) >= before + ended.seconds - 0.01, "of all attempts"


@pytest.mark.usefixtures("tiny_data")
def test_an_epoch_that_was_stopped_in_its_test_was_trained(tmp_path: Path) -> None:
    run = tiny_run(tmp_path)
    asked = Control(run)

    def listen(envelope: events.Envelope) -> None:
        if isinstance(envelope.event, events.EpochEnded):
            asked.request("stop")

    assert train_run(run, asked, listener=listen, on_end=command(tmp_path)).state == "stopped"
    ((found, _, _),) = output(run)  # type: ignore[misc]
    assert (found["CIFAR_TUI_EPOCHS"], found["CIFAR_TUI_BEST_EPOCH"]) == ("1", "")


@pytest.mark.usefixtures("tiny_data")
def test_the_command_is_started_for_failed_runs_too(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, "model.options.explode=true")
    assert train_run(run, Control(run), on_end=command(tmp_path)).state == "failed"
    ((found, _, _),) = output(run)  # type: ignore[misc]
    assert found["CIFAR_TUI_STATUS"] == "failed"
    assert "not a number" in found["CIFAR_TUI_ERROR"]
    refused = tiny_run(tmp_path, "model.name=no-such-net")
    with pytest.raises(ConfigError):
        train_run(refused, Control(refused), on_end=command(tmp_path))
    assert len(output(refused)) == 1


@pytest.mark.parametrize("before", ["data", "start", "queue"])
def test_what_earlier_attempts_came_to_is_told_where_the_next_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    data = tiny_dataset()
    monkeypatch.setattr("trainer.data.sources.load", lambda source, data_dir=None: data)
    run = tiny_run(tmp_path, "train.epochs=3", "name='it'")
    asked = Control(run)

    def listen(envelope: events.Envelope) -> None:
        if isinstance(envelope.event, events.EvalEnded):
            asked.request("stop")

    first = train_run(run, asked, listener=listen)
    assert first.best_accuracy is not None
    resubmit(run)
    if before == "data":
        monkeypatch.setattr("trainer.data.sources.load", lose)
        with pytest.raises(DataError):
            train_run(run, Control(run), resume=True, on_end=command(tmp_path))
    elif before == "start":
        asked = Control(run)
        asked.request("stop")
        train_run(run, asked, resume=True, on_end=command(tmp_path))
    else:
        Held(Job(run=str(run.path), on_end=command(tmp_path))).end("torch cannot be loaded")
    ended = Follower(run).catch_up().ended
    assert ended is not None
    assert (ended.best_accuracy, ended.best_epoch) == (first.best_accuracy, first.best_epoch)
    assert ended.final_accuracy == first.final_accuracy
    assert ended.state == "stopped", "it can still go on"
    assert bool(ended.error) == (before != "start")
    ((found, _, _),) = output(run)  # type: ignore[misc]
    assert (found["CIFAR_TUI_NAME"], found["CIFAR_TUI_EPOCHS"]) == ("it", "1")
    assert float(found["CIFAR_TUI_BEST_ACCURACY"]) == first.best_accuracy


def lose(*_: object, **__: object) -> Dataset:
    raise DataError("the data are not there")


@pytest.mark.usefixtures("tiny_data")
@pytest.mark.parametrize("wanted", [False, True])
@pytest.mark.parametrize("began", [False, True])
def test_a_log_is_read_for_the_end_no_oftener_than_that_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool, began: bool
) -> None:
    run = tiny_run(tmp_path, "train.epochs=1")
    reads: list[RunDir] = []
    catch_up = Follower.catch_up

    def count(follower: Follower) -> RunState:
        reads.append(follower.run)
        return catch_up(follower)

    if not began:
        monkeypatch.setattr("trainer.data.sources.load", lose)
    with monkeypatch.context() as patched, suppress(DataError):
        patched.setattr(Follower, "catch_up", count)
        train_run(run, Control(run), on_end=command(tmp_path) if wanted else "")
    assert len(reads) == (wanted or not began)


@pytest.mark.parametrize("wrong", ["no-such-program-here x", "/", "'open quote"])
def test_a_wrong_command_is_a_notice_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ConfigError("nothing to train")

    monkeypatch.setattr(session, "prepare", fails)
    run = tiny_run(tmp_path)
    with pytest.raises(ConfigError, match="nothing to train"):
        train_run(run, Control(run), on_end=wrong)
    state = Follower(run).catch_up()
    assert state.ended is not None
    assert state.ended.error == "nothing to train"
    assert [n.code for _, n in state.notices][-1] == "on-end"
    assert "--on-end" in state.notices[-1][1].message


def test_hostile_results_fit_an_environment(tmp_path: Path) -> None:
    ended = events.RunEnded(state="failed", error="a\0b\ud800\x1b")
    found = on_end.environment(RunDir(tmp_path), ended, name="x\0")
    assert found["CIFAR_TUI_ERROR"] == "ab?\x1b"
    assert found["CIFAR_TUI_NAME"] == "x"


def test_a_configuration_folder_that_is_not_ours_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    monkeypatch.delenv("CIFAR_TUI_CONFIG", raising=False)
    assert alerts.load().on_end == ""
    monkeypatch.setenv("CIFAR_TUI_CONFIG", str(tmp_path / "named.toml"))
    with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        alerts.load()


def test_a_configuration_that_was_named_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CIFAR_TUI_CONFIG", "~/c.toml")
    with pytest.raises(ConfigError, match=r"CIFAR_TUI_CONFIG: there is no file .*/c\.toml"):
        alerts.load()
    (tmp_path / "c.toml").write_text("alerts.on_end = 'true'")
    assert alerts.load().on_end == "true"
    monkeypatch.setenv("CIFAR_TUI_CONFIG", "~no-such-user-here/c.toml")
    with pytest.raises(ConfigError, match="no home directory"):
        alerts.load()
    monkeypatch.setenv("CIFAR_TUI_CONFIG", os.devnull)
    assert alerts.load().on_end == ""
