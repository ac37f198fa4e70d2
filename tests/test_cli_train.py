from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import long_log
from tests import fake_session
from tests.training_helpers import tiny_run
from tests.tui_helpers import make_run
from trainer import config, events
from trainer.cli import main, train
from trainer.cli import output as outputs
from trainer.lifecycle import session
from trainer.lifecycle.submit import resubmit, submit
from trainer.presets import catalog
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.rundir import DELETED, RunDir, scan
from trainer.runs.runlog import RunLog

ROOT = Path(main.__file__).parents[2]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """``train`` in this process, with the fake session."""
    monkeypatch.setattr(outputs.out, "lost", None)
    monkeypatch.setattr(outputs.out, "required", True)
    monkeypatch.setattr(session, "train_run", fake_session.train_run)
    monkeypatch.setattr(train, "admitted", lambda config, data_directory: config)
    monkeypatch.setenv("FAKE_SESSION", "complete")
    monkeypatch.setenv("CIFAR_TUI_RUNS", str(tmp_path / "runs"))

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main.run(["train", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def start(how: str, runs: Path, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    env = {**os.environ, "FAKE_SESSION": how, "CIFAR_TUI_RUNS": str(runs)}
    env.update(options.pop("env", {}))
    command = [sys.executable, "-m", "tests.fake_session", "train", "quick", *arguments]
    return subprocess.Popen(command, cwd=ROOT, env=env, **options)


def only(runs: Path) -> Follower:
    (run,) = scan(runs)
    follower = Follower(run)
    follower.catch_up()
    return follower


def test_one_line_an_epoch_with_named_numbers(cli: Cli, tmp_path: Path) -> None:
    code, text, err = cli("quick", "--data", "synthetic", "--name", "mine")
    assert code == 0
    lines = text.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ") and "train loss" in line]
    assert len(epochs) == 2
    assert "epoch 2/5" in epochs[1]
    assert "train accuracy 50.00 %" in epochs[1]
    assert "test loss 1.1000" in epochs[1]
    assert "test accuracy 66.67 %" in epochs[1]
    assert any("test accuracy (tta) 83.33 % on synthetic" in line for line in lines)
    assert any("32 train and 6 test images" in line for line in lines)
    assert "completed: best test accuracy 66.67 % in epoch 2 on synthetic, 9 s" in lines
    assert "warning: [red]odd[/][31m" in err
    assert all(c == "\n" or c.isprintable() for c in text + err)
    assert "run " + str(only(tmp_path / "runs").run.path) == lines[-1]


def test_an_epoch_without_evaluation_has_its_line_too(
    cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests import sample_log
    from trainer.cli.progress import PlainView

    view = PlainView()
    parts: list[events.AnyEvent] = [
        sample_log.queued(),
        sample_log.started(),
        sample_log.epoch_ended(1),
        events.EpochStarted(epoch=2, step=4),
        sample_log.epoch_ended(2),
        events.RunEnded(state="stopped"),
    ]
    view.show(sample_log.envelope(i, e) for i, e in enumerate(parts))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3"]
    assert "test accuracy" not in lines[0]


def test_an_epoch_of_the_hardest_images_is_told_apart(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Their training loss and accuracy do not compare with those of all images."""
    from tests import sample_log
    from trainer.cli.progress import PlainView
    from trainer.cli.runs import epoch_table

    whole, few = (
        msgspec.structs.replace(sample_log.epoch_ended(epoch), images=images)
        for epoch, images in ((1, 32), (2, 16))
    )
    view = PlainView()
    parts = [
        sample_log.queued(),
        sample_log.started(),
        whole,
        few,
        events.RunEnded(state="stopped"),
    ]
    view.show(sample_log.envelope(i, e) for i, e in enumerate(parts))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert len(lines) == 1, "the last one that was open"
    assert "(train: the 16 hardest images)" in lines[0]
    table = [line.plain for line in epoch_table(view.state)]
    assert ["hard " in line for line in table[1:3]] == [False, True]
    assert table[3] == "hard: of the 16 hardest images only"


def test_json_is_the_log_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    code, text, err = cli("quick", "--json", "--data", "synthetic")
    assert (code, err) == (0, "")
    log = only(tmp_path / "runs").run.log.read_text()
    assert text == log
    kinds = [json.loads(line)["event"]["kind"] for line in text.splitlines()]
    assert kinds[:2] == ["RunQueued", "RunStarted"]
    assert kinds[-1] == "RunEnded"


def test_options_are_settings_of_the_run(cli: Cli, tmp_path: Path) -> None:
    code, _, _ = cli(
        *("quick", "--epochs", 3, "--batch-size", 64, "--lr", "1e-3", "--seed", 7),
        *("--device", "cpu", "--precision", "fp32", "--name", '12 = "x" [b]', "--data", "cifar10"),
        *("--set", "model.norm=group", "--set", "optimizer.momentum=0.5"),
    )
    assert code == 0
    follower = only(tmp_path / "runs")
    made = config.from_toml(follower.run.config.read_text())
    assert made.train.epochs == 3
    assert made.train.batch_size == 64
    assert made.optimizer.lr == 1e-3
    assert made.train.seed == 7
    assert (made.train.device, made.train.precision) == ("cpu", "fp32")
    assert made.name == '12 = "x" [b]'
    assert made.model.norm == "group"
    assert made.optimizer.momentum == 0.5
    assert follower.state.queued is not None
    assert follower.state.queued.name == made.name


BAD = [
    ("qick",),
    ("missing.toml",),
    ("quick", "--lr", "nan"),
    ("quick", "--lr", "inf"),
    ("quick", "--lr", "0"),
    ("quick", "--lr=-1"),
    ("quick", "--lr", "fast"),
    ("quick", "--epochs", "0"),
    ("quick", "--epochs=-3"),
    ("quick", "--epochs", "1.5"),
    ("quick", "--epochs", "9" * 30),
    ("quick", "--batch-size", "0"),
    ("quick", "--seed=-1"),
    ("quick", "--device", "gpu"),
    ("quick", "--precision", "int8"),
    ("quick", "--name", "x" * 300),
    ("quick", "--name", "\udcff"),
    ("quick", "--data", ""),
    ("quick", "--set", "train.epochs"),
    ("quick", "--set", "train.epoch=1"),
    ("quick", "--set", "optimizer.lr=nan"),
    ("quick", "--set", "model=3"),
    ("quick", "--nonsense"),
    (),
]


@pytest.mark.parametrize("arguments", BAD, ids=range(len(BAD)))
def test_bad_input_is_refused_before_a_run_is_made(
    cli: Cli, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    code, text, err = cli(*arguments)
    assert code == 2
    assert text == ""
    assert "Traceback" not in err
    if err.startswith("cifar-tui: "):
        assert err.count("\n") == 1
    else:
        assert "Usage" in err
    assert not (tmp_path / "runs").exists()


def test_a_users_toml_file_with_an_unknown_key(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nepoch = 3\n")
    code, _, err = cli(path)
    assert code == 2
    assert "train: unknown key `epoch`" in err or "unknown" in err
    assert not (tmp_path / "runs").exists()


def test_a_run_name_is_never_a_path(cli: Cli, tmp_path: Path) -> None:
    for name in ("../../x", "[red]x[/]", "/etc/passwd", "x\x1b[31m"):
        assert cli("quick", "--name", name)[0] == 0
    runs = scan(tmp_path / "runs")
    assert len(runs) == 4
    assert {p.name for p in tmp_path.iterdir()} == {"runs"}


def test_a_failed_run(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SESSION", "fail")
    code, text, err = cli("quick")
    assert code == 1
    assert "failed" in text
    assert "cifar-tui: the run failed: out of memory: lower the batch size" in err
    assert err.endswith("; traceback.txt in its folder tells more\n")


def test_bad_input_that_shows_late(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SESSION", "refuse")
    code, _, err = cli("quick", "--device", "cuda")
    assert code == 2
    assert err.endswith("cifar-tui: no CUDA device: use --device cpu\n")


def test_a_bug_in_the_session_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SESSION", "crash")
    code, _, err = cli("quick")
    assert code == 1
    assert "unexpected error: ValueError: a bug" in err


def test_read_only_runs_directory(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    code, _, err = cli("quick", "--runs-dir", path)
    assert code == 2
    assert "--runs-dir" in err


def test_handlers_of_signals_are_given_back(cli: Cli) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert cli("quick")[0] == 0
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


# what is checked before there is a run


@pytest.fixture
def checked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Cli:
    """``train`` with the real checks; nothing gets as far as training."""
    monkeypatch.setenv("CIFAR_TUI_DATA", str(tmp_path / "no-data"))
    monkeypatch.setenv("CIFAR_TUI_RUNS", str(tmp_path / "runs"))

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main.run(["train", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("quick",), "data --download"),
        (("quick", "--data", "/nonexistent"), "does not exist"),
        (("quick", "--data", "cifra10"), "cifra10"),
        (("quick", "--data", "synthetic", "--batch-size", 10_001), "lower --batch-size"),
        (("quick", "--data", "synthetic", "--set", "train_limit=100"), "100 training images"),
        (("quick", "--data", "synthetic", "--set", "model.name=resnet9"), "unknown model"),
    ],
)
def test_what_cannot_work_is_refused_without_torch(
    checked: Cli, tmp_path: Path, arguments: tuple[object, ...], says: str
) -> None:
    code, text, err = checked(*arguments)
    assert (code, text) == (2, "")
    assert err.startswith("cifar-tui: ")
    assert err.count("\n") == 1
    assert says in err
    assert not (tmp_path / "runs").exists()


# another process


def wait_for(process: subprocess.Popen[bytes], word: bytes) -> bytes:
    """Read standard output until a word is there."""
    assert process.stdout is not None
    seen = b""
    end = time.monotonic() + 60
    while word not in seen:
        assert time.monotonic() < end, seen
        if select.select([process.stdout], [], [], 1.0)[0]:
            chunk = os.read(process.stdout.fileno(), 65536)
            assert chunk, seen
            seen += chunk
    return seen


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_run_cleanly(tmp_path: Path, number: int) -> None:
    with start("wait", tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for(process, b"test accuracy 66.67 %")
        process.send_signal(number)
        text, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"stopping at the next step" in err
    assert b"stopped: best test accuracy 50.00 %" in text
    assert only(tmp_path).status == "stopped"


def test_signals_after_the_end_of_a_stopped_run_do_not_kill_it(tmp_path: Path) -> None:
    with start("wait", tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        wait_for(process, b"test accuracy 66.67 %")
        process.terminate()
        wait_for(process, b"stopped: best test accuracy 50.00 %")
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGHUP)
    assert process.returncode == 130


def test_the_second_signal_reassures_and_the_third_aborts(tmp_path: Path) -> None:
    with start("hang", tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        wait_for(process, b"test accuracy 66.67 %")
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):  # no user chose these
            process.send_signal(number)
            time.sleep(0.02)
        wait_for(process, b"stopping at the next step")
        process.send_signal(signal.SIGINT)
        wait_for(process, b"stopping at the next step")
        process.send_signal(signal.SIGINT)
        wait_for(process, b"still stopping")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        text, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"aborted without a checkpoint" in text
    assert only(tmp_path).status == "crashed"


def test_a_run_that_never_began_is_resumed_from_the_beginning(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submit(catalog.load("quick", ["data='synthetic'"]), tmp_path / "runs")
    asked: list[bool] = []

    def train_run(*given: Any, resume: bool, **more: Any) -> events.RunEnded:
        asked.append(resume)
        return fake_session.train_run(*given, resume=resume, **more)

    monkeypatch.setattr(session, "train_run", train_run)
    monkeypatch.setenv("FAKE_SESSION", "refuse")
    assert cli("--resume", run.id)[0] == 2
    monkeypatch.setenv("FAKE_SESSION", "complete")
    assert run.path.is_dir(), "it was there before"
    assert cli("--resume", run.id)[0] == 0
    assert asked == [True, True], "it is old: whether it begins is seen where it is trained"


def conclude(run: RunDir, ended: events.RunEnded, data: str) -> None:
    follower = Follower(run)
    follower.catch_up()
    train._conclude(follower, ended, data)


def test_a_log_that_cannot_be_read_is_no_full_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = events.RunEnded(state="stopped")
    run = make_run(tmp_path, end=None, done=1)
    for notice, said in (
        ("other", "incomplete (its end misses)\n"),
        ("disk-full", "incomplete (its end misses): the disk was full\n"),
    ):
        log = RunLog(run)
        log.emit(events.Notice(level="error", code=notice, message="x"))
        log.close()
        conclude(run, ended, "synthetic")
        assert capsys.readouterr().err.endswith(said)
    conclude(run, events.RunEnded(state="stopped", error="no GPU"), "synthetic")
    assert capsys.readouterr().err.endswith("the run stays stopped: no GPU\n")
    run.path.rename(tmp_path / "moved")
    conclude(run, ended, "synthetic")
    assert "cannot be read: was the folder moved or removed?" in capsys.readouterr().err


def test_a_run_that_was_deleted_has_one_line_and_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = events.RunEnded(state="failed", error=DELETED)
    conclude(RunDir(tmp_path / "20261123-143005-gone-0000"), ended, "synthetic")
    said = capsys.readouterr()
    assert said.err == f"cifar-tui: the run failed: {DELETED}\n"
    assert "gone" not in said.out, "it is not there to be looked at"


def test_an_ignored_hangup_stays_ignored(tmp_path: Path) -> None:
    with start(
        "wait",
        tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    ) as process:
        wait_for(process, b"test accuracy 66.67 %")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_broken_pipe_does_not_end_the_run(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        process = start("complete", tmp_path, *arguments, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"Error" not in err
    assert b"rror: " not in err.replace(b"warning: ", b"")
    assert only(tmp_path).status == "completed"


def test_a_full_disk_under_the_output_does_not_end_the_run(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = start("complete", tmp_path, "--json", stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 0, "the run itself completed"
    assert err == b"cifar-tui: the output cannot be written: No space left on device\n"
    assert only(tmp_path).status == "completed"


def test_every_json_line_is_flushed_at_once(tmp_path: Path) -> None:
    with start(
        "wait", tmp_path, "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        seen = wait_for(process, b'"variant":"tta"')
        assert seen.endswith(b"\n")
        for line in seen.splitlines():
            events.decode(line)
        process.terminate()
        rest, err = process.communicate(timeout=60)
    assert events.decode(rest.splitlines()[-1]).event == events.RunEnded(
        state="stopped", best_accuracy=0.5, best_epoch=1, seconds=1.0
    )
    assert b"stopping" in err


def in_a_terminal(runs: Path, how: str, **env: str) -> tuple[int, str]:
    """Run it in a pseudo-terminal of 80 columns; stop it when it waits."""
    leader, follower = pty.openpty()
    env = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", **env}
    process = start(how, runs, stdin=follower, stdout=follower, stderr=follower, env=env)
    os.close(follower)
    seen = b""
    stopped = False
    while True:
        try:
            chunk = os.read(leader, 65536) if select.select([leader], [], [], 60)[0] else b""
        except OSError:
            chunk = b""
        if not chunk:
            break
        seen += chunk
        if how == "wait" and not stopped and b"(tta)" in seen:
            stopped = True
            process.send_signal(signal.SIGINT)
    os.close(leader)
    return process.wait(timeout=60), seen.decode()


def test_on_a_terminal_a_bar_moves_below_the_epochs(tmp_path: Path) -> None:
    code, text = in_a_terminal(tmp_path, "wait")
    assert code == 130
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    assert "preparing" in plain
    assert "epoch 2/5" in plain
    assert "test acc" in plain
    assert "66.67 %" in plain
    assert "stopping at the next step" in plain
    assert "stopped: best test accuracy 50.00 % in epoch 1" in plain
    assert "[red]odd[/]" in plain
    assert "\x1b[31m" not in text, "a message of the log must not colour the terminal"
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor comes back"


def test_a_dumb_terminal_gets_plain_lines(tmp_path: Path) -> None:
    code, text = in_a_terminal(tmp_path, "complete", TERM="dumb")
    assert code == 0
    assert "\x1b" not in text
    assert "test accuracy 66.67 %" in text


def test_no_color(tmp_path: Path) -> None:
    _, text = in_a_terminal(tmp_path, "complete", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3\d", text)


def test_a_net_that_changes_the_working_directory_loses_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def elsewhere(*arguments: Any, **options: Any) -> Any:
        os.chdir("/")
        return fake_session.train_run(*arguments, **options)

    monkeypatch.setattr(session, "train_run", elsewhere)
    assert cli("quick", "--data", "synthetic", "--runs-dir", "here")[0] == 0
    assert only(tmp_path / "here").state.ended is not None


@pytest.mark.parametrize("option", ["--runs-dir", "--data-dir", "--data"])
def test_an_empty_option_is_no_current_directory(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("quick", option, "")
    assert (code, err.count("\n")) == (2, 1)
    assert f"'{option}': it is empty" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("named", [True, False])
def test_what_a_detached_run_prints_finds_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.setattr(train, "detach", lambda run, **_: 7)
    where = ("--runs-dir", tmp_path / "some where") if named else ()
    code, text, _ = cli("quick", "--detach", *where)
    assert code == 0
    watch, look = (shlex.split(line.partition(": ")[2]) for line in text.splitlines()[1:])
    assert watch == ["cifar-tui", *map(str, where)]
    assert look[1] == "show"
    assert main.run(look[1:]) == 0


@pytest.mark.parametrize("first", ["trains", "has trained"])
def test_a_new_run_that_another_process_took_up_is_not_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, first: str
) -> None:
    def taken(config: Any, runs: Path) -> Any:
        run = submit(config, runs)
        resubmit(run)
        if first == "trains":
            lock.enter_context(run.locked())
        else:
            monkeypatch.setenv("FAKE_SESSION", "complete")
            session.train_run(run, Control(run))
            monkeypatch.setenv("FAKE_SESSION", "refuse")
        return run

    monkeypatch.setattr(train, "submit", taken)
    with ExitStack() as lock:
        code, _, err = cli("quick")
        assert code == 2
        assert ("is being trained by another process" in err) == (first == "trains")
        run = only(tmp_path / "runs").run
        assert run.lock.exists()
        assert run.config.exists()


def test_a_run_where_there_are_no_locks_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("trainer.runs.rundir.fcntl.flock", refuse)
    code, _, err = cli("quick")
    assert code == 2
    assert "this file system has no locks" in err
    assert scan(tmp_path / "runs") == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--detach --alert best", "--alert and --stall-steps ring in the terminal"),
        ("--detach --stall-steps 5", "--alert and --stall-steps ring in the terminal"),
        ("--trust-net", "--trust-net goes with --resume"),
    ],
)
def test_options_without_effect_are_refused(
    checked: Cli, tmp_path: Path, words: str, said: str
) -> None:
    code, text, err = checked("quick", "--data", "synthetic", *words.split())
    assert (code, text) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_advice_for_a_run_without_a_checkpoint_names_the_runs_directory(
    checked: Cli, tmp_path: Path
) -> None:
    run = tiny_run(tmp_path / "my place")
    place = run.path.parent
    log = RunLog(run)
    log.begin_attempt()
    log.emit(long_log.started(10))
    log.close()
    code, _, err = checked("--resume", "last", "--runs-dir", place)
    assert code == 2
    assert f"cifar-tui train '{run.config}' --runs-dir '{place}''" in err
