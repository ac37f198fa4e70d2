from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import config as settings
from trainer.errors import ConfigError, RunError
from trainer.lifecycle.submit import submit
from trainer.runs import rundir
from trainer.runs.follower import Follower
from trainer.runs.rundir import ID, RunDir, create, find, made_at, scan, slug

ROOT = Path(rundir.__file__).parents[2]


def test_an_id_tells_when_its_run_was_made() -> None:
    assert made_at("20251124-160000-quick-0000") == 1_764_000_000
    assert made_at("20251324-160000-quick-0000") == 0


def python(script: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


LOCK = """
import sys
from pathlib import Path
from unittest import mock
from trainer.runs.rundir import RunDir
with RunDir(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    sys.stdin.readline()
"""


@given(st.text())
def test_any_label_makes_a_folders_name(label: str) -> None:
    name = f"20261123-143005-{slug(label)}-3f9c"
    assert ID.fullmatch(name)
    assert len(name) < 80


@pytest.mark.parametrize("label", ["../../x", "/etc/passwd", "[red]x[/]", "x" * 300, "", "ä", "\0"])
def test_a_label_never_leaves_the_runs_directory(tmp_path: Path, label: str) -> None:
    run = create(tmp_path / "runs", label)
    assert run.path.parent == tmp_path / "runs"
    assert run.path.is_dir()
    assert ID.fullmatch(run.id)
    assert [r.id for r in scan(tmp_path / "runs")] == [run.id]


def test_runs_made_in_the_same_second_get_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "ALONE_SECONDS", 60.0)
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: create(tmp_path, "quick"), range(40)))
    assert len({run.id[:15] for run in runs}) == 40, "each has its own place in the order"
    assert len(scan(tmp_path)) == 40


def test_the_run_that_was_made_last_is_the_last(tmp_path: Path) -> None:
    made = []
    for label in ("z", "a", "m", "b", "y", "c"):
        made.append(create(tmp_path, label))
        assert find(tmp_path, "last") == made[-1]
    assert scan(tmp_path) == made[::-1]


def test_processes_that_submit_in_the_same_second(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from unittest import mock
from trainer.config import RunConfig
from trainer.lifecycle.submit import submit
from trainer.runs import rundir
rundir.ALONE_SECONDS = 60.0
print("ready", flush=True)
sys.stdin.readline()
for _ in range(5):
    print(submit(RunConfig(preset="quick"), Path(sys.argv[1])).id, flush=True)
"""
    processes = [python(script, tmp_path) for _ in range(3)]
    ids: list[str] = []
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        ids += process.communicate(timeout=60)[0].split()
    assert len({run[:15] for run in ids}) == 15, "each has its own place in the order"
    assert {run.id for run in scan(tmp_path)} == set(ids)
    for run in scan(tmp_path):
        state = Follower(run).catch_up()
        assert state.run == run.id
        assert state.seq == 0


def test_a_directory_that_cannot_be_locked_has_runs_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rundir, "ALONE_SECONDS", 0.0)
    with rundir._alone(tmp_path):  # and does not let go
        assert create(tmp_path, "x").path.is_dir()
    monkeypatch.setattr(rundir.fcntl, "flock", mock.Mock(side_effect=OSError(errno.EBADF, "no")))
    assert create(tmp_path, "x").path.is_dir()


def test_a_collision_takes_the_next_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr(rundir.time, "strftime", lambda *_: "20261123-143005")
    monkeypatch.setattr("secrets.token_hex", lambda _: next(names))
    assert create(tmp_path, "x").id.endswith("aaaa")
    assert create(tmp_path, "x").id.endswith("bbbb")


def test_scan_is_newest_first_and_knows_runs_from_other_things(tmp_path: Path) -> None:
    names = ["20261123-143005-quick-3f9c", "20261124-000000-a-b-0000", "20251231-235959-z-ffff"]
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "20261123-143005-file-3f9c").write_text("")
    (tmp_path / "20261123-143005-\x1b[31m-3f9c").mkdir()
    loop = tmp_path / "20261126-150000-loop-3f9c"
    loop.symlink_to(loop)
    assert [run.id for run in scan(tmp_path)] == [names[1], names[0], names[2]]
    assert scan(tmp_path / "missing") == []


def test_the_newest_run_is_the_last_wherever_the_clock_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = []
    try:
        for zone in ("UTC-14", "UTC+10"):  # made in the east, then in the west
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            ids.append(create(tmp_path, "x").id)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert ids[0][:15] <= ids[1][:15]


def test_a_new_run_is_the_last_beside_runs_that_were_named_by_local_time(tmp_path: Path) -> None:
    def stamp(seconds: float) -> str:
        return time.strftime("%Y%m%d-%H%M%S", time.gmtime(time.time() + seconds))

    wrong = f"{stamp(3e8)}-wrong-0000"  # ten years ahead: not the time of anything
    (tmp_path / wrong).mkdir()
    (tmp_path / f"{stamp(0)[:6]}99-000000-no-date-0000").mkdir()
    assert stamp(-60) < create(tmp_path, "x").id[:15] < stamp(60)
    for name in (f"{stamp(9 * 3600)}-east-0000", f"{stamp(-3600)}-old-0000"):
        (tmp_path / name).mkdir()
    first, second = create(tmp_path, "x"), create(tmp_path, "y")
    assert f"{stamp(9 * 3600 - 60)}" < first.id[:15] < second.id[:15]
    for false in tmp_path.glob("*-[wn]*-0000"):
        false.rmdir()
    assert find(tmp_path, "last") == second


def test_find(tmp_path: Path) -> None:
    for name in ("20261123-143005-quick-3f9c", "20261124-000000-late-0000"):
        (tmp_path / name).mkdir()
    assert find(tmp_path, "last").id == "20261124-000000-late-0000"
    assert find(tmp_path, "quick").id == "20261123-143005-quick-3f9c"
    assert find(tmp_path, "20261123-143005-quick-3f9c").id == "20261123-143005-quick-3f9c"
    for query in ("", "nothing", "../..", "/", "\x1b[31m"):
        with pytest.raises(RunError, match="no run") as error:
            find(tmp_path, query)
        assert "\n" not in str(error.value)
        assert "\x1b" not in str(error.value)
    with pytest.raises(RunError, match="2 runs fit '2026'"):
        find(tmp_path, "2026")
    with pytest.raises(RunError, match="no run 'last'"):
        find(tmp_path / "missing", "last")


def test_a_runs_directory_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("")
    for bad in (path, path / "below"):
        with pytest.raises(RunError, match="--runs-dir"):
            create(bad, "x")
        with pytest.raises(RunError, match="cannot read the runs directory"):
            scan(bad)


def test_a_read_only_runs_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mkdir(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(RunError, match="Permission denied; choose another with --runs-dir"):
        create(tmp_path, "x")


@pytest.mark.parametrize(
    "bad",
    [
        "../other/predictions.npz",
        "/etc/passwd",
        "predictions/../../x",
        "..",
        "out/x",
        "\0",
        "a" * 5000,
        "loop/x",
        "\udcff/../..",
    ],
)
def test_paths_of_a_log_stay_inside_the_run(tmp_path: Path, bad: str) -> None:
    run = RunDir(tmp_path / "20261123-143005-quick-3f9c")
    run.path.mkdir()
    (run.path / "out").symlink_to(tmp_path)
    (run.path / "loop").symlink_to(run.path / "loop")
    if bad == "a" * 5000:
        with suppress(RunError):
            assert run.inside(bad).parent == run.path.resolve()
        return
    with pytest.raises(RunError, match="outside the run's folder"):
        run.inside(bad)


@given(st.text(max_size=30))
def test_any_path_of_a_log_is_inside_or_refused(
    tmp_path_factory: pytest.TempPathFactory, relative: str
) -> None:
    run = RunDir(tmp_path_factory.getbasetemp() / "20261123-143005-quick-3f9c")
    with suppress(RunError):
        assert run.inside(relative).is_relative_to(run.path.resolve())


def test_ordinary_paths_are_found(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "20261123-143005-quick-3f9c")
    assert run.inside("predictions/epoch-0001-plain.npz") == run.predictions(1, "plain").resolve()
    assert run.inside("checkpoints/last.pt") == run.checkpoint("last").resolve()


def test_default_runs_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CIFAR_TUI_RUNS", str(tmp_path))
    assert rundir.default_runs_dir() == tmp_path
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR_TUI_RUNS", "here")
    assert rundir.default_runs_dir() == tmp_path / "here"
    monkeypatch.setenv("CIFAR_TUI_RUNS", "~no-such-user-here/runs")
    with pytest.raises(ConfigError, match="no home directory for ~no-such-user-here"):
        rundir.default_runs_dir()
    monkeypatch.delenv("CIFAR_TUI_RUNS")
    assert rundir.default_runs_dir().name == "runs"


# the lock


def test_lock_is_seen_from_another_process_and_lost_with_it(tmp_path: Path) -> None:
    run = submit(settings.RunConfig(preset="quick"), tmp_path)
    assert not run.is_locked()
    follower = Follower(run)
    process = python(LOCK, run.path)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    assert run.is_locked()
    follower.poll()
    assert follower.status == "queued"
    with pytest.raises(RunError, match="trained by another process"), run.locked():
        pass
    process.kill()
    process.communicate()
    assert not run.is_locked()
    follower.poll()
    assert follower.status == "crashed"
    with run.locked():
        assert run.is_locked()


def test_many_readers_do_not_keep_a_trainer_from_its_lock(tmp_path: Path) -> None:
    run = create(tmp_path, "quick")
    end = time.monotonic() + 0.3

    def look() -> None:
        while time.monotonic() < end:
            run.is_locked()

    with ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(look)
        while time.monotonic() < end:
            with run.locked():
                pass


def test_lock_within_one_process_excludes_too(tmp_path: Path) -> None:
    run = create(tmp_path, "quick")
    with run.locked(), pytest.raises(RunError), run.locked():
        pass
    with run.locked():
        assert (run.lock.stat().st_mode & 0o777) == 0o600
        assert (run.control.stat().st_mode & 0o777) == 0o600, "before somebody else makes it"


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    run = submit(settings.RunConfig(preset="quick"), tmp_path)
    run.lock.touch()
    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunError, match=r"no locks, choose another with --runs-dir"), run.locked():
        pass
    assert run.is_locked(), "its log was written just now"
    os.utime(run.log, (1, 1))
    assert not run.is_locked()


def test_half_written_files_are_swept(tmp_path: Path) -> None:
    run = create(tmp_path, "quick")
    run.checkpoint("last").parent.mkdir()
    halves = [run.path / "config.7.partial", run.checkpoint("last").with_suffix(".7.partial")]
    for half in halves:
        half.touch()
    run.config.touch()
    run.sweep()
    assert run.config.exists()
    assert not any(half.exists() for half in halves)


def test_lock_of_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "20261123-143005-quick-3f9c")
    assert not run.is_locked()
    with pytest.raises(RunError, match="cannot lock run"), run.locked():
        pass


def test_submit_writes_configuration_and_first_event(tmp_path: Path) -> None:
    config = settings.from_mapping(
        {"preset": "quick", "name": "[red]../../x[/]\x1b", "data": "synthetic"}
    )
    run = submit(config, tmp_path)
    assert settings.from_toml(run.config.read_text("utf-8")) == config
    state = Follower(run).catch_up()
    assert state.queued is not None
    assert state.queued.name == config.name
    assert settings.from_toml(state.queued.config) == config
    assert sorted(p.name for p in run.path.iterdir()) == ["config.toml", "events.jsonl"]


def test_submit_of_a_users_net_names_the_folder_after_its_class(tmp_path: Path) -> None:
    config = settings.from_mapping({"model": {"name": "../nets/my.py:MyNet"}})
    assert "-mynet-" in submit(config, tmp_path).id


@contextmanager
def somebody_else() -> Iterator[None]:
    """As another user, for whom the folders of root are those of others."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that other users can enter; those of pytest are closed to them."""
    if os.geteuid() != 0:
        pytest.skip("needs to be root to become somebody else")
    with tempfile.TemporaryDirectory(prefix="cifar-tui-test-") as name:
        folder = Path(name).resolve()
        closed = next((p for p in folder.parents if not p.stat().st_mode & stat.S_IXOTH), None)
        if closed is not None:
            pytest.skip(f"other users cannot enter {closed}")
        folder.chmod(0o755)
        yield folder


def test_a_run_of_another_user_is_live_while_its_log_grows(shared: Path) -> None:
    run = RunDir(shared / "20261123-120000-theirs-0000")
    run.path.mkdir()
    run.path.chmod(0o755)
    run.log.touch()
    with run.locked():
        with somebody_else():
            assert run.is_locked()
        os.utime(run.log, (1, 1))
        with somebody_else():
            assert not run.is_locked()


def test_a_run_that_may_not_be_entered_harms_no_other(shared: Path) -> None:
    closed = submit(settings.RunConfig(preset="quick"), shared)
    closed.path.chmod(0o700)
    partly = submit(settings.RunConfig(preset="quick"), shared)
    partly.path.chmod(0o755)
    for name in ("cache", "checkpoints"):
        (partly.path / name).mkdir(mode=0o700)
    partly.checkpoint("last").touch()
    (shared / "20261126-150000-into-0000").symlink_to(closed.path / "cache")
    with somebody_else():
        runs = {run.id: Follower(run) for run in scan(shared)}
        assert set(runs) == {closed.id, partly.id}
        for run in runs.values():
            run.catch_up()
            assert not run.run.has_checkpoint("last")
            with pytest.raises(RunError, match="cannot lock"), run.run.locked():
                pass
        assert runs[closed.id].problem == "the log cannot be read: Permission denied"
        assert runs[partly.id].state.queued is not None
    assert partly.has_checkpoint("last")
