"""Runs of others: nothing in them runs, leaves the folder, floods memory, or drives a terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from tests import sample_log
from tests.training_helpers import TINY_NET, binary_folder, tiny_run
from tests.tui_helpers import make_app, make_run
from trainer import events, foreign
from trainer.cli import main
from trainer.cli.output import clean, visible
from trainer.errors import ConfigError, RunError
from trainer.inspection import answers as inspection
from trainer.lifecycle.prepare import prepare
from trainer.lifecycle.session import train_run
from trainer.lifecycle.submit import read_config, resubmit
from trainer.runs import control, predictions, runlog
from trainer.runs.control import Control
from trainer.runs.follower import Follower
from trainer.runs.origin import check_owner
from trainer.runs.rundir import RunDir, scan
from trainer.runs.runlog import RunLog, Tail
from trainer.runs.runstate import RunState
from tui import formatting

OWN_FILES = {path.name for path in RunDir(Path("run")).own}
EVIL = "\x1b]0;owned\a\x1b[2J\x9b31m\x85\u202eevil\u2028[red]x[/red]\x7f\r\n"
CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]")
CHECKED = ("kind", "phase", "split", "variant", "role", "path")


def hostile_run(folder: Path) -> RunDir:
    """A log in which every text is hostile."""
    run = make_run(folder, name="plain", end=None, done=1, with_predictions=True)
    lines = []
    for line in run.log.read_bytes().splitlines():
        envelope = json.loads(line)
        event = envelope["event"]
        for key, value in event.items():
            if isinstance(value, str) and key not in CHECKED:
                event[key] = EVIL + value
        if "classes" in event:
            event["classes"] = [EVIL + name for name in event["classes"]]
        if "layers" in event:
            for layer in event["layers"]:
                layer["path"], layer["type"], layer["reason"] = EVIL, EVIL, EVIL
        lines.append(json.dumps({**envelope, "run": EVIL}).encode())
    ends = (
        events.Notice(level="error", code=EVIL, message=EVIL),
        events.CheckpointSaved(role="last", epoch=1, step=8, path=f"../{EVIL}"),
        events.RunEnded(state="failed", error=EVIL),
    )
    for seq, event in enumerate(ends, len(lines)):
        lines.append(events.encode(sample_log.envelope(seq, event)).strip())
    run.log.write_bytes(b"\n".join(lines) + b"\n")
    return run


@pytest.mark.parametrize(
    "command",
    [
        ["runs"],
        ["show", "last"],
        ["mistakes", "last"],
        ["runs", "--json"],
        ["show", "last", "--json"],
        ["mistakes", "last", "--json"],
        ["train", "--resume", "last"],
    ],
)
def test_no_command_prints_a_control_character_of_a_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    run = hostile_run(tmp_path)
    assert Follower(run).catch_up().ended is not None, "the log is a whole one"
    main.run([*command, "--runs-dir", str(tmp_path)])
    out, err = capfd.readouterr()
    assert not CONTROL.search(out + err)
    assert "evil" in out + err or command[0] == "train"
    if "--json" in command:
        json.loads(out)


def test_json_for_a_terminal_is_the_same_json() -> None:
    value = {"a": EVIL + "ä\u200b", EVIL: ["\x9b", "\xad"]}
    written = visible(msgspec.json.encode(value))
    assert json.loads(written) == value
    assert not CONTROL.search(written.decode())
    assert "ä" in written.decode()


def test_the_character_that_deletes_is_escaped_where_all_the_others_are_harmless() -> None:
    assert visible(b'"a\x7fb"') == b'"a\\u007fb"'
    assert visible(b'"ab"') == b'"ab"'


def test_foreign_text_is_made_safe_by_one_rule() -> None:
    assert foreign.one_line(EVIL) == "]0;owned[2J31m evil [red]x[/red]"
    text = EVIL + "\x0b\x85\xa0\u3000\ud800\ue000\U000e0001"
    for shown in (foreign.one_line(text), foreign.printable(text), foreign.short_name(text)):
        assert shown.isprintable()
    assert len(foreign.printable(text)) == len(text)
    assert clean(text) == formatting.clean(text) == foreign.one_line(text)


# floods


def test_a_line_of_a_hundred_megabytes_is_skipped_and_never_held(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    whole = sample_log.lines()
    with path.open("wb") as file:
        file.write(whole[: whole.index(b"\n") + 1])
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b"\n" + whole[whole.index(b"\n") + 1 :])
    tail = Tail(path)
    found: list[events.Envelope] = []
    largest = 0
    while tail.behind():
        found += tail.read(1 << 20)
        largest = max(largest, len(tail._rest))
    assert found == sample_log.whole()
    assert tail.damaged == 1
    assert largest <= runlog.LINE_BYTES
    assert Tail(path).read(1 << 30) == sample_log.whole(), "also when it is read at once"


@pytest.mark.parametrize("limit", [100, 1000, 1 << 20])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_endless_lines_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, end: bytes
) -> None:
    monkeypatch.setattr(runlog, "LINE_BYTES", 3000)
    lines = sample_log.lines().splitlines(keepends=True)
    assert max(map(len, lines)) < 3000
    bad = b"y" * 10_000 + b"\n"
    path = tmp_path / "events.jsonl"
    path.write_bytes(bad + lines[0] + bad + bad + b"".join(lines[1:]) + b"z" * 10_000 + end)
    tail = Tail(path)
    found: list[events.Envelope] = []
    while tail.behind():
        found += tail.read(limit)
    assert found == sample_log.whole()
    assert tail.damaged == 4 or (limit == 1 << 20 and end == b"")


def test_the_writer_goes_on_after_an_endless_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runlog, "LINE_BYTES", 3000)
    run = RunDir(tmp_path / sample_log.RUN)
    run.path.mkdir()
    run.log.write_bytes(sample_log.lines() + b"x" * 10_000 + b"\n")
    log = RunLog(run)
    log.emit(events.Notice(level="info", code="a", message="b"))
    log.close()
    assert Tail(run.log).read()[-1].seq == len(sample_log.whole())


def decoded(event: dict[str, object]) -> events.Envelope:
    line = {"v": 1, "run": "r", "attempt": 1, "seq": 0, "time": 1.0, "elapsed": 1.0}
    return events.decode(json.dumps({**line, "event": event}).encode())


def test_a_million_classes_and_ten_million_fields_are_a_damaged_line_or_ignored() -> None:
    started = msgspec.to_builtins(sample_log.started())
    with pytest.raises(msgspec.DecodeError):
        decoded({**started, "classes": ["a"] * 1_000_000})
    many = {f"f{i}": 1 for i in range(200_000)}
    assert decoded({**started, **many}).event == sample_log.started()


def test_a_million_notices_epochs_and_resumes_stay_small() -> None:
    state = RunState()
    huge = "x" * 1_000_000
    stream: list[events.Event] = [sample_log.queued(), sample_log.started()]
    for epoch in range(1, 3001):
        stream += [
            events.Notice(level="info", code="x", message=huge),
            sample_log.eval_ended(epoch, 1 / 6 + (epoch % 2) / 6),
            sample_log.eval_ended(1, (epoch % 2) / 6),  # the best one changes all the time
            sample_log.started(resumed_step=10**6),
        ]
    state.apply_all([sample_log.envelope(seq, event) for seq, event in enumerate(stream)])
    assert len(state.notices) == 200
    assert sum(len(n.message) for _, n in state.notices) <= 200 * 4000
    assert len(state.epochs) == 3000
    assert state.best is not None
    assert state.best.test_accuracy == max(r.test_accuracy or 0 for r in state.epochs)


def test_predictions_that_unpack_to_more_than_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "UNPACKED_BYTES", 10 << 20)
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("probabilities.npy", b"\0" * (20 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(RunError, match=r"it unpacks to 0\.0 GB"):
        predictions.load(path)


# what is no file


@pytest.mark.parametrize("name", ["events.jsonl", "config.toml", "lock"])
def test_a_pipe_in_a_folder_does_not_hang_its_reader(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path, done=1, end=None)
    (run.path / name).unlink(missing_ok=True)
    os.mkfifo(run.path / name)
    follower = Follower(run)
    follower.catch_up()
    assert follower.status == "crashed"
    if name == "events.jsonl":
        assert follower.problem == "the log cannot be read: it is no file"
    if name == "config.toml":
        with pytest.raises(RunError, match="it is no file"):
            read_config(run)


def test_all_that_a_trainer_writes_into_a_run_is_looked_at(tmp_path: Path) -> None:
    run = tiny_run(tmp_path, f"data='{binary_folder(tmp_path / 'data')}'", "train.epochs=1")
    train_run(run, Control(run))
    written = {path.name for path in run.path.iterdir()}
    assert {"events.jsonl", "config.toml", "lock", "checkpoints", "predictions"} <= written
    others = {"control", "cache", "on-end.log", "traceback.txt", "launch", "ranks.log"}
    assert written | others | {".reserve", ".reserve-last"} <= OWN_FILES


@pytest.mark.parametrize("name", sorted(OWN_FILES))
def test_a_link_out_of_the_folder_is_not_written_through(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "runs", done=1, end="stopped")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "x.partial").write_text("mine")
    folders = ("checkpoints", "predictions", "cache")
    target = victim if name in folders else victim / "file"
    if target.name == "file":
        target.write_bytes((run.path / name).read_bytes() if (run.path / name).is_file() else b"a")
    before = target.read_bytes() if target.is_file() else b""
    if (run.path / name).is_dir():
        shutil.rmtree(run.path / name)
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(target)
    for act in (lambda: resubmit(run), lambda: train_run(run, Control(run), resume=True)):
        with pytest.raises(RunError, match=f"{name} is a link"):
            act()
    if name == "control":
        with pytest.raises(RunError, match="cannot send stop"):
            control.send(run, "stop")
    assert (target.read_bytes() if target.is_file() else b"") == before
    assert sorted(p.name for p in victim.iterdir() if p.name != "file") == ["x.partial"]


@pytest.mark.parametrize("name", sorted(OWN_FILES))
def test_a_pipe_in_a_folder_does_not_hang_its_trainer(tmp_path: Path, name: str) -> None:
    run = RunDir(tmp_path)
    os.mkfifo(run.path / name)
    with pytest.raises(RunError, match=f"{name} is no file: it is not written to"), run.locked():
        pass


def names(run: RunDir, net: Path) -> Path:
    """Let the run name another net, which leaves a trace when it is run; the trace."""
    trap = run.path.parent.parent / "ran"
    net.write_text(f"open({str(trap)!r}, 'w')\n{TINY_NET}")
    before = read_config(run).model.name
    for file in (run.config, run.log):
        file.write_text(file.read_text().replace(before, f"{net}:Tiny"))
    return trap


@pytest.mark.parametrize("where", ["in the run", "beside it"])
@pytest.mark.parametrize("linked", [False, True])
def test_a_net_that_came_with_a_run_is_not_run(tmp_path: Path, where: str, linked: bool) -> None:
    run = tiny_run(tmp_path / "theirs")
    trap = names(run, (run.path if where == "in the run" else run.path.parent) / "evil.py")
    if linked:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / run.id).symlink_to(run.path)
        (run,) = scan(tmp_path / "runs")
    for resume in (False, True):
        with pytest.raises(ConfigError, match="lies among the runs"):
            prepare(run, read_config(run), RunLog(run), Control(run), None, resume=resume)
    with pytest.raises(ConfigError, match="lies among the runs"):
        inspection.open_inspection(run, trusted=True)
    assert not trap.exists()


@pytest.mark.parametrize(
    ("owner", "mode", "refused"),
    [("me", 0o666, False), ("root", 0o644, False), ("root", 0o666, True), ("other", 0o600, True)],
)
def test_a_net_that_other_users_can_change_is_run_only_when_it_was_just_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    owner: str,
    mode: int,
    refused: bool,
) -> None:
    run, net = tiny_run(tmp_path), tmp_path / "net.py"
    trap = names(run, net)
    config, look = read_config(run), Path.stat
    me = {"me": net.stat().st_uid, "root": 4242, "other": 4242}[owner]
    uid = {"me": me, "root": 0, "other": 4243}[owner]

    def stat(path: Path, **options: bool) -> os.stat_result:
        found = look(path, **options)
        made = os.stat_result((0o100000 | mode, *found[1:4], uid, *found[5:]))
        return made if path.name == "net.py" else found

    monkeypatch.setattr(os, "getuid", lambda: me)
    monkeypatch.setattr(Path, "stat", stat)
    where = ("--runs-dir", str(run.path.parent))
    if not refused:
        check_owner(config)
        return
    for arguments in (("train", "--resume", run.id), ("inspect", run.id, "0")):
        assert main.run([*arguments, *where]) == 2
        assert "other users can change the net" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="give --trust-net"):
        resubmit(run)
    assert not trap.exists()
    assert resubmit(run, trust_net=True) == config


def test_a_configuration_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with run.config.open("r+b") as file:
        file.truncate(1 << 30)
    with pytest.raises(RunError, match="too long for a configuration"):
        read_config(run)


# many runs, many readers


DAMAGE: dict[str, Callable[[RunDir], object]] = {
    "No such file": lambda run: run.log.unlink(),
    "is empty": lambda run: run.log.write_bytes(b""),
    "no line of the log": lambda run: run.log.write_bytes(b"\xff\x00garbage\n" * 50),
    "it is no file": lambda run: (run.log.unlink(), run.log.mkdir()),
    "symbolic links": lambda run: (run.log.unlink(), run.log.symlink_to(run.log)),
}


def test_a_thousand_runs_of_which_ten_are_damaged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = sample_log.lines([*sample_log.whole()])
    for i in range(1000):
        folder = tmp_path / f"20261123-{i // 3600:02}{i // 60 % 60:02}{i % 60:02}-quick-{i:04x}"
        folder.mkdir()
        (folder / "events.jsonl").write_bytes(log)
    runs = scan(tmp_path)
    for i, (reason, damage) in enumerate([*DAMAGE.items(), *DAMAGE.items()]):
        damage(runs[i * 97])
        follower = Follower(runs[i * 97])
        follower.catch_up()
        assert reason in follower.problem
        assert follower.status == "crashed"
    assert main.run(["runs", "--json", "--runs-dir", str(tmp_path)]) == 0
    listed = json.loads(capfd.readouterr().out)
    assert len(listed) == 1000
    assert sum(run["problem"] is not None for run in listed) == 10
    assert main.run(["runs", "--runs-dir", str(tmp_path)]) == 0
    assert capfd.readouterr().out.count(" damaged ") == 10


def test_twenty_readers_of_one_run(tmp_path: Path) -> None:
    run = RunDir(tmp_path / sample_log.RUN)
    run.path.mkdir()
    log = RunLog(run)

    def read(_: int) -> RunState:
        follower = Follower(run)
        while follower.state.ended is None:
            follower.poll(limit=5000)
        assert follower.damaged == 0
        return follower.state

    with ThreadPoolExecutor(20) as pool:
        readers = [pool.submit(read, i) for i in range(20)]
        log.begin_attempt()
        for event in (sample_log.queued(), sample_log.started()):
            log.emit(event)
        for step in range(1, 200):
            log.emit(sample_log.progress(1, step))
        log.emit(events.RunEnded(state="completed"))
        log.close()
        states = [reader.result(60) for reader in readers]
    assert all(state == states[0] for state in states)
    assert states[0].missing == 0


def test_a_clock_that_jumps_back_makes_no_negative_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(tmp_path / sample_log.RUN)
    run.path.mkdir()
    log = RunLog(run)
    clock = [2e9]

    def back() -> float:
        clock[0] -= 3600
        return clock[0]

    monkeypatch.setattr(runlog.time, "time", back)
    log.begin_attempt()
    for event in (sample_log.queued(), sample_log.started()):
        log.emit(event)
    for step in range(1, 20):
        log.emit(sample_log.progress(1, step))
    log.close()
    follower = Follower(run)
    state = follower.catch_up()
    assert list(state.steps.elapsed) == sorted(state.steps.elapsed)
    assert 0 <= state.elapsed < 60
    assert follower.stalled is None


# the app


@pytest.mark.parametrize("keys", ["12", "13", "14", "15"])
async def test_no_screen_shows_a_control_character_or_fails_on_a_hostile_run(
    tmp_path: Path, keys: str
) -> None:
    hostile_run(tmp_path / "runs")
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(160, 50)) as pilot:
        for key in keys:
            await pilot.press(key)
            await pilot.pause(0.7)
            for y in range(50):
                line = "".join(
                    segment.text for segment in app.screen._compositor.render_strips()[y]
                )
                assert not CONTROL.search(line), f"screen {key}"


async def test_a_thousand_classes_and_odd_shapes_break_no_screen(tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(1000))
    run = make_run(tmp_path / "runs", end=None, done=1, classes=names)
    lines = [json.loads(line) for line in run.log.read_bytes().splitlines()]
    for line in lines:
        if line["event"]["kind"] == "EvalEnded":
            odd = {**line["event"], "confusion": [[1], [], [1, 2, 3]], "per_class": [None, 0.5]}
            lines.append({**line, "seq": lines[-1]["seq"] + 1, "event": {**odd, "epoch": 2}})
            break
    run.log.write_bytes(b"\n".join(json.dumps(line).encode() for line in lines) + b"\n")
    assert len(Follower(run).catch_up().evals) == 2
    app = make_app(tmp_path / "runs")
    async with app.run_test(size=(160, 50)) as pilot:
        for key in "2345":
            await pilot.press(key)
            await pilot.pause(0.7)
        assert app.is_running
