"""The command ``cifar-tui`` before and beside the app."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from trainer.cli import main
from trainer.data.download import INSTEAD
from tui import app, collector
from tui.__main__ import open_app, quick_options
from tui.command_line import run_with_app
from tui.datasource import look, without_advice


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], {}),
        (["--runs-dir", "x"], {"runs_dir": "x"}),
        (["--data=a=b", "--device", "cpu"], {"data": "a=b", "device": "cpu"}),
        (["--help"], None),
        (["--runs-dir"], None),
        (["runs"], None),
        (["--runs-dir", "x", "runs"], None),
        (["--nonsense", "x"], None),
    ],
)
def test_only_the_apps_own_options_are_read_by_hand(
    arguments: list[str], found: dict[str, str] | None
) -> None:
    assert quick_options(arguments) == found


def tui(*arguments: str, terminal: bool = False, **environment: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    primary, secondary = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tui", *arguments],
            stdin=secondary if terminal else subprocess.DEVNULL,
            stdout=secondary if terminal else subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TERM": "xterm", **environment},
            cwd=Path(__file__).parent.parent,
            timeout=300,
            check=False,
        )
    finally:
        os.close(primary)
        os.close(secondary)
    return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()


def test_without_a_terminal_it_says_what_to_do_instead() -> None:
    code, out, err = tui()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "cifar-tui train" in err


def test_a_dumb_terminal_is_told_what_to_do_instead() -> None:
    code, _, err = tui(terminal=True, TERM="dumb")
    assert code == 2
    assert err.count("\n") == 1
    assert "TERM=dumb" in err
    assert "cifar-tui train" in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--runs-dir", __file__), "is no directory: choose one with --runs-dir"),
        (("--device", "tpu"), "--device must be auto, cpu"),
        (("--runs-dir", ""), "--runs-dir is empty"),
        (("--data", ""), "--data is empty"),
        (("--on-end", "/home/caf\udce9/x"), "--on-end is not UTF-8 text"),
        (("--stall-steps", "9" * 5000), "--stall-steps must be 2 to 1000000"),
    ],
)
def test_bad_options_are_one_line(arguments: tuple[str, ...], problem: str) -> None:
    code, _, err = tui(*arguments, terminal=True)
    assert code == 2
    assert err.count("\n") == 1
    assert problem in err


def test_help_lists_the_apps_options_and_the_commands() -> None:
    code, out, err = tui("--help")
    assert (code, err) == (0, "")
    for part in ("--runs-dir", "--data", "--device", "--version", "train", "presets", "runs"):
        assert part in out


def test_a_runs_directory_before_the_command_is_the_commands_too(tmp_path: Path) -> None:
    code, out, err = tui("--runs-dir", str(tmp_path), "runs", "--json")
    assert code == 0, err
    assert out.strip() in ("", "[]")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("--data synthetic train quick", "put --data behind the command"),
        ("--device nonsense train quick", "put --device behind the command"),
        ("--human x.npy mistakes last", "put --human behind the command"),
        ("--ascii runs", "--ascii is the app's: 'cifar-tui runs' does not have it"),
        ("--runs-dir= runs", "'--runs-dir': it is empty"),
    ],
)
def test_no_option_before_a_command_is_dropped(
    arguments: str,
    problem: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["cifar-tui", *arguments.split()])
    monkeypatch.setattr(main.app, "registered_callback", None)  # given back afterwards
    assert run_with_app(lambda *_, **__: 0) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert problem in told.err


def test_what_data_is_there_is_one_line_without_command_line_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFAR_TUI_DATA", str(tmp_path))
    missing = look("cifar10")
    assert not missing.ready
    assert str(tmp_path) in missing.line
    assert "--" not in missing.line
    assert look("synthetic").ready
    nowhere = look(str(tmp_path / "nowhere"))
    assert not nowhere.ready
    assert "nowhere" in nowhere.line
    assert "\n" not in nowhere.line


def test_a_reason_with_a_colon_is_told_whole() -> None:
    tls = "certificate verify failed: unable to get local issuer certificate (_ssl.c:1000)"
    reason = f"cannot download CIFAR-10 ([SSL: CERTIFICATE_VERIFY_FAILED] {tls})"
    assert without_advice(f"{reason}: {INSTEAD}") == reason
    assert without_advice(reason) == reason


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app opens here, and leaves the process as it is."""
    for name in ("stdin", "stdout"):
        monkeypatch.setattr(sys, name, SimpleNamespace(isatty=lambda: True, write=len))
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    monkeypatch.setattr(collector, "begin", lambda: None)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("TEXTUAL_FPS", "60")


@pytest.mark.parametrize("data", ["cifar10", "photos"])
def test_folders_hold_when_the_working_directory_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str
) -> None:
    opened: list[tuple[Path, str]] = []

    def made(runs: Path, *, data: str, **options: object) -> SimpleNamespace:
        opened.append((runs, data))
        return SimpleNamespace(run=lambda: None, return_code=0)

    monkeypatch.setattr(app, "CifarApp", made)
    on_a_terminal(monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert open_app("runs", data) == 0
    there = data if data == "cifar10" else str(tmp_path / data)
    assert opened == [(tmp_path / "runs", there)]


def test_a_working_directory_that_is_gone_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    on_a_terminal(monkeypatch)
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert open_app("runs") == 2
    monkeypatch.chdir(tmp_path)
    assert "the working directory is gone" in capsys.readouterr().err
