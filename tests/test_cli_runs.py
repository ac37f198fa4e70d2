from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import long_log
from tests import sample_log
from tests.tui_helpers import make_run
from trainer import events
from trainer.cli import main
from trainer.cli import output as outputs
from trainer.cli.output import Column, Output, clean, duration, table
from trainer.runs.follower import Follower
from trainer.runs.rundir import RunDir

ROOT = Path(main.__file__).parents[2]
HOSTILE = "[red]x[/]\x1b[31m\u202e../../x"

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setattr(outputs.out, "lost", None)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("FORCE_COLOR", raising=False)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main.run([str(a) for a in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def python(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", *map(str, arguments)], cwd=ROOT, timeout=60, **options
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A finished run, a crashed one with a hostile name and nothing measured."""
    done = RunDir(tmp_path / sample_log.RUN)
    done.path.mkdir()
    done.log.write_bytes((ROOT / "tests" / "golden" / "v1.jsonl").read_bytes())
    other = RunDir(tmp_path / "20261124-000000-late-0000")
    other.path.mkdir()
    queued = events.RunQueued(
        name=HOSTILE, preset=HOSTILE, model=HOSTILE, data="/tmp/pictures", epochs=7, config=HOSTILE
    )
    log = [sample_log.envelope(0, queued, attempt=0)]
    log.append(sample_log.envelope(1, events.Notice(level="error", code="x", message=HOSTILE)))
    other.log.write_bytes(sample_log.lines(log) + b"damage\n")
    return tmp_path


def test_runs_lists_newest_first(cli: Cli, runs: Path) -> None:
    code, text, _ = cli("runs", "--runs-dir", runs)
    assert code == 0
    head, first, second = text.splitlines()
    assert head.split()[:2] == ["run", "state"]
    assert first.startswith("20261124-000000-late-0000")
    assert "crashed" in first
    assert "folder" in first
    assert "0/7" in first
    for part in ("completed", "quick", "synthetic", "83.33 %", "3/3", "243"):
        assert part in second


def test_runs_sorted_by_accuracy_and_time(cli: Cli, runs: Path) -> None:
    for order in ("best", "time"):
        _, text, _ = cli("runs", "--runs-dir", runs, "--sort", order)
        assert text.splitlines()[1].startswith(sample_log.RUN)
    assert cli("runs", "--runs-dir", runs, "--sort", "worst")[0] == 2


def test_runs_as_json(cli: Cli, runs: Path) -> None:
    code, text, err = cli("runs", "--runs-dir", runs, "--json")
    assert (code, err) == (0, "")
    late, quick = json.loads(text)
    assert quick["run"] == sample_log.RUN
    assert quick["state"] == "completed"
    assert quick["best_test_accuracy"] == pytest.approx(5 / 6)
    assert quick["best_epoch"] == 3
    assert quick["data"] == "synthetic"
    assert late["best_test_accuracy"] is None
    assert late["name"] == HOSTILE, "JSON keeps the name as it is, escaped"
    assert "\x1b" not in text


def test_data_kind_and_state_stay_in_the_narrowest_table(
    cli: Cli, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for width in (40, 60, 80, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        _, text, _ = cli("runs", "--runs-dir", runs)
        for line in text.splitlines():
            assert len(line) <= max(width, 55)
        assert "synthetic" in text
        assert "completed" in text
        assert "83.33 %" in text


def test_no_runs(cli: Cli, tmp_path: Path) -> None:
    code, text, err = cli("runs", "--runs-dir", tmp_path)
    assert (code, text) == (0, "")
    assert "no runs in" in err
    assert json.loads(cli("runs", "--runs-dir", tmp_path, "--json")[1]) == []


def test_show(cli: Cli, runs: Path) -> None:
    code, text, _ = cli("show", "quick", "--runs-dir", runs)
    assert code == 0
    for part in (
        "synthetic from synthetic: 32 train and 6 test images",
        "83.33 % test accuracy in epoch 3",
        'preset = "quick"',
        "epoch 3: 100.00 % test accuracy (tta)",
        "last: epoch 3, step 12, checkpoints/last.pt (missing)",
        "warning not-a-number: [red]loss[/] is [31mnan",
        "first look",
    ):
        assert part in text
    rows = [line.split() for line in text.splitlines() if line.strip().startswith(("1 ", "3 "))]
    assert rows[0][:2] == ["1", "0.1"]
    assert "best" in rows[1]


def test_an_error_says_which_file_tells_more(cli: Cli, tmp_path: Path) -> None:
    run = make_run(tmp_path, end="failed", error="AttributeError: no such layer")
    assert cli("show", "last", "--runs-dir", tmp_path)[1].count("no such layer\n") == 1
    run.traceback.write_text("Traceback")
    asked = Follower(run).catch_up().asked_at
    for written, more in (
        (asked - 60, ""),
        (asked + 60, "; traceback.txt in its folder tells more"),
    ):
        os.utime(run.traceback, (written, written))
        said = cli("show", "last", "--runs-dir", tmp_path)[1]
        assert f"error       AttributeError: no such layer{more}\n" in said


def test_show_has_both_sides_of_a_receptive_field(cli: Cli, runs: Path) -> None:
    log = runs / sample_log.RUN / "events.jsonl"
    log.write_bytes(
        log.read_bytes().replace(b'"receptive_field":[3,3]', b'"receptive_field":[1,3]')
    )
    assert "receptive field 1×3" in cli("show", "quick", "--runs-dir", runs)[1]  # noqa: RUF001


def test_show_as_json_is_strict(cli: Cli, runs: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    for query in ("quick", "last"):
        code, text, _ = cli("show", query, "--runs-dir", runs, "--json")
        assert code == 0
        found = json.loads(text, parse_constant=refuse)
        assert text.count("\n") == 1
        assert found["damaged_lines"] == (query == "last")
        if query == "quick":
            assert found["epoch_table"][0]["test_accuracy"] == 0.5
            evaluations = found["evaluations"]
            assert [e["epoch"] for e in evaluations] == [1, 2, 3, 3]
            kept = {one["role"]: (one["epoch"], one["step"]) for one in found["checkpoints"]}
            assert kept["last"] == (3, 12), "not the one that would come next"
            for one in evaluations:
                assert one["confusion"] == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
            assert found["notices"][0]["notice"]["code"] == "not-a-number"


def test_show_says_what_is_damaged(cli: Cli, runs: Path) -> None:
    assert "the log has 1 damaged lines" in cli("show", "last", "--runs-dir", runs)[1]


@pytest.mark.parametrize("command", [("runs",), ("show", "last")])
def test_foreign_names_drive_no_terminal(
    cli: Cli, runs: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    _, text, err = cli(*command, "--runs-dir", runs)
    for character in text + err:
        assert character == "\n" or character.isprintable()
    assert "[red]x[/]" in text


@pytest.mark.parametrize("query", ["nothing", "", "../..", "2026"])
def test_show_of_no_run_is_one_line(cli: Cli, runs: Path, query: str) -> None:
    code, text, err = cli("show", query, "--runs-dir", runs)
    assert (code, text) == (2, "")
    assert err.startswith("cifar-tui: ")
    assert err.count("\n") == 1


def test_runs_directory_that_is_a_file(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    code, _, err = cli("runs", "--runs-dir", path)
    assert code == 2
    assert "cannot read the runs directory" in err


# presets


def test_presets(cli: Cli) -> None:
    code, text, _ = cli("presets")
    assert code == 0
    assert {"quick", "dws-late", "fast"} <= {line.split()[0] for line in text.splitlines()}
    assert {p["preset"] for p in json.loads(cli("presets", "--json")[1])} >= {"quick", "fast"}


def test_a_presets_toml_can_be_saved_and_trained(cli: Cli, tmp_path: Path) -> None:
    from trainer.presets import catalog

    _, text, _ = cli("presets", "dws-late")
    path = tmp_path / "mine.toml"
    path.write_text(text)
    mine, original = catalog.load(str(path)), catalog.load("dws-late")
    assert mine.preset == "mine"
    assert (mine.model, mine.train, mine.limits) == (
        original.model,
        original.train,
        original.limits,
    )
    assert tomllib.loads(text)["model"]["name"] == "dws-late"
    assert json.loads(cli("presets", "dws-late", "--json")[1])["preset"] == "dws-late"


def test_unknown_preset(cli: Cli) -> None:
    code, _, err = cli("presets", "quik")
    assert code == 2
    assert "did you mean 'quick'" in err


# the program


def test_help_names_every_command_and_loads_no_torch() -> None:
    script = (
        "import sys; from trainer.cli.main import run; code = run(sys.argv[1:])\n"
        "assert code == 0, code; print({'torch', 'torchvision', 'numpy'} & set(sys.modules))"
    )
    commands = ["train", "presets", "layers", "runs", "show", "mistakes", "data"]
    for arguments in (["--help"], *([c, "--help"] for c in commands)):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("set()\n")
        if arguments == ["--help"]:
            for command in commands:
                assert f"  {command} " in done.stdout


@pytest.mark.parametrize("command", ["train", "mistakes", "inspect", "show", "runs", "layers"])
def test_help_has_a_text_for_every_option(cli: Cli, command: str) -> None:
    lines = cli(command, "--help")[1].partition("Options:")[2].strip("\n").splitlines()
    for line, following in zip(lines, [*lines[1:], "  -"], strict=True):
        bare = re.fullmatch(r"  -\S+(?: \S+)?", line)
        assert not bare or not following.startswith("  -"), line


def test_version_and_usage_errors(cli: Cli) -> None:
    code, text, _ = cli("--version")
    assert code == 0
    assert text.startswith("cifar-tui ")
    for arguments in (
        ["nonsense"],
        ["show"],
        ["runs", "--nonsense"],
        ["train", "quick", "--lr", "x"],
    ):
        code, _, err = cli(*arguments)
        assert code == 2
        assert err.count("\n") == 1
        assert "--help" in err
        assert "Traceback" not in err


def test_an_unexpected_error_is_one_line(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.cli import runs as commands

    def fails(*_: object) -> None:
        raise RuntimeError("a\nbug \x1b[31m")

    monkeypatch.setattr(commands, "scan", fails)
    code, _, err = cli("runs")
    assert code == 1
    assert err.count("\n") == 1
    assert "\x1b" not in err
    monkeypatch.setenv("CIFAR_TUI_DEBUG", "1")
    with pytest.raises(RuntimeError):
        main.run(["runs"])


ASKED = pytest.mark.parametrize(
    "asked", [("runs",), ("--help",), ("train", "--help")], ids=" ".join
)


@ASKED
def test_a_closed_pipe_is_no_error(runs: Path, asked: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    where = ("--runs-dir", runs) if asked == ("runs",) else ()
    try:
        done = python(*asked, *where, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


@ASKED
def test_a_full_disk_under_the_output_is_one_line(runs: Path, asked: tuple[str, ...]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        where = ("--runs-dir", runs) if asked == ("runs",) else ()
        done = python(*asked, *where, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == b"cifar-tui: the output cannot be written: No space left on device\n"


def test_streams_that_were_closed_before_the_start(runs: Path) -> None:
    command = f'"{sys.executable}" -m trainer runs --runs-dir "{runs}" >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize("asked", [("train", "quick", "--data", "synthetic"), ("layers", "fast")])
def test_a_working_directory_that_is_gone(tmp_path: Path, asked: tuple[str, ...]) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CIFAR_TUI_RUNS": str(tmp_path / "runs")}
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f'cd "{gone}" && rmdir "{gone}" && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", command, "sh", sys.executable, "-P", "-m", "trainer", *asked],
        env=env,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr == b"cifar-tui: the working directory is gone: change to another\n"
    assert not (tmp_path / "runs").exists()


def test_a_terminal_that_cannot_encode(runs: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = python("show", "last", "--runs-dir", runs, env=env, capture_output=True)
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert b"?" not in done.stdout


# tables and text


def test_clean() -> None:
    assert clean("a\x1b[31mb\nc\u202e\ud800") == "a[31mb c"
    assert len(clean("x" * 10_000)) == 200


def test_table_drops_columns_then_cuts() -> None:
    columns = [Column("name", flexible=True), Column("b", keep=1), Column("c", right=True, keep=2)]
    rows = [("a long name of a run", "bbbbbbbbbb", "1"), ("x", "b", "22")]
    assert [t.plain for t in table(columns, rows, width=80)][1:] == [
        "a long name of a run  bbbbbbbbbb   1",
        "x                     b           22",
    ]
    assert [t.plain for t in table(columns, rows, width=24)] == [
        "name                   c",
        "a long name of a run   1",
        "x                     22",
    ]
    assert [t.plain for t in table(columns, rows, width=10)][1] == "a long na…"
    assert table(columns, [], width=80)[0].plain == "name  b  c"


def test_table_measures_wide_characters() -> None:
    lines = table([Column("n"), Column("x")], [("狗狗", "1"), ("a", "2")], width=80)
    assert lines[1].plain == "狗狗  1"
    assert lines[2].plain == "a     2"


def test_numbers() -> None:
    assert [duration(x) for x in (0.2, 59.7, 61, 3600, float("nan"), None)] == [
        "0 s",
        "1:00",
        "1:01",
        "1:00:00",
        "–",  # noqa: RUF001
        "–",  # noqa: RUF001
    ]


def test_json_is_never_nan(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    Output().json({"a": float("nan"), "b": [float("inf")]})
    assert capsysbinary.readouterr().out == b'{"a":null,"b":[null]}\n'


def test_a_description_reaches_no_terminal_as_a_command(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "evil.toml"
    evil = "red \x9b31m, \u202eturned, \x85 a line"
    path.write_text(f"description = '{evil}'\n", "utf-8")
    code, text, _ = cli("presets", path)
    assert code == 0
    assert "\\u009b31m, \\u202eturned, \\u0085 a line" in text
    assert not set("\x9b\x85\u202e") & set(text)
    assert tomllib.loads(text)["description"] == evil


def test_the_advice_names_the_runs_directory(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "my runs"
    assert f"'cifar-tui train quick --runs-dir '{place}''" in cli("runs", "--runs-dir", place)[2]
    err = cli("show", "nope", "--runs-dir", place)[2]
    assert f"'cifar-tui runs --runs-dir '{place}'' lists them" in err
    assert "--runs-dir" not in cli("show", "nope")[2]


def test_ids_keep_their_end_on_a_narrow_terminal(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for end in ("3f9c", "77aa"):
        long_log.write_run(RunDir(tmp_path / f"20261123-120000-dws-late-{end}"), epochs=1, each=1)
    monkeypatch.setenv("COLUMNS", "40")
    _, text, _ = cli("runs", "--runs-dir", tmp_path)
    assert [line.split()[0][-5:] for line in text.splitlines()[1:]] == ["-77aa", "-3f9c"]


def test_the_length_of_no_list_is_refused(cli: Cli) -> None:
    code, _, err = cli("diff", "last", "--top", 3)
    assert code == 2
    assert err == "cifar-tui: --top says how many --list lists: give both, or neither\n"
