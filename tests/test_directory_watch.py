"""The kernel tells of what changes in the runs directory, or the app looks as often as ever."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.tui_helpers import append, fake_worker, held, make_run, progress, started, until
from tui.app import CifarApp
from tui.runs import directory_watch, pace
from tui.runs.directory_watch import DirectoryWatch, file_system
from tui.runs.pace import CALM_POLLS, POLL_SECONDS, REST_SECONDS

SECOND_DISK = Path("/dev/shm")  # a file system that is hardly ever that of /tmp

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


class Told:
    """A watch of two runs, and what it has told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.names: list[set[str]] = []
        self.watch = DirectoryWatch(self.names.append)

    def on(self, *runs: str) -> bool:
        """Watch these."""
        return self.watch.on(self.directory, runs)

    async def news(self) -> set[str]:
        """What was told, all of it together, once something was."""
        async with asyncio.timeout(60):
            while not self.names:
                await asyncio.sleep(0.005)
        found = set[str]().union(*self.names)
        self.names.clear()
        return found


@pytest_asyncio.fixture
async def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Told]:
    # wherever the tests are: what is tried is not the name of that
    monkeypatch.setattr(directory_watch, "file_system", lambda path: "ext4")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "events.jsonl").write_text("{}\n")
    found = Told(tmp_path)
    yield found
    found.watch.off()


async def test_who_writes_is_told_by_name(told: Told) -> None:
    assert not told.on("one", "two")  # what was before is still to be looked at
    assert told.on("one", "two")
    for name in ("one", "two"):
        with (told.directory / name / "events.jsonl").open("a") as log:
            log.write("{}\n")
        assert await told.news() == {name}
    (told.directory / "one" / "lock").touch()
    assert await told.news() == {"one"}
    (told.directory / "one" / "events.jsonl").read_text()
    await asyncio.sleep(0.05)
    assert not told.names  # the app's own reading is no news


async def test_a_new_run_is_told_and_watched_when_it_is_known(told: Told) -> None:
    told.on("one")
    (told.directory / "three").mkdir()
    assert await told.news() == set()
    assert not told.on("one", "three")
    assert told.on("one", "three")
    (told.directory / "three" / "events.jsonl").write_text("{}\n")
    assert await told.news() == {"three"}


@pytest.mark.parametrize("gone", ["one", "."])
async def test_a_folder_that_goes_is_told(told: Told, gone: str) -> None:
    told.on("one", "two")
    shutil.rmtree(told.directory / gone)
    await told.news()
    assert not told.on("two")  # and so nobody relies on it
    assert told.on("two") == (gone == "one")


async def test_more_than_the_kernel_keeps_ends_in_a_look(told: Told) -> None:
    told.on("one", "two")
    kept = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if kept > 50_000:
        pytest.skip(f"this kernel keeps {kept} events")
    logs = [os.open(told.directory / name / "events.jsonl", os.O_WRONLY) for name in ("one", "two")]
    for at in range(kept + 10):  # in turns: two of the same are kept as one
        os.write(logs[at % 2], b".")
    for log in logs:
        os.close(log)
    await told.news()
    assert not told.on("one", "two")


async def test_nothing_is_watched_where_others_may_write(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_watch, "file_system", lambda path: "nfs4")
    assert not any(told.on("one") for _ in range(3))
    monkeypatch.setattr(directory_watch, "file_system", lambda path: "ext4")
    assert not any(told.on("one") for _ in range(3))  # not asked again for the same
    told.on("one", "two")
    assert told.on("one", "two")


async def test_a_run_that_is_elsewhere_is_looked_at(told: Told) -> None:
    if not SECOND_DISK.is_dir() or SECOND_DISK.stat().st_dev == told.directory.stat().st_dev:
        pytest.skip("there is no second file system")
    (told.directory / "away").symlink_to(SECOND_DISK)
    assert not any(told.on("one", "away") for _ in range(3))


async def test_many_runs_are_watched_a_few_at_a_time(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_watch, "AT_ONCE", 1)
    assert [told.on("one", "two") for _ in range(3)] == [False, False, True]
    for name in ("one", "two"):
        (told.directory / name / "lock").touch()
        assert await told.news() == {name}


async def test_a_directory_that_cannot_be_reached_is_no_error(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(path: Path, **options: object) -> os.stat_result:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    with monkeypatch.context() as broken:
        broken.setattr(os, "stat", stale)
        broken.setattr(Path, "stat", stale)
        assert not any(told.on("one") for _ in range(3))
    assert [told.on("one") for _ in range(2)] == [False, True]


async def test_too_many_runs_are_looked_at(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_watch, "MOST", 1)
    assert not any(told.on("one", "two") for _ in range(3))


async def test_a_directory_that_comes_later_is_watched(told: Told) -> None:
    told.directory /= "later"
    assert not any(told.on() for _ in range(3))
    told.directory.mkdir()
    assert [told.on() for _ in range(2)] == [False, True]


def test_the_file_system_is_that_of_the_longest_mount(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Mount:
        def __init__(self, mountpoint: str, fstype: str) -> None:
            self.mountpoint, self.fstype = mountpoint, fstype

    (tmp_path / "home").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "home")
    mounts = [
        Mount(f"{tmp_path}/home", "nfs4"),
        Mount("/", "ext4"),
        Mount(f"{tmp_path}/ho", "xfs"),
        Mount(f"{tmp_path}/home", "fuse.sshfs"),
    ]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: mounts)
    assert file_system(tmp_path / "link") == "fuse.sshfs"
    assert file_system(tmp_path) == "ext4"


async def test_an_app_at_rest_hears_at_once_of_a_run_resumed_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_watch, "file_system", lambda path: "ext4")
    monkeypatch.setattr(pace, "STIR_SECONDS", 0.0)
    monkeypatch.setattr(pace, "REST_SECONDS", 60.0)
    runs = [make_run(tmp_path / "runs", done=2, created=at) for at in (0.0, 5.0)]
    async with CifarApp(
        tmp_path / "runs", worker_command=fake_worker(tmp_path)
    ).run_test() as pilot:
        app = pilot.app
        assert isinstance(app, CifarApp)
        await until(pilot, lambda: app.pace.seconds == 60)
        other = app.store.get(runs[0].id)
        assert other is not None
        assert app.store.current is not other
        with held(runs[0]):
            append(runs[0], started(host="elsewhere"), progress(3, 1))
            await until(pilot, lambda: other.status == "training")
            await until(pilot, lambda: app.pace.seconds == pytest.approx(POLL_SECONDS))
        await until(pilot, lambda: other.status == "crashed")
        await until(pilot, lambda: app.pace.seconds == 60)
        make_run(tmp_path / "runs", created=9.0)
        await until(pilot, lambda: len(app.store) == 3)


async def test_a_key_ends_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_watch, "file_system", lambda path: "ext4")
    monkeypatch.setattr(pace, "STIR_SECONDS", 0.0)
    make_run(tmp_path / "runs")
    async with CifarApp(
        tmp_path / "runs", worker_command=fake_worker(tmp_path)
    ).run_test() as pilot:
        app = pilot.app
        assert isinstance(app, CifarApp)
        await until(pilot, lambda: app.pace.seconds == REST_SECONDS)
        monkeypatch.setattr(pace, "STIR_SECONDS", 60.0)
        await pilot.press("down")
        assert app.pace.seconds == pytest.approx(POLL_SECONDS * CALM_POLLS)
