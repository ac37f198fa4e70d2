"""What all tests share."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from trainer.files import disk
from trainer.runs import stall

if TYPE_CHECKING:
    from trainer.data.dataset import TestData

# of tests in several processes the idle threads of one would take the cores of the others
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# started in the background or under nohup: programs under test would be deaf to these as well
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# an example may take long on a machine that has other things to do: that is no failure
settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy machine")


@pytest.fixture(autouse=True)
def no_stalls_of_old_samples(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples of running runs carry a fixed date: to the clock they have stalled for long."""
    module = request.module.__name__.rpartition(".")[2]
    if module.startswith(("test_tui_", "test_snapshots")) and module != "test_tui_alerts":
        monkeypatch.setattr(stall, "SHORTEST", float("inf"))


@pytest.fixture(autouse=True)
def words_stay_until_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message is in the corner for some seconds; a test may come to look at it later."""
    if "tui.toasts" in sys.modules:
        from tui import toasts

        monkeypatch.setattr(toasts, "SECONDS", 3600.0)
        monkeypatch.setattr(toasts, "ERROR_SECONDS", 3600.0)


@pytest.fixture(autouse=True)
def work_that_waits_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app without a processor is none without work: to Textual's pilot both use no time of it.

    After a key it goes on once for some 20 ms no processor time was used. On a loaded machine that
    may be before the key was answered.
    """
    if "textual.app" not in sys.modules:
        return
    from textual import app, pilot

    wait = pilot.wait_for_idle

    async def wait_for_idle(*seconds: float) -> None:
        ready = getattr(asyncio.get_running_loop(), "_ready", ())
        for _ in range(50):  # of 20 ms: something may be under way all the time
            await wait(*seconds)
            if not ready:
                return

    monkeypatch.setattr(pilot, "wait_for_idle", wait_for_idle)
    monkeypatch.setattr(app, "wait_for_idle", wait_for_idle)


@pytest.fixture(autouse=True, scope="session")
def nothing_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither the settings of who runs the tests, nor a place for their runs, data and caches.

    One for all tests and the processes that they start: the kernels are compiled once.
    """
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as environment:
        for name in os.environ:
            if name.startswith("CIFAR_TUI_") and name != "CIFAR_TUI_SHARED":
                environment.delenv(name)
        for kind in ("CONFIG", "DATA", "STATE", "CACHE"):
            environment.setenv(f"XDG_{kind}_HOME", str(home / kind.lower()))
        (home / "config.toml").touch()
        environment.setenv("CIFAR_TUI_CONFIG", str(home / "config.toml"))
        yield


@pytest.fixture(autouse=True, scope="session")
def the_disk_is_waited_for() -> Iterator[None]:
    """However long it takes: a test that stops a run at an event hears of it before the next one.

    A disk that is busy for a quarter of a second, or a machine that is, would else let the run go
    on meanwhile, to its end perhaps.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(disk, "PATIENCE", 60.0)
        yield


@pytest.fixture
def data_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any data set that the app looks for is on this machine."""
    from tui import datasource

    there = datasource.DataStatus(ready=True, line="there")
    monkeypatch.setattr(datasource, "look", lambda source: there)


@pytest.fixture
def runs_may_start(monkeypatch: pytest.MonkeyPatch, data_is_there: None) -> None:
    """Runs are submitted whose data is not on this machine."""
    from trainer.data.sources import Availability
    from trainer.lifecycle import admission

    ready = Availability("cifar10", True, "", "cifar10")
    monkeypatch.setattr(admission, "check_data", lambda data, data_dir=None: ready)


@pytest.fixture(scope="session")
def synthetic() -> TestData:
    """The synthetic test images."""
    from trainer.data import sources

    return sources.load_test("synthetic")


@pytest.fixture
def images_are_there(
    monkeypatch: pytest.MonkeyPatch, data_is_there: None, synthetic: TestData
) -> None:
    """The synthetic images need no loading, and the app draws them in true colour."""
    from trainer.data import sources
    from tui.widgets import image_view

    load = sources.load_test

    def load_test(source: str, data_dir: Path | None = None) -> TestData:
        return synthetic if source == "synthetic" else load(source, data_dir=data_dir)

    monkeypatch.setattr(sources, "load_test", load_test)
    monkeypatch.setattr(image_view, "color_mode", lambda app: "true")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 256 KiB, where one may be mounted."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)
